"""What can go wrong when a run is launched.

LaunchError (RuntimeError)
+-- LaunchRefused (ValueError)          the order is wrong: environment, working directory; nothing was started
|   +-- NeedsFreshInterpreter           only a new interpreter can honour it: start `python -m prefect.engine`
+-- ParentUnfit                         the parent process cannot fork safely, or did not start
+-- LaunchFailed                        the run's process died, or could not be made, before the engine began
"""

from __future__ import annotations

__all__ = ["LaunchError", "LaunchFailed", "LaunchRefused", "NeedsFreshInterpreter", "ParentUnfit"]


class LaunchError(RuntimeError):
    """A run was not launched. No flow code has run; the same run may be launched again, in another way."""


class LaunchRefused(LaunchError, ValueError):
    """The environment or the working directory cannot be used."""


class NeedsFreshInterpreter(LaunchRefused):
    """The environment sets variables that are read only when an interpreter or the dynamic linker starts."""

    def __init__(self, names: tuple[str, ...]) -> None:
        super().__init__(
            f"{', '.join(names)}: read only when an interpreter starts, and other than in the parent process; "
            "start this run as a fresh process (python -m prefect.engine), or give the worker the same value"
        )
        self.names = names


class ParentUnfit(LaunchError):
    """The parent cannot fork safely (threads, sockets, a GPU in use), or it did not start."""


class LaunchFailed(LaunchError):
    """The operating system made no process, or the process ended before the engine began."""
