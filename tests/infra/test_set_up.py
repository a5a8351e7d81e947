"""Setting up behind a company's mirror: an index of its own, over TLS, with a certificate of its own authority."""

from __future__ import annotations

import base64
import datetime
import functools
import http.server
import importlib.util
import ipaddress
import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

ROOT = Path(__file__).parent.parent.parent
UV = Path(sys.executable).parent / "uv"

spec = importlib.util.spec_from_file_location("set_up", ROOT / "infra/set_up.py")
assert spec is not None
assert spec.loader is not None
set_up = importlib.util.module_from_spec(spec)
spec.loader.exec_module(set_up)

pytestmark = pytest.mark.skipif(not UV.is_file(), reason="uv is not installed here")

#: A project whose build needs nothing, and that needs one package.
PROJECT = {
    "pyproject.toml": """
[project]
name = "small"
version = "1"
dependencies = ["sample"]
optional-dependencies = { dev = [] }

[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
""",
    "backend.py": """
import zipfile

ABOUT = "Metadata-Version: 2.1\\nName: small\\nVersion: 1\\nRequires-Dist: sample\\nProvides-Extra: dev\\n"

def build_editable(folder, config_settings=None, metadata_directory=None):
    with zipfile.ZipFile(folder + "/small-1-py3-none-any.whl", "w") as wheel:
        wheel.writestr("small-1.dist-info/METADATA", ABOUT)
        wheel.writestr("small-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr("small-1.dist-info/RECORD", "")
    return "small-1-py3-none-any.whl"

build_wheel = build_editable
""",
    "constraints.txt": "sample==1\n",
}

#: A uv that cannot install.
BROKEN = b"#!/bin/sh\necho 'error: invalid peer certificate: UnknownIssuer' >&2\nexit 2\n"


@dataclass(frozen=True)
class Index:
    """An index that serves ``uv`` and ``sample`` over TLS, and what its authority's certificate is."""

    url: str
    host: str
    authority: Path


def wheel(folder: Path, name: str, files: Mapping[str, bytes]) -> None:
    about = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n"
    target = folder / name / f"{name}-1-py3-none-any.whl"
    target.parent.mkdir(parents=True)
    with zipfile.ZipFile(target, "w") as archive:
        for path, data in files.items():
            inside = zipfile.ZipInfo(path)
            inside.external_attr = 0o100755 << 16
            archive.writestr(inside, data)
        archive.writestr(f"{name}-1.dist-info/METADATA", about)
        archive.writestr(f"{name}-1.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{name}-1.dist-info/RECORD", "")


def certificates(folder: Path) -> tuple[Path, Path]:
    """The certificate of an authority of our own, and a chain with key for localhost that it signed."""
    now = datetime.datetime.now(datetime.UTC)

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    def signed(subject: str, key: ec.EllipticCurvePrivateKey, by: ec.EllipticCurvePrivateKey, ca: bool) -> bytes:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        made = (
            x509.CertificateBuilder()
            .subject_name(name(subject))
            .issuer_name(name("Authority of a company"))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))
            .not_valid_after(now + datetime.timedelta(days=2))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(by, hashes.SHA256())
        )
        return made.public_bytes(serialization.Encoding.PEM)

    root, leaf = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    key = leaf.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    authority, chain = folder / "authority.pem", folder / "chain.pem"
    authority.write_bytes(signed("Authority of a company", root, root, ca=True))
    chain.write_bytes(signed("localhost", leaf, root, ca=False) + key)
    return authority, chain


class Pages(http.server.SimpleHTTPRequestHandler):
    """Under ``/private/`` a name and a password are asked for."""

    def do_GET(self) -> None:
        if self.path.startswith("/private/"):
            if self.headers.get("Authorization") != "Basic " + base64.b64encode(b"me:secret").decode():
                self.send_response(401)
                self.send_header("WWW-Authenticate", 'Basic realm="index"')
                self.end_headers()
                return
            self.path = self.path.removeprefix("/private")
        super().do_GET()

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    folder = tmp_path_factory.mktemp("index")
    wheel(folder / "simple", "sample", {"sample.py": b"here = 1\n"})
    wheel(folder / "simple", "uv", {"uv-1.data/scripts/uv": UV.read_bytes()})
    wheel(folder / "broken", "sample", {"sample.py": b"here = 1\n"})
    wheel(folder / "broken", "uv", {"uv-1.data/scripts/uv": BROKEN})
    authority, chain = certificates(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Pages, directory=str(folder)))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield Index(f"https://localhost:{server.server_port}", f"localhost:{server.server_port}", authority)
    server.shutdown()
    server.server_close()


class Company:
    """A host of the company: only its pip.conf and its variables say how packages are got."""

    def __init__(self, folder: Path) -> None:
        self.project, self.config = folder / "project", folder / "pip.conf"
        self.project.mkdir()
        for name, text in PROJECT.items():
            (self.project / name).write_text(text)
        subprocess.run([sys.executable, "-m", "venv", str(self.project / ".venv")], check=True)
        known = ("PATH", "LANG", "LD_LIBRARY_PATH")
        self.environment = {name: os.environ[name] for name in known if name in os.environ} | {
            "HOME": str(folder),
            "XDG_CONFIG_DIRS": str(folder),
            "NO_PROXY": "localhost,127.0.0.1",
            "PIP_CONFIG_FILE": str(self.config),
            "PIP_RETRIES": "0",
            "UV_HTTP_RETRIES": "0",
            "UV_CACHE_DIR": str(folder / "cache"),
        }

    def set_up(self, config: str | None, *before: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """With a pip.conf of this text; None: without any, that of the machine neither."""
        if config is None:
            variables["PIP_CONFIG_FILE"] = os.devnull
        else:
            self.config.write_text(config)
        command = [*before, sys.executable, str(ROOT / "infra/set_up.py"), ".venv", "dev"]
        environment = {**self.environment, **variables}
        return subprocess.run(
            command, cwd=self.project, env=environment, capture_output=True, text=True, timeout=120, check=False
        )

    def installed(self) -> bool:
        python = self.project / ".venv/bin/python"
        done = subprocess.run(
            [str(python), "-c", "import sample; from importlib.metadata import version; version('small')"]
        )
        return done.returncode == 0


@pytest.fixture
def company(tmp_path: Path) -> Company:
    return Company(tmp_path)


def test_pips_own_index_and_certificate_reach_uv(company: Company, index: Index) -> None:
    done = company.set_up(f"[global]\nindex-url = {index.url}/simple\ncert = {index.authority}\n")
    assert (done.returncode, done.stderr, company.installed()) == (0, "", True)


def test_variables_of_pip_do_as_well_and_a_name_and_password_are_passed_on(company: Company, index: Index) -> None:
    private = index.url.replace("://", "://me:secret@") + "/private/simple"
    done = company.set_up("", PIP_INDEX_URL=private, PIP_CERT=str(index.authority))
    assert (done.returncode, done.stderr, company.installed()) == (0, "", True)


def test_a_trusted_host_is_trusted_by_uv_too(company: Company, index: Index) -> None:
    done = company.set_up(f"[install]\nindex-url = {index.url}/simple\ntrusted-host = {index.host}\n")
    assert (done.returncode, done.stderr, company.installed()) == (0, "", True)


def test_one_more_index_and_folders_that_are_not_there(company: Company, index: Index, tmp_path: Path) -> None:
    only_uv = tmp_path / "links"
    wheel(only_uv, "uv", {"uv-1.data/scripts/uv": UV.read_bytes()})
    config = (
        f"[global]\nno-index = false\nindex-url = {(tmp_path / 'empty').as_uri()}\ncert = {index.authority}\n"
        f"extra-index-url =\n    {index.url}/simple\n    file:///nowhere/simple\n"
        f"find-links = {only_uv / 'uv'} /nowhere/links\n"
    )
    (tmp_path / "empty").mkdir()
    done = company.set_up(config)
    assert (done.returncode, done.stderr, company.installed()) == (0, "", True)


def test_the_systems_certificates_are_trusted_by_both(company: Company, index: Index, tmp_path: Path) -> None:
    """The authority is in the system's bundle and nowhere else: a mount that only this process sees puts it there."""
    bundle = set_up._system_bundle()
    if os.geteuid() != 0 or bundle is None or subprocess.run(["unshare", "-m", "true"], check=False).returncode:
        pytest.skip("needs root, and mounts of its own")
    mine = tmp_path / "bundle.pem"
    mine.write_bytes(index.authority.read_bytes())
    script = tmp_path / "mounted"
    script.write_text(f'#!/bin/sh\nmount --bind {mine} "$(readlink -f {bundle})" && exec "$@"\n')
    script.chmod(0o755)
    done = company.set_up(None, "unshare", "-m", str(script), PIP_INDEX_URL=f"{index.url}/simple")
    assert (done.returncode, company.installed()) == (0, True), done.stderr
    assert "uv pip install" not in done.stderr


def test_pip_takes_over_where_uv_cannot_install(company: Company, index: Index) -> None:
    done = company.set_up(f"[global]\nindex-url = {index.url}/broken\ncert = {index.authority}\n")
    assert (done.returncode, company.installed()) == (0, True)
    assert "uv pip install (told by pip's settings: SSL_CERT_FILE, UV_DEFAULT_INDEX) failed:" in done.stderr
    assert "invalid peer certificate" in done.stderr
    assert done.stderr.endswith("pip has installed it.\n")


def test_where_nothing_helps_it_says_what_was_tried_and_no_password(company: Company, index: Index) -> None:
    private = index.url.replace("://", "://me:secret@") + "/private/simple"
    done = company.set_up(f"[global]\nindex-url = {private}\n")
    assert (done.returncode, company.installed()) == (1, False)
    assert "Nothing is installed. Tried:\n- pip install uv: " in done.stderr
    assert "CERTIFICATE_VERIFY_FAILED" in done.stderr
    assert "pip's index-url, cert" in done.stderr
    assert "secret" not in done.stderr
    assert "Traceback" not in done.stderr


def test_the_makefile_sets_up_this_way() -> None:
    text = (ROOT / "Makefile").read_text()
    assert "infra/set_up.py $(VENV) dev" in text
    assert shutil.which("make")


CASES = [
    ("", {}, {"UV_SYSTEM_CERTS": "1"}),
    (
        "global.index-url='https://a/simple'\ninstall.index-url='https://b/simple'\n:env:.index-url='https://c/simple'\n",
        {},
        {"UV_DEFAULT_INDEX": "https://c/simple", "UV_SYSTEM_CERTS": "1"},
    ),
    ("global.index-url='https://a/simple'\n", {"UV_INDEX_URL": "x", "SSL_CERT_FILE": "y"}, {"UV_SYSTEM_CERTS": "1"}),
    (
        "global.trusted-host='a\\nb:8443'\nwheel.index-url='https://no'\n",
        {"REQUESTS_CA_BUNDLE": "/ca.pem"},
        {"UV_INSECURE_HOST": "a b:8443", "SSL_CERT_FILE": "/ca.pem"},
    ),
    (
        "global.proxy='http://proxy:3128'\nglobal.timeout='60'\n",
        {"https_proxy": "mine"},
        {"HTTP_PROXY": "http://proxy:3128", "UV_HTTP_TIMEOUT": "60", "UV_SYSTEM_CERTS": "1"},
    ),
    (
        "global.extra-index-url='\\nhttps://a/simple\\nhttps://b/simple'\n:env:.cert='/ca.pem'\n",
        {},
        {
            "UV_INDEX": "https://a/simple https://b/simple",
            "UV_INDEX_STRATEGY": "unsafe-best-match",
            "SSL_CERT_FILE": "/ca.pem",
        },
    ),
]


@pytest.mark.parametrize(("listed", "environment", "expected"), CASES)
def test_what_uv_is_told(listed: str, environment: dict[str, str], expected: dict[str, str]) -> None:
    assert set_up.uv_environment(set_up.pip_settings(listed), environment) == expected
