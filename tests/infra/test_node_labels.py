"""Which labels of a Kubernetes node reach its worker."""

from __future__ import annotations

from pathlib import Path

import pytest

from trimtab_infra.node_labels import USUAL, NodeLabelsError, hand_on, main
from trimtab_work_pools.inventory.host import parse_labels

LABELS = {"topology.kubernetes.io/region": "eu-1", "trimtab.dev/tier": "gold", "trimtab.dev/empty": "", "other": "x"}


def test_wanted_labels_are_handed_on_as_the_worker_reads_them() -> None:
    text = hand_on(LABELS, USUAL)
    assert text == "region=eu-1,trimtab.dev/tier=gold"
    assert parse_labels([], {"TRIMTAB_NODE_LABELS": text}) == {"region": "eu-1", "trimtab.dev/tier": "gold"}


@pytest.mark.parametrize("rule", ["=x", "a*=b", "a="])
def test_rules_that_mean_nothing_are_refused(rule: str) -> None:
    with pytest.raises(NodeLabelsError, match="must be NAME"):
        hand_on(LABELS, rule)


def test_labels_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(NodeLabelsError, match="would be both"):
        hand_on(LABELS, "topology.kubernetes.io/region=a,other=a")


def test_no_token_is_said_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("NODE_NAME", "n")
    monkeypatch.setenv("TRIMTAB_ACCOUNT_DIR", str(tmp_path))
    assert main() == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
