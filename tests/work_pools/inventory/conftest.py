"""The stand-in NVIDIA driver, built once, and readers of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import nvml_driver
import pytest

from trimtab_work_pools.inventory import Limits

StartReader = Callable[..., nvml_driver.ReaderProcess]


@pytest.fixture(scope="session")
def nvml_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with the stand-in libnvidia-ml.so.1."""
    try:
        return nvml_driver.build(tmp_path_factory.mktemp("nvml"))
    except nvml_driver.NoCompiler as error:
        pytest.skip(f"the stand-in NVIDIA driver cannot be built: {error}")


@pytest.fixture
def driver(nvml_library: Path, tmp_path: Path) -> nvml_driver.Driver:
    """A driver that is loaded and has no GPUs yet."""
    return nvml_driver.Driver(nvml_library, tmp_path)


@pytest.fixture
def start_reader(driver: nvml_driver.Driver) -> Iterator[StartReader]:
    """Starts readers that meet the driver; ended with the test."""
    started: list[nvml_driver.ReaderProcess] = []

    def start(limits: Limits | None = None) -> nvml_driver.ReaderProcess:
        started.append(nvml_driver.ReaderProcess(driver.environment(), limits))
        return started[-1]

    yield start
    for reader in started:
        reader.close()


@pytest.fixture
def reader(start_reader: StartReader) -> nvml_driver.ReaderProcess:
    """One reader that meets the driver."""
    return start_reader()
