"""Contexts that are made ahead: like those that would be made when they are asked for, and nobody else's."""

from __future__ import annotations

import shutil
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path

import certifi
import pytest
from prefect.client.orchestration import SyncPrefectClient

from trimtab_work_pools.launchers.prefect_hooks import cafile
from trimtab_work_pools.launchers.ready_tls import ReadyContexts

MAKE = ssl.create_default_context


@pytest.fixture
def certificates(tmp_path: Path) -> str:
    return shutil.copy(certifi.where(), tmp_path / "trusted.pem")


@pytest.fixture
def ready(certificates: str) -> Iterator[ReadyContexts]:
    contexts = ReadyContexts(certificates, 2)
    contexts.install()
    yield contexts
    contexts.uninstall()
    assert ssl.create_default_context is MAKE


def facts(context: ssl.SSLContext) -> object:
    return (
        context.verify_mode, context.verify_flags, context.check_hostname, context.options, context.minimum_version,
        context.protocol, context.keylog_filename, sorted(map(repr, context.get_ca_certs())),
    )  # fmt: skip


def test_one_that_is_ready_is_what_would_be_made(ready: ReadyContexts, certificates: str) -> None:
    held = list(ready._ready)
    given = ssl.create_default_context(cafile=certificates)
    assert given in held
    assert facts(given) == facts(MAKE(cafile=certificates))


def test_each_is_given_once_and_then_they_are_made(ready: ReadyContexts, certificates: str) -> None:
    held = {id(context) for context in ready._ready}
    given = [ssl.create_default_context(cafile=certificates) for _ in range(3)]
    given[0].check_hostname = False
    given[0].verify_mode = ssl.CERT_NONE
    assert [context.verify_mode for context in given[1:]] == [ssl.CERT_REQUIRED] * 2
    assert {id(context) for context in given[:2]} == held
    assert len({id(context) for context in given}) == 3


def test_what_is_asked_for_otherwise_is_made(
    ready: ReadyContexts, certificates: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = len(ready._ready)
    ssl.create_default_context()
    ssl.create_default_context(cafile=certifi.where())
    ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=certificates)
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys"))
    assert ssl.create_default_context(cafile=certificates).keylog_filename == str(tmp_path / "keys")
    assert len(ready._ready) == held


def test_certificates_that_have_changed_are_read_again(ready: ReadyContexts, certificates: str) -> None:
    text = Path(certificates).read_text()
    end = "-----END CERTIFICATE-----\n"
    Path(certificates).write_text(text[: text.index(end) + len(end)])
    assert len(ssl.create_default_context(cafile=certificates).get_ca_certs()) == 1


def test_no_certificates_are_the_business_of_who_asks(tmp_path: Path) -> None:
    contexts = ReadyContexts(str(tmp_path / "none.pem"), 2)
    contexts.install()
    try:
        with pytest.raises(FileNotFoundError):
            ssl.create_default_context(cafile=str(tmp_path / "none.pem"))
    finally:
        contexts.uninstall()


def test_a_thread_makes_new_ones(certificates: str) -> None:
    contexts = ReadyContexts(certificates, 2, refill=True)
    contexts.install()
    try:
        ssl.create_default_context(cafile=certificates)
        for thread in threading.enumerate():
            if thread.name == "tls-contexts":
                thread.join()
        assert len(contexts._ready) == 2
    finally:
        contexts.uninstall()


def test_prefects_clients_take_those_that_are_ready() -> None:
    contexts = ReadyContexts(cafile(), 1)
    contexts.install()
    try:
        SyncPrefectClient("http://127.0.0.1:1/api")
        assert contexts._ready == []
    finally:
        contexts.uninstall()
