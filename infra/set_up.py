"""Install this project into a virtual environment: with uv, which takes seconds, else with pip.

    python infra/set_up.py VENV [EXTRA]

pip reads its configuration (files, PIP_* variables) by itself; uv does not, so index and certificate settings are
passed on to it. Both trust the certificates of the system where nothing else is said: a company's proxy or mirror often
has one of its own authority. What was tried is said when something fails. The standard library alone is used: nothing
is installed yet.
"""

from __future__ import annotations

import ast
import os
import re
import ssl
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

#: Sections of pip's configuration that count for ``pip install``; a later one wins.
_SECTIONS = ("global", "install", ":env:")

#: Bundles of the system's certificates on Linux; elsewhere Python's own default is asked.
_BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/ca-bundle.pem")

#: What a line says that tells why there was no way to an index, more than that nothing was found there.
_REASON = re.compile(r"certificate|issuer|ssl|proxy|connect|resolve host|timed out|\b40[137]\b", re.IGNORECASE)

_OTHER_BUNDLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")


def pip_settings(listed: str) -> dict[str, str]:
    """Options of ``pip install`` by name, from what ``pip config list`` prints."""
    found: dict[str, dict[str, str]] = {section: {} for section in _SECTIONS}
    for line in listed.splitlines():
        key, equals, value = line.partition("=")
        section, _, name = key.rpartition(".")
        if equals and section in found:
            name = name.removeprefix("default-") if name == "default-timeout" else name
            found[section][name] = str(ast.literal_eval(value))
    return {name: value for section in _SECTIONS for name, value in found[section].items()}


def uv_environment(pip: Mapping[str, str], environment: Mapping[str, str]) -> dict[str, str]:
    """Variables that tell uv what pip's settings say; a variable of the user's own is left as it is."""
    indexes = [_index(each) for each in pip.get("extra-index-url", "").split() if _is_there(each)]
    links = [each for each in pip.get("find-links", "").split() if _is_there(each)]
    certificates = pip.get("cert") or next(filter(None, map(environment.get, _OTHER_BUNDLES)), "")
    proxy = pip.get("proxy", "")
    told = {
        "UV_DEFAULT_INDEX": _index(pip.get("index-url", "")),
        "UV_INDEX": " ".join(indexes),
        # pip takes the best of all indexes; uv by itself stops at the first that has the package.
        "UV_INDEX_STRATEGY": "unsafe-best-match" if indexes else "",
        "UV_FIND_LINKS": ",".join(links),
        "UV_NO_INDEX": "1" if pip.get("no-index", "").lower() in ("1", "true", "yes", "on") else "",
        "UV_INSECURE_HOST": " ".join(pip.get("trusted-host", "").split()),
        "UV_KEYRING_PROVIDER": "subprocess" if pip.get("keyring-provider") == "subprocess" else "",
        "UV_HTTP_TIMEOUT": str(int(float(pip["timeout"]))) if re.fullmatch(r"[\d.]+", pip.get("timeout", "")) else "",
        "SSL_CERT_FILE": str(Path(certificates).expanduser()) if certificates else "",
        "SSL_CLIENT_CERT": pip.get("client-cert", ""),
        "UV_SYSTEM_CERTS": "" if certificates else "1",
        "HTTPS_PROXY": proxy if "https_proxy" not in environment else "",
        "HTTP_PROXY": proxy if "http_proxy" not in environment else "",
    }
    if "UV_INDEX_URL" in environment:  # the older name
        del told["UV_DEFAULT_INDEX"]
    if "UV_EXTRA_INDEX_URL" in environment:
        del told["UV_INDEX"]
    return {name: value for name, value in told.items() if value and name not in environment}


def pip_environments(
    pip: Mapping[str, str], environment: Mapping[str, str], bundle: str | None
) -> list[tuple[str, dict[str, str]]]:
    """How pip is tried: as it is, then with the system's certificates, which pip does not read before 24.2."""
    plain: list[tuple[str, dict[str, str]]] = [("", {})]
    if bundle is None or pip.get("cert") or any(map(environment.get, _OTHER_BUNDLES)):
        return plain
    return [*plain, (f" with the certificates in {bundle}", {"PIP_CERT": bundle})]


def redacted(text: str) -> str:
    """Without the names and passwords in addresses."""
    return re.sub(r"(?<=://)[^/@\s'\"]+@", "...@", text)


def _index(address: str) -> str:
    """A folder as an address, since uv takes no path here."""
    return Path(address).absolute().as_uri() if address.startswith(("/", "./", "../")) else address


def _is_there(address: str) -> bool:
    """A folder that is missing is ignored by pip, and an error to uv."""
    parts = urlsplit(address)
    if parts.scheme not in ("", "file"):
        return True
    return Path(unquote(parts.path)).expanduser().exists()


def _system_bundle() -> str | None:
    named = (*_BUNDLES, ssl.get_default_verify_paths().cafile or "")
    return next((bundle for bundle in named if bundle and Path(bundle).is_file()), None)


class SetUp:
    """Tries one way after another, and remembers what was tried."""

    def __init__(self, venv: Path, project: str) -> None:
        self._bin = venv / ("Scripts" if os.name == "nt" else "bin")
        self._project = project
        self._constraint = ("--constraint", "constraints.txt")
        self._tried: list[str] = []
        listed = self._call([*self._pip, "config", "list"]).stdout
        self._settings = pip_settings(listed)

    def run(self) -> int:
        """Install; 0 if it is done."""
        ways = pip_environments(self._settings, os.environ, _system_bundle())
        if any(self._attempt(f"pip install uv{how}", self._install("uv"), more) for how, more in ways):
            told = uv_environment(self._settings, os.environ)
            names = ", ".join(sorted(told)) or "nothing more"
            command = [str(self._bin / "uv"), "pip", "install", "--python", str(self._python)]
            command += ["--compile-bytecode", *self._constraint, "--editable", self._project]
            if self._attempt(f"uv pip install (told by pip's settings: {names})", command, told):
                return 0
        for how, more in ways:
            if self._attempt(f"pip install{how}", self._install("--editable", self._project), more):
                _say("pip has installed it.")
                return 0
        _say("Nothing is installed. Tried:")
        for each in self._tried:
            _say(f"- {each}")
        _say(
            "Is there a way to a package index? `pip config list` shows which one is set; pip's index-url, cert, "
            "trusted-host and proxy (pip.conf or PIP_* variables) reach uv too, and a UV_* variable wins over them."
        )
        return 1

    @property
    def _python(self) -> Path:
        return self._bin / "python"

    @property
    def _pip(self) -> list[str]:
        return [str(self._python), "-m", "pip", "--disable-pip-version-check"]

    def _install(self, *what: str) -> list[str]:
        return [*self._pip, "install", *self._constraint, *what]

    def _attempt(self, said: str, command: Sequence[str], more: Mapping[str, str]) -> bool:
        done = self._call(command, more)
        if done.returncode == 0:
            return True
        lines = [line.strip() for line in redacted(done.stdout + done.stderr).splitlines() if line.strip()]
        reasons = [line for line in lines if _REASON.search(line)] or lines
        self._tried.append(f"{said}: {reasons[-1][:400] if reasons else f'exit code {done.returncode}'}")
        _say(f"{said} failed:")
        for line in lines[-8:]:
            _say(f"    {line[:400]}")
        return False

    def _call(self, command: Sequence[str], more: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                command, env={**os.environ, **more}, capture_output=True, text=True, errors="replace", check=False
            )
        except OSError as error:
            return subprocess.CompletedProcess(command, 127, "", f"error: {command[0]}: {error.strerror}")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")


def main(arguments: Sequence[str]) -> int:
    """Arguments: the virtual environment, and the extra to install."""
    if not 1 <= len(arguments) <= 2:
        _say("usage: python infra/set_up.py VENV [EXTRA]")
        return 2
    venv, extra = Path(arguments[0]), "".join(arguments[1:])
    return SetUp(venv, f".[{extra}]" if extra else ".").run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
