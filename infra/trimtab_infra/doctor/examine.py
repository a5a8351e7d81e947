"""All checks, in order: this machine first, then what it speaks to."""

from __future__ import annotations

import os
from collections.abc import Iterator

from trimtab_blocks.settings import SettingError, Settings, read
from trimtab_infra.doctor import backing, host, packages
from trimtab_infra.doctor.findings import Finding, fault, note, safely
from trimtab_infra.errors import StackDown
from trimtab_infra.stack.stack import Stack

__all__ = ["examine"]


def examine(stack: Stack) -> Iterator[Finding]:
    """Look at everything; a finding comes as soon as it is known.

    Args:
        stack: the embedded stack, which is looked at unless the settings say production.
    """
    environment = dict(os.environ)
    try:
        settings = read()
    except SettingError as error:
        yield fault("settings", str(error), "correct it; infra/SETTINGS.md has all of them")
        return
    yield from safely("settings", lambda: host.settings_known(environment))
    yield from safely("packages", packages.look)
    yield from safely("byte code", lambda: host.bytecode(environment, settings.stack == "embedded"))
    yield from safely("disk", lambda: host.disk(settings))
    yield from safely("gpu", host.gpus)
    yield from safely("postgresql", lambda: backing.databases(environment))
    yield from safely("redis", lambda: backing.redis(environment))
    yield from safely("stack", lambda: _servers(settings, stack))


def _servers(settings: Settings, stack: Stack) -> Iterator[Finding]:
    if settings.stack == "embedded":
        states = {part.title: part.state for part in stack.status()}
        if set(states.values()) == {"stopped"}:
            yield note("stack", f"the embedded one of {stack.folder.path} is not running", "trimtab up starts it")
            return
        try:
            os.environ.update(stack.environment())
        except StackDown as error:
            yield fault("stack", str(error).split(";")[0], "trimtab up starts what is missing")
            return
    # Imported here: these read Prefect's settings, and take seconds.
    import mlflow
    import prefect
    from prefect.settings import get_current_settings

    from trimtab_flows import runtime
    from trimtab_infra.doctor import services

    api = get_current_settings().api
    if not api.url:
        yield fault("prefect", "no server is named", "set PREFECT_API_URL, for example http://prefect:4200/api")
        return
    auth = api.auth_string.get_secret_value() if api.auth_string else None
    found = list(safely("prefect", lambda: services.prefect(api.url or "", auth, prefect.__version__)))
    yield from found
    if any(one.verdict == "FAULT" and one.part == "prefect" for one in found):
        yield note("mlflow, store", "not looked at: where they are is in blocks of the Prefect server")
        return
    user = os.environ.get("MLFLOW_TRACKING_USERNAME")
    login = (user, os.environ.get("MLFLOW_TRACKING_PASSWORD", "")) if user else None
    yield from safely("mlflow", lambda: services.mlflow(runtime.connect_mlflow(), login, mlflow.__version__))
    yield from safely("store", lambda: services.store(runtime.store()))
