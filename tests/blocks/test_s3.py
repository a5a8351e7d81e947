"""The S3 store: the contract of every store, on a real server, and what is its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from blocks.store_suite import StoreSuite
from trimtab_blocks.s3 import S3Store
from trimtab_blocks.stores import Store


class TestS3Store(StoreSuite):
    @pytest.fixture
    def fresh(self, s3: Callable[..., S3Store]) -> Callable[[], Store]:
        return lambda: s3(part_mib=5)
