"""How runs of this host ended, where that could not be told to the server: kept until it is delivered.

One small file a run, beside the claims: it outlives the run and its worker. A run that is in here has ended, whatever
the server says of it, and is never run again.
"""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

__all__ = ["FOLDER", "Outbox", "Outcome"]

FOLDER = "outbox"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended. `claim_id`: of the claim it ran by. `run_count`: how often it had been started by then.
    `state`: its final state, as the server takes it. `server`: the address of its API.
    """

    run_id: str
    claim_id: str
    run_count: int
    server: str
    state: dict[str, Any]


class Outbox:
    """In the folder of the host's claims."""

    def __init__(self, host_dir: Path) -> None:
        self._folder = host_dir / FOLDER

    def put(self, outcome: Outcome) -> None:
        """Written to the disk, not only to its cache. Raises OSError."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = self._folder / f"{outcome.run_id}.json"
        draft = path.with_suffix(f".{os.getpid()}")
        try:
            with draft.open("w") as file:
                json.dump(asdict(outcome), file)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def all(self, server: str) -> list[Outcome]:
        """What is to be delivered to that server; what cannot be read is left where it is."""
        found = []
        with contextlib.suppress(OSError):
            for path in sorted(self._folder.glob("*.json")):
                with contextlib.suppress(OSError, ValueError, TypeError):
                    found.append(Outcome(**json.loads(path.read_text())))
        return [one for one in found if one.server == server.rstrip("/")]

    def of(self, server: str, run_id: str) -> Outcome | None:
        """Of this run, if it is in here."""
        return next((one for one in self.all(server) if one.run_id == run_id), None)

    def delivered(self, run_id: str) -> None:
        """It need not be kept any more. Where it cannot be taken away it is delivered once more, which changes
        nothing.
        """
        with contextlib.suppress(OSError):
            (self._folder / f"{run_id}.json").unlink(missing_ok=True)
