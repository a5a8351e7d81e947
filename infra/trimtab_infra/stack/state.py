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


@dataclass(frozen=True)
class Part:
    """A process of the stack: its id, when the system started it (so that a reused id is noticed), and its log."""

    pid: int
    started: float
    log: str


@dataclass(frozen=True)
class State:
    """What a stack is made of. ``ports`` outlive its processes, so that addresses stay the same."""

    stack_id: str = field(default_factory=lambda: uuid4().hex)
    ports: dict[str, int] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)


class StateFolder:
    """The folder of one stack: ``stack.json``, and a folder for each part's own data."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
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

    def prepare(self) -> State:
        """Make the folder if it is not there, and read what it holds.

        Raises:
            ForeignState: there is a folder, and it is not ours or of another version.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ForeignState(f"{self.path} is a file; name another state folder with --state")
        if not self.file.exists() and self.path.exists() and any(self.path.iterdir()):
            raise ForeignState(
                f"{self.path} has files and is no state folder of Trimtab; name another one with --state"
            )
        for folder in (self.path, self.prefect, self.mlflow, self.store, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        # What a run leaves here is never part of the checkout it lies in.
        (self.path / ".gitignore").write_text("*\n")
        if not self.file.exists():
            self.write(State())
        return self.read()

    def read(self) -> State:
        """What the folder holds; an empty state when there is none.

        Raises:
            ForeignState: it is not ours or of another version.
        """
        if not self.file.exists():
            return State(stack_id="")
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ForeignState(
                f"{self.file} cannot be read ({type(error).__name__}: {error}); name another folder with --state"
            ) from None

    def write(self, state: State) -> None:
        """Replace the file as one step."""
        incoming = self.file.with_suffix(".new")
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
            StackBusy: another one does.
        """
        with (self.path / ".lock").open("w") as handle:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise StackBusy(f"another trimtab command is working on {self.path}; wait for it to end") from None
            yield
