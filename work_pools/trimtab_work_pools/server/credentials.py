"""What this process shows the Prefect server, read again from where it came from when the server refuses it.

A server that is started again with another auth string is away for those that have the old one: what runs goes on, and
nothing is given up. The new string is looked for in TRIMTAB_API_AUTH_STRING (which may be a file in the folder of
secrets, or in trimtab.toml), then where Prefect looks: its environment variable, .env, prefect.toml, the profile.
"""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass

from prefect.logging import get_logger
from prefect.settings import Settings
from prefect.settings.context import get_current_settings
from pydantic import SecretStr

from trimtab_blocks.settings import SettingError
from trimtab_blocks.settings import read as read_settings

__all__ = ["CREDENTIALS", "Credentials", "refused_text"]

_VARIABLE = "PREFECT_API_AUTH_STRING"


def refused_text(status: int, url: str) -> str:
    """For people: what was refused, and what to do."""
    return (
        f"the Prefect server at {url} refuses the credentials ({status}): put the right string into {_VARIABLE} of the "
        f"environment or the Prefect profile, or into a file trimtab_api_auth_string in TRIMTAB_SECRETS_DIR, which is "
        "read again while a worker runs"
    )


@dataclass
class Credentials:
    """Of this process. `refused`: the server has refused them last, and they are looked for again at each request.
    `silent`: nothing is said of that here, for the worker says it.
    """

    refused: bool = False
    silent: bool = False

    def begin(self) -> None:
        """Trimtab's own setting, if there is one, is the one that counts."""
        self.other_than("")

    def other_than(self, header: str) -> str | None:
        """The value of the header Authorization to try, if what is found now is not `header`."""
        string = _found()
        if not string:
            return None
        token = base64.b64encode(string.encode()).decode()
        if f"Basic {token}" == header:
            return None
        get_current_settings().api.auth_string = SecretStr(string)  # of clients that are made from now on
        if _VARIABLE in os.environ:
            os.environ[_VARIABLE] = string  # of runs that are started from now on
        return f"Basic {token}"

    def was_refused(self, status: int, url: str) -> None:
        """Said once, until they are accepted again."""
        if not self.refused and not self.silent:
            self.refused = True
            get_logger("trimtab.worker").error("What runs goes on, but %s", refused_text(status, url))

    def was_accepted(self) -> None:
        """The server has answered."""
        if self.refused:
            self.refused = False
            get_logger("trimtab.worker").info("The Prefect server accepts the credentials again")


CREDENTIALS = Credentials()


def _found() -> str:
    try:
        own = read_settings().api_auth_string
        if own is not None:
            return own.get_secret_value()
        theirs = Settings().api.auth_string
    except (SettingError, ValueError):
        return ""  # half written; it is read again
    return theirs.get_secret_value() if theirs is not None else ""
