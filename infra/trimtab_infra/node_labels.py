"""Labels of a Kubernetes node, as a worker on it wants them: `python -m trimtab_infra.node_labels > labels`.

Kubernetes' downward API gives a pod its node's name and not its labels. An init container of the worker's pod asks the
API server for them, with a token that only it has, and leaves them for the worker as TRIMTAB_NODE_LABELS.

Settings, of the environment:
    NODE_NAME: the node (downward API, ``spec.nodeName``)
    TRIMTAB_LABELS_FROM: labels to hand on, comma separated; ``*`` at the end stands for any ending, and ``NAME=SHORT``
        renames (``topology.kubernetes.io/region=region,nvidia.com/gpu.*,trimtab.dev/*``)

This file uses the standard library only, so that it starts in a tenth of a second.
"""

from __future__ import annotations

import json
import os
import ssl
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path

__all__ = ["NodeLabelsError", "hand_on", "main", "read_node"]

#: Where Kubernetes puts a service account's token and the API server's certificate.
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")

USUAL = (
    "topology.kubernetes.io/region=region,topology.kubernetes.io/zone=zone,"
    "node.kubernetes.io/instance-type,trimtab.dev/*"
)

#: How often and with which pauses an API server that is away is asked.
TRIES, PAUSE_S, TIMEOUT_S = 5, 2.0, 10.0


class NodeLabelsError(RuntimeError):
    """The labels cannot be had; the text says why and what to do."""


def hand_on(labels: Mapping[str, str], wanted: str) -> str:
    """The wanted labels as ``key=value,key=value``, sorted.

    Labels without a value are left out: TRIMTAB_NODE_LABELS has none such. Where two labels get one short name, they
    must agree.

    Raises:
        NodeLabelsError: a rule is not written as it must be, or two labels contradict each other.
    """
    found: dict[str, str] = {}
    for rule in (part.strip() for part in wanted.split(",") if part.strip()):
        name, renamed, short = rule.partition("=")
        if not name or (renamed and (not short or name.endswith("*"))):
            raise NodeLabelsError(f"TRIMTAB_LABELS_FROM: {rule!r} must be NAME, NAME=SHORT or BEGINNING*")
        for key, value in labels.items():
            matches = key.startswith(name[:-1]) if name.endswith("*") else key == name
            if not matches or not value:
                continue
            as_key = short or key
            if found.get(as_key, value) != value:
                raise NodeLabelsError(
                    f"label {as_key!r} would be both {found[as_key]!r} and {value!r}; rename one of them"
                )
            found[as_key] = value
    return ",".join(f"{key}={value}" for key, value in sorted(found.items()))


def read_node(name: str, server: str, account: Path) -> dict[str, str]:
    """Labels of a node, from the API server.

    Raises:
        NodeLabelsError: the server cannot be reached, does not know the node, or does not let this account read it.
    """
    try:
        token = (account / "token").read_text().strip()
        context = ssl.create_default_context(cafile=str(account / "ca.crt"))
    except OSError as error:
        raise NodeLabelsError(
            f"no token of a service account in {account} ({error}); mount one into this container"
        ) from error
    request = urllib.request.Request(f"{server}/api/v1/nodes/{name}", headers={"Authorization": f"Bearer {token}"})
    last: Exception | None = None
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
                labels = json.load(answer).get("metadata", {}).get("labels", {})
                return {str(key): str(value) for key, value in labels.items()}
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                raise NodeLabelsError(
                    f"the account of this pod may not read node {name} (HTTP {error.code}); "
                    "it needs a ClusterRole with get on nodes"
                ) from error
            if error.code == 404:
                raise NodeLabelsError(f"there is no node {name}; NODE_NAME must come from spec.nodeName") from error
            last = error
        except (OSError, ValueError) as error:
            last = error
    raise NodeLabelsError(f"the API server at {server} did not answer in {TRIES} tries: {last}")


def main() -> int:
    """Print the labels; exit code 2 with one line on standard error where they cannot be had."""
    try:
        name = os.environ.get("NODE_NAME") or ""
        if not name:
            raise NodeLabelsError("NODE_NAME is not set; set it from spec.nodeName")
        host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
        server = f"https://{f'[{host}]' if ':' in host else host}:{os.environ.get('KUBERNETES_SERVICE_PORT', '443')}"
        account = Path(os.environ.get("TRIMTAB_ACCOUNT_DIR") or ACCOUNT)
        labels = read_node(name, server, account)
        sys.stdout.write(hand_on(labels, os.environ.get("TRIMTAB_LABELS_FROM", USUAL)) + "\n")
    except NodeLabelsError as error:
        sys.stderr.write(f"node labels: {error}\n")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
