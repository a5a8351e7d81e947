"""What a forked process does before the engine runs: it becomes what a new interpreter would have been."""

from __future__ import annotations

import locale
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import FrameType

from trimtab_work_pools.host.process_tree import MARK
from trimtab_work_pools.host.run_groups import RunGroup
from trimtab_work_pools.launchers import prefect_hooks
from trimtab_work_pools.launchers.mark import write_mark
from trimtab_work_pools.launchers.protocol import Order

__all__ = ["SetUpFailed", "read_only_at_start", "search_path", "set_up"]

#: Read when the dynamic linker or the C library starts; a running process cannot take them on.
_AT_START = ("LD_", "LC_")

#: The same of the interpreter (docs.python.org/3/using/cmdline.html), but for those that `set_up` applies
#: (PYTHONPATH, PYTHONUNBUFFERED, PYTHONDONTWRITEBYTECODE, PYTHONPYCACHEPREFIX, PYTHONSAFEPATH).
_AT_START_NAMES = frozenset(
    {
        "LANG",
        "LANGUAGE",
        "GLIBC_TUNABLES",
        "PYTHONHOME",
        "PYTHONPLATLIBDIR",
        "PYTHONHASHSEED",
        "PYTHONOPTIMIZE",
        "PYTHONDEBUG",
        "PYTHONVERBOSE",
        "PYTHONINSPECT",
        "PYTHONNOUSERSITE",
        "PYTHONUSERBASE",
        "PYTHONWARNINGS",
        "PYTHONFAULTHANDLER",
        "PYTHONTRACEMALLOC",
        "PYTHONMALLOC",
        "PYTHONMALLOCSTATS",
        "PYTHONUTF8",
        "PYTHONCOERCECLOCALE",
        "PYTHONDEVMODE",
        "PYTHONIOENCODING",
        "PYTHONINTMAXSTRDIGITS",
        "PYTHONNODEBUGRANGES",
        "PYTHONWARNDEFAULTENCODING",
        "PYTHONPROFILEIMPORTTIME",
        "PYTHONPERFSUPPORT",
        "PYTHON_CPU_COUNT",
        "PYTHON_FROZEN_MODULES",
        "PYTHON_GIL",
    }
)

#: Dispositions of a new interpreter, where they are not the system's default.
_HANDLERS: dict[int, Callable[[int, FrameType | None], object] | signal.Handlers] = {
    signal.SIGINT: signal.default_int_handler,
    signal.SIGPIPE: signal.SIG_IGN,
    signal.SIGXFSZ: signal.SIG_IGN,
}


class SetUpFailed(Exception):
    """A process could not become what it was to be; the text says what was wrong, and where."""


def read_only_at_start(asked: Mapping[str, str], own: Mapping[str, str]) -> tuple[str, ...]:
    """Names of variables that only a new interpreter can honour, where a run's values are not the parent's."""
    names = {name for name in (*asked, *own) if name.startswith(_AT_START) or name in _AT_START_NAMES}
    return tuple(sorted(name for name in names if asked.get(name) != own.get(name)))


def search_path(now: list[str], own: str, asked: str, cwd: str, safe: bool) -> list[str]:
    """Where a run finds modules: its working directory, its PYTHONPATH, then what is installed.

    Args:
        now: the parent's path, which begins with its own PYTHONPATH and has no working directory (`python -P`).
        own: the parent's PYTHONPATH. asked: the run's. cwd: the run's working directory.
        safe: whether the run wants no working directory on its path (PYTHONSAFEPATH).
    """
    of_parent = set(_folders(own))
    return [*([] if safe else [cwd]), *_folders(asked), *(place for place in now if place not in of_parent)]


def _folders(python_path: str) -> list[str]:
    return [str(Path(place).absolute()) for place in python_path.split(os.pathsep) if place]


def set_up(order: Order, stdio: Mapping[str, int]) -> None:
    """Become the process of a run. All signals are blocked when this is called, and none when it returns.

    Args:
        order: environment and working directory.
        stdio: descriptors that take the place of stdout and stderr.

    Raises:
        SetUpFailed: the working directory, the environment or Prefect's settings in it cannot be used.
    """
    os.setsid()
    if order.group:
        RunGroup(Path(order.group)).enter(os.getpid())
    write_mark(order.env.get(MARK, ""))
    _signals()
    # Shown by ps and top, where all runs would have the parent's name.
    with suppress(OSError):
        Path("/proc/self/comm").write_text(f"run {order.flow_run_id[:8]}")
    for name, fd in stdio.items():
        os.dup2(fd, {"stdout": 1, "stderr": 2}[name])
    own_python_path = os.environ.get("PYTHONPATH", "")
    try:
        os.chdir(order.cwd)
    except OSError as wrong:
        raise SetUpFailed(f"working directory {order.cwd}: {wrong.strerror}") from wrong
    _environment(order.env)
    _interpreter(order, own_python_path)
    _reseed()
    try:
        prefect_hooks.rebuild()
    except (Exception, SystemExit) as wrong:
        raise SetUpFailed(f"Prefect does not accept the environment: {wrong}") from wrong


def _signals() -> None:
    """A new interpreter's handlers, nothing blocked, nothing ignored that the parent ignores."""
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
        # The C library keeps two real-time signals to itself.
        with suppress(OSError, ValueError):
            signal.signal(number, _HANDLERS.get(number, signal.SIG_DFL))
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _environment(env: Mapping[str, str]) -> None:
    os.environ.clear()
    try:
        os.environ.update(env)
    except (OSError, ValueError) as wrong:
        raise SetUpFailed(f"environment: {wrong}") from wrong
    time.tzset()


def _interpreter(order: Order, own_python_path: str) -> None:
    """What the interpreter reads from the environment when it starts, and can be changed later."""
    env = order.env
    asked = env.get("PYTHONPATH", "")
    sys.path[:] = search_path(sys.path, own_python_path, asked, str(Path.cwd()), bool(env.get("PYTHONSAFEPATH")))
    sys.path_importer_cache.clear()
    sys.dont_write_bytecode = bool(env.get("PYTHONDONTWRITEBYTECODE"))
    sys.pycache_prefix = env.get("PYTHONPYCACHEPREFIX") or None
    with suppress(locale.Error):
        locale.setlocale(locale.LC_CTYPE, "")
    unbuffered = bool(env.get("PYTHONUNBUFFERED"))
    sys.stdout.reconfigure(line_buffering=sys.stdout.isatty(), write_through=unbuffered)  # type: ignore[union-attr]
    sys.stderr.reconfigure(line_buffering=True, write_through=unbuffered)  # type: ignore[union-attr]


def _reseed() -> None:
    """No two runs have the same random numbers; torch needs none of this, it starts from a constant."""
    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
