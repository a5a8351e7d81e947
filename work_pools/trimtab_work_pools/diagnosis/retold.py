"""Errors that only tell of another one: what launchers, pools and other ranks say when a process has failed. Pure."""

from __future__ import annotations

import re

__all__ = ["retold"]

_RETOLD = re.compile(
    # Prefect
    r"\d+/\d+ states? (?:failed|are not final)|MissingResult|UnfinishedRun|UpstreamTaskError|\bFailedRun\b|CrashedRun"
    r"|Crash detected|Finished in state (?:Failed|Crashed)"
    # launchers and pools
    r"|ChildFailedError|ProcessRaisedException|ProcessExitedException|CalledProcessError|SubprocessError"
    r"|returned non-zero exit status|exited with (?:status |exit ?)?code|exited unexpectedly|died unexpectedly"
    r"|BrokenProcessPool|BrokenExecutor|TerminatedWorkerError|terminated abruptly|worker process died"
    r"|sub-?process (?:failed|died)|RayTaskError|RayActorError|WorkerCrashedError|KilledWorker|ActorDiedError"
    r"|TrialFailed|TuneError|TrainingFailedError|RuntimeError: Failed to (?:start|run|train)|SystemExit"
    # servers of models
    r"|see root cause above|Look at the errors above|See above for|EngineDeadError|EngineCore\w* (?:failed|init)"
    r"|Engine core init|engine process failed"
    # what the others see of a rank or a child that has gone
    r"|ncclRemoteError|remote process exit|NCCL communicator was aborted|DistBackendError|DistNetworkError"
    r"|Connection (?:reset|closed) by|Broken pipe|EOFError|ProcessGroup|collective operation timeout|Watchdog caught"
    r"|CancelledError|BrokenResourceError|BrokenBarrierError|ExceptionGroup|SimplifiedTraceback",
)


def retold(text: str) -> bool:
    """The cause lies before this error, or there is none to be found."""
    return _RETOLD.search(text) is not None
