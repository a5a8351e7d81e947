"""Bytes a second of the S3 store, against plain boto3 transfer in the same run: ``pytest -m long -s`` prints them.

Where others keep the machine busy, the time on the clock says more of them than of this store: then the figures are
printed, with the processor's time beside, and the test is skipped.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import pytest

from blocks.s3_server import BUCKET, S3Server
from trimtab_blocks.cache import CachedStore
from trimtab_blocks.s3 import S3Store

#: An even number: who comes first in a turn is the slower one, whoever it is.
MIB, SIZE_MIB, TURNS = 1 << 20, 256, 16
GOAL = 0.8


def seconds(action: Callable[[], object]) -> tuple[float, float]:
    """On the clock, and of the processor in this process."""
    began, worked = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - began, time.process_time() - worked


@pytest.mark.long
@pytest.mark.timeout(600)
def test_throughput_against_plain_boto3(s3_server: S3Server, s3: Callable[..., S3Store], tmp_path: Path) -> None:
    store, plain = s3(), s3_server.client()
    file, back = tmp_path / "source", tmp_path / "back"
    file.write_bytes(os.urandom(SIZE_MIB * MIB))
    name = f"{store.prefix}plain"

    def use(cached: CachedStore | S3Store) -> None:
        with cached.local("ours"):
            pass

    ways: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "up": (lambda: plain.upload_file(str(file), BUCKET, name), lambda: store.write_once("ours", file)),
        "down": (lambda: plain.download_file(BUCKET, name, str(back)), lambda: use(store)),
    }
    ratios: dict[str, list[float]] = {way: [] for way in ways}
    work: dict[str, list[float]] = {way: [] for way in ways}
    loads = [os.getloadavg()[0]]
    store.write_once("first", b"")  # what is asked once a process
    for turn in range(TURNS):
        for way, pair in ways.items():
            os.sync()  # or whoever comes first also pays for writing to the disk what was sent before
            first, second = pair if turn % 2 else pair[::-1]
            took = [seconds(first), seconds(second)]
            theirs, ours = took if turn % 2 else took[::-1]
            ratios[way].append(theirs[0] / ours[0])
            work[way].append(theirs[1] / ours[1])
            speeds = f"plain {SIZE_MIB / theirs[0]:.0f} MiB/s, ours {SIZE_MIB / ours[0]:.0f} MiB/s"
            print(f"\nturn {turn}, {way}: {speeds}; processor {theirs[1]:.2f} s and {ours[1]:.2f} s", end="")
        loads.append(os.getloadavg()[0])
        if turn < TURNS - 1:
            store.remove("ours")
            plain.delete_object(Bucket=BUCKET, Key=name)
    cached = CachedStore(store, tmp_path / "cache", 2 * SIZE_MIB * MIB)
    in_s, after_s = seconds(lambda: use(cached))[0], seconds(lambda: use(cached))[0]
    print(f"\ncache: {in_s:.2f} s to come in, {1e3 * after_s:.1f} ms after")
    print(f"load of the machine: {min(loads):.0f} to {max(loads):.0f} on {os.cpu_count()} processors")
    for way in ways:
        for what, found in (("on the clock", ratios[way]), ("of the processor", work[way])):
            print(f"{way}, {what}: median ratio {median(found):.2f} of {', '.join(f'{r:.2f}' for r in sorted(found))}")
    with suppress(OSError):
        back.unlink()
    plain.close()
    busy = max(loads) > 2 * (os.cpu_count() or 1) + 1  # of its own it makes one of 3
    if busy:
        pytest.skip("others keep the machine busy: the clock says more of them than of this store")
    for way in ways:
        assert median(ratios[way]) >= GOAL, f"{way}: {median(ratios[way]):.2f} of plain boto3"
