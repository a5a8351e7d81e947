"""Calls that never return, or take the process with them: only what is asked is unknown then, and it heals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import slow_mount
from nvml_driver import Driver, all_of, gpu, line, mentions
from slow_mount import slow_digests

from trimtab_work_pools.inventory import Fault, HostReading, Reader, open_reader

PATIENCE_S = 0.5


@pytest.fixture
def asked(driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Reader]]:
    """Readers whose helpers meet the stand-in driver; afterwards none of their processes is left."""
    for name, value in driver.variables().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PYTHONPATH", str(Path(slow_mount.__file__).parent))
    made: list[Reader] = []

    def make(**more: object) -> Reader:
        made.append(open_reader(tmp_path, patience_s=PATIENCE_S, again_s=0.2, **more))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for reader in made:
        reader.close()
    assert not helpers()


def helpers() -> list[psutil.Process]:
    found = psutil.Process().children()  # of this process: workers of a stack that is up have their own
    return [one for one in found if one.status() != psutil.STATUS_ZOMBIE and "inventory.helper" in str(one.cmdline())]


def until(reader: Reader, what: Callable[[HostReading], bool], seconds: float = 20.0) -> HostReading:
    end = time.monotonic() + seconds
    while not what(reading := reader.read()):
        assert time.monotonic() < end, reading
        time.sleep(0.05)
    return reading


@pytest.mark.parametrize(
    ("call", "what"),
    [
        ("nvmlDeviceGetTemperature", "temperature"),
        ("nvmlDeviceGetHandleByIndex_v2", "handle"),
        ("nvmlDeviceGetMemoryInfo", "memory"),
    ],
)
def test_one_gpu_that_does_not_answer_is_unhealthy_and_the_others_go_on(
    driver: Driver, asked: Callable[..., Reader], call: str, what: str
) -> None:
    gpus = [gpu(0, nvlink="1"), gpu(1, nvlink="0"), gpu(2)]
    driver.set(*gpus)
    reader = asked()
    assert all(one.health.ok for one in reader.read().devices.gpus)
    driver.set(*gpus, line("hangs", call=call, gpu=1))
    began_s = time.monotonic()
    devices = reader.read().devices
    assert time.monotonic() - began_s < PATIENCE_S + 5
    assert [one.uuid for one in devices.gpus] == ["GPU-0", "GPU-1", "GPU-2"]
    assert [one.health.ok for one in devices.gpus] == [True, False, True]
    silent = all_of(devices)["GPU-1"]
    assert silent.health.faults == (Fault.LOST,)
    assert what in silent.unreachable
    assert "has not answered within 0.5 s" in silent.unreachable
    for _ in range(20):
        began_s = time.monotonic()
        devices = reader.read().devices
        assert time.monotonic() - began_s < PATIENCE_S, "nobody waits for it any more"
        assert [one.health.ok for one in devices.gpus] == [True, False, True]
    driver.set(*gpus)
    healed = until(reader, lambda reading: all(one.health.ok for one in reading.devices.gpus))
    assert not healed.devices.problems


def test_a_gpu_that_does_not_answer_from_the_beginning(driver: Driver, asked: Callable[..., Reader]) -> None:
    driver.set(gpu(0), gpu(1), line("hangs", call="nvmlDeviceGetUUID", gpu=0))
    devices = asked().read().devices
    assert [(one.uuid, one.health.ok) for one in devices.gpus] == [("GPU-1", True)]
    assert mentions(devices.problems, "number 0", "has not answered")


def test_a_call_that_takes_its_process_with_it(driver: Driver, asked: Callable[..., Reader]) -> None:
    driver.set(gpu(0), gpu(1))
    reader = asked()
    reader.read()
    driver.set(gpu(0), gpu(1), line("crashes", call="nvmlDeviceGetPowerUsage", gpu=0))
    devices = reader.read().devices
    assert [one.health.ok for one in devices.gpus] == [False, True]
    assert "power ended the process that asked" in devices.gpus[0].unreachable


def test_the_driver_itself_does_not_answer(driver: Driver, asked: Callable[..., Reader]) -> None:
    driver.set(gpu(0), gpu(1))
    reader = asked()
    reader.read()
    driver.set(gpu(0), gpu(1), line("hangs", call="nvmlSystemGetDriverVersion"))
    devices = reader.read().devices
    assert [one.health.faults for one in devices.gpus] == [(Fault.LOST,), (Fault.LOST,)]
    assert mentions(devices.problems, "driver version", "has not answered")
    driver.set(gpu(0), gpu(1))
    until(reader, lambda reading: all(one.health.ok for one in reading.devices.gpus))


def test_a_mount_that_does_not_answer(
    tmp_path: Path, asked: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setenv("SLOW", str(pipe))
    reader = asked(cached_digests=slow_digests)
    reading = reader.read()
    assert mentions(reading.host.problems, "cached data", "has not answered")
    assert reading.host.cpus
    assert reading.host.disk_free_mib
    feed = subprocess.Popen([sys.executable, "-c", f"while True: open({str(pipe)!r}, 'w').write('abc ')"])
    try:
        healed = until(reader, lambda reading: not reading.host.problems)
        assert healed.host.cached_digests == {"abc"}
    finally:
        feed.kill()
        feed.wait()


def test_a_stopped_helper_is_replaced_and_none_outlives_its_worker(
    driver: Driver, asked: Callable[..., Reader]
) -> None:
    driver.set(gpu(0))
    reader = asked()
    before = reader.read().devices.gpus
    for one in helpers():
        one.send_signal(signal.SIGSTOP)
    assert until(reader, lambda reading: all(gpu.health.ok for gpu in reading.devices.gpus)).devices.gpus == before
    code = (
        "import os, pathlib, signal\n"
        "from trimtab_work_pools.inventory import open_reader\n"
        "reader = open_reader(pathlib.Path('/')); reader.read(); print('read', flush=True); signal.pause()"
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert worker.stdout is not None
    worker.stdout.readline()
    theirs = psutil.Process(worker.pid).children()
    assert len(theirs) == 2
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert psutil.wait_procs(theirs, timeout=10)[1] == []


def test_an_xid_is_known_to_the_next_worker(driver: Driver, asked: Callable[..., Reader], tmp_path: Path) -> None:
    driver.set(gpu(0), gpu(1))
    first = asked(xids_folder=tmp_path)
    first.read()
    driver.set(gpu(0), gpu(1), driver.xid(1, 95))
    assert [one.health.ok for one in first.read().devices.gpus] == [True, False]
    first.close()
    driver.set(gpu(0), gpu(1))
    later = asked(xids_folder=tmp_path)
    devices = later.read().devices
    assert [one.health.ok for one in devices.gpus] == [True, False]
    assert "XID 95 (uncontained memory error)" in devices.gpus[1].health.reasons[0]
    driver.set(gpu(0), gpu(1), line("hangs", call="nvmlDeviceGetTemperature", gpu=1))
    later.read()
    driver.set(gpu(0), gpu(1))
    back = until(later, lambda reading: not reading.devices.gpus[1].unreachable).devices.gpus[1]
    assert back.health.faults == (Fault.XID,), "it was not reset"
    driver.set(gpu(0), gpu(1, lost=1))
    later.read()
    driver.set(gpu(0), gpu(1))
    assert all(one.health.ok for one in later.read().devices.gpus), "it was reset"
    assert all(one.health.ok for one in asked(xids_folder=tmp_path).read().devices.gpus)


def test_where_no_helper_can_be_had(
    driver: Driver, asked: Callable[..., Reader], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.set(gpu(0))
    reader = asked()
    reader.read()
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    for one in helpers():
        one.kill()
    reading = reader.read()
    assert reading.host.cpus
    assert [one.health.ok for one in reading.devices.gpus] == [False]
    assert mentions(reading.problems, "no GPU can be read", "no helper", "/no/such/python")
    monkeypatch.undo()
