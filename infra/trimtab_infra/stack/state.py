"""The state folder: what the stack is made of, in one file that every command reads."""

from __future__ import annotations

import fcntl
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from uuid import uuid4

from trimtab_infra.errors import ForeignState, StackBusy

__all__ = ["FORMAT", "Part", "State", "StateFolder"]

#: Of the state folder. A version of Trimtab reads its own only.
FORMAT = 1

_LOCK, _INCOMING = ".lock", "stack.new"


@dataclass(frozen=True)
class Part:
    """A process of the stack: its id, when the system started it, and its log. ``ticks`` and ``boot_id`` say whose the
    id is, where the kernel tells: a time of day would not do after a step of the clock.
    """

    pid: int
    started: float
    log: str
    ticks: int = 0
    boot_id: str = ""


@dataclass(frozen=True)
class State:
    """What a stack is made of. ``ports`` outlive its processes, so that addresses stay the same."""

    stack_id: str = field(default_factory=lambda: uuid4().hex)
    ports: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)


class StateFolder:
    """The folder of one stack: ``stack.json``, and a folder for each part's own data."""

    def __init__(self, path: Path) -> None:
        # Resolved, so that a link to a larger disk can be wiped as well.
        self.path = path.resolve()
        self.file = self.path / "stack.json"

    @property
    def prefect(self) -> Path:
        """Prefect's home: its database, its task results."""
        return self.path / "prefect"

    @property
    def mlflow(self) -> Path:
        """MLflow's database and artifacts."""
        return self.path / "mlflow"

    @property
    def store(self) -> Path:
        """Snapshots, lineage, manifests."""
        return self.path / "store"

    @property
    def logs(self) -> Path:
        """One log a part."""
        return self.path / "logs"

    def claim(self) -> None:
        """Make the folder if it is not there.

        Raises:
            ForeignState: there is one, and it is not ours, or none can be made.
        """
        try:
            if not self.file.exists() and self.path.exists():
                # What a first command that was killed at once leaves, is ours.
                foreign = [entry.name for entry in self.path.iterdir() if entry.name not in (_LOCK, _INCOMING)]
                if foreign:
                    raise ForeignState(
                        f"{self.path} has files and is no state folder of Trimtab; name another one with --state"
                    )
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def prepare(self) -> State:
        """Make what is missing in the folder, and read what it holds. To be called with the lock held.

        Raises:
            ForeignState: it is of another version, or cannot be written.
        """
        try:
            if not self.file.exists():
                self.write(State())
            state = self.read()
            for folder in (self.prefect, self.mlflow, self.store, self.logs):
                folder.mkdir(exist_ok=True)
            # What a run leaves here is never part of the checkout it lies in.
            (self.path / ".gitignore").write_text("*\n")
        except OSError as error:
            raise self._unusable(error) from None
        return state

    def _unusable(self, error: OSError) -> ForeignState:
        reason = error.strerror or type(error).__name__
        return ForeignState(f"{self.path} cannot be a state folder ({reason}); name another one with --state")

    def read(self) -> State:
        """What the folder holds; an empty state when there is none.

        Raises:
            ForeignState: it is not ours or of another version.
        """
        try:
            fields = json.loads(self.file.read_text())
            found = fields.pop("format")
            if found != FORMAT:
                raise ForeignState(
                    f"{self.path} was made by another version of Trimtab (format {found}, this one reads {FORMAT}): "
                    "use that version, or another folder with --state"
                )
            parts = {name: Part(**part) for name, part in fields.pop("parts").items()}
            return State(parts=parts, **fields)
        except (FileNotFoundError, NotADirectoryError):
            return State(stack_id="")
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForeignState(
                f"{self.file} cannot be read ({type(error).__name__}: {error}); name another folder with --state"
            ) from None

    def write(self, state: State) -> None:
        """Replace the file as one step."""
        incoming = self.path / _INCOMING
        incoming.write_text(json.dumps({"format": FORMAT, **asdict(state)}, indent=1))
        incoming.replace(self.file)

    def wipe(self) -> None:
        """Remove the folder and all it holds.

        Raises:
            ForeignState: it is not ours.
        """
        if not self.path.exists():
            return
        if not self.file.exists():
            raise ForeignState(f"{self.path} is no state folder of Trimtab and is left alone")
        shutil.rmtree(self.path)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Only one command at a time changes a stack.

        Raises:
            StackBusy: another one does. ForeignState: the folder cannot be written.
        """
        try:
            handle = (self.path / _LOCK).open("w")
        except OSError as error:
            raise self._unusable(error) from None
        with handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackBusy(f"another trimtab command is working on {self.path}; wait for it to end") from None
            yield
