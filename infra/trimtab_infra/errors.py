"""What the command line may say and leave with.

TrimtabError (Exception)
├── UserError                exit 2: what was asked cannot be done as asked; the message says what to do
│   ├── ForeignState         the state folder is not ours, or of another version
│   ├── PortTaken            a port that was asked for is in use
│   │   └── PortLost         another program was faster to take a port that was free
│   ├── StackBusy            another command is working on this stack
│   ├── StackDown            the stack is not up
│   └── NoProject            no prefect.yaml where deployments should come from
└── PartFailed               exit 1: a part of the stack did not start
"""

from __future__ import annotations

__all__ = [
    "ForeignState",
    "NoProject",
    "PartFailed",
    "PortLost",
    "PortTaken",
    "StackBusy",
    "StackDown",
    "TrimtabError",
    "UserError",
]


class TrimtabError(Exception):
    """Anything this package refuses or fails at, with a message for a person."""


class UserError(TrimtabError):
    """What was asked cannot be done as asked."""


class ForeignState(UserError):
    """A state folder that this version did not make."""


class PortTaken(UserError):
    """A port that was asked for is in use."""


class PortLost(PortTaken):
    """A port was free, and another program took it before our part did."""


class StackBusy(UserError):
    """Another command is working on this stack."""


class StackDown(UserError):
    """The stack is not up."""


class NoProject(UserError):
    """A folder without a prefect.yaml."""


class PartFailed(TrimtabError):
    """A part of the stack that did not start; the message ends with the last lines of its log."""
