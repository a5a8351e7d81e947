"""A real S3 server, once a session."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from blocks.s3_server import ACCESS_KEY, BUCKET, SECRET_KEY, S3Server, why_not
from trimtab_blocks.s3 import S3Store


@pytest.fixture(scope="session")
def runs_s3() -> None:
    """Skips where the server cannot run."""
    reason = why_not()
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def s3_server(runs_s3: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A server with an empty bucket, for tests that leave it running."""
    server = S3Server(tmp_path_factory.mktemp("s3"))
    server.start()
    yield server
    server.stop()


@pytest.fixture
def s3(s3_server: S3Server) -> Callable[..., S3Store]:
    """Makes a store that is empty, in the bucket of the server; settings may be given."""

    def make(**settings: Any) -> S3Store:
        usual = {
            "bucket": BUCKET,
            "prefix": f"tests/{uuid.uuid4().hex}",
            "endpoint_url": s3_server.url,
            "region": "us-east-1",
            "access_key_id": ACCESS_KEY,
            "secret_access_key": SECRET_KEY,
            "patience_s": 30,
        }
        return S3Store(**{**usual, **settings})

    return make
