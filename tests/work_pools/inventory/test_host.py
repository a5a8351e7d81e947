"""The host: affinity, control groups (their files, and real ones where they can be made), disk, labels."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.inventory.cgroup import cpu_limit_milli, memory_limit_mib, oom_kills
from trimtab_work_pools.inventory.host import HostReader, LabelError, id_list, numa_cpus, parse_labels, usable_cpus

TMPFS = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n"
V1 = TMPFS + "40 31 0:29 {base} /sys/fs/cgroup/{name} rw shared:9 - cgroup cgroup rw,{name}\n"
V2 = "35 24 0:30 {base} /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
UNLIMITED_V1 = "9223372036854771712"


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return root


def test_version_2_and_the_groups_above(tmp_path: Path) -> None:
    files = {
        "/proc/self/cgroup": "0::/user.slice/worker.scope",
        "/proc/self/mountinfo": V2.format(base="/"),
        "/sys/fs/cgroup/user.slice/cpu.max": "150000 100000",
        "/sys/fs/cgroup/user.slice/worker.scope/cpu.max": "max 100000",
        "/sys/fs/cgroup/user.slice/memory.max": "max",
        "/sys/fs/cgroup/user.slice/worker.scope/memory.max": str(512 * 1024 * 1024),
    }
    root = write(tmp_path, files)

    assert HostReader(tmp_path, root=root).read().cpu_total_milli == min(1500, 1000 * len(usable_cpus()))
    assert cpu_limit_milli(root) == 1500
    assert HostReader(tmp_path, root=root).read().memory_total_mib == memory_limit_mib(root) == 512


@pytest.mark.parametrize(
    ("base", "own"),
    [("/", "/docker/abc"), ("/docker/abc", ""), ("/docker", "/abc")],
    ids=["host", "container without a name space", "mount of a group above"],
)
def test_version_1(tmp_path: Path, base: str, own: str) -> None:
    files = {
        "/proc/self/cgroup": "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/",
        "/proc/self/mountinfo": V1.format(base=base, name="cpu") + V1.format(base=base, name="memory"),
        f"/sys/fs/cgroup/cpu{own}/cpu.cfs_quota_us": "50000",
        f"/sys/fs/cgroup/cpu{own}/cpu.cfs_period_us": "20000",
        f"/sys/fs/cgroup/memory{own}/memory.limit_in_bytes": str(3 << 30),
        "/sys/fs/cgroup/memory/docker/memory.limit_in_bytes": UNLIMITED_V1,
    }
    root = write(tmp_path, files)
    assert cpu_limit_milli(root) == 2500
    assert memory_limit_mib(root) == 3072


def test_a_limit_above_what_there_is(tmp_path: Path) -> None:
    files = {
        "/proc/self/cgroup": "0::/",
        "/proc/self/mountinfo": V2.format(base="/"),
        "/sys/fs/cgroup/cpu.max": "1000000000 100000",
        "/sys/fs/cgroup/memory.max": str(1 << 60),
    }
    host = HostReader(tmp_path, root=write(tmp_path, files)).read()
    assert host.cpu_total_milli == 1000 * len(host.cpus)
    assert host.memory_total_mib == psutil.virtual_memory().total // 2**20


def test_no_limits(tmp_path: Path) -> None:
    assert (cpu_limit_milli(tmp_path), memory_limit_mib(tmp_path)) == (None, None)
    files = {
        "/proc/self/cgroup": "4:memory:/\n3:cpu:/\n0::/",
        "/proc/self/mountinfo": V1.format(base="/", name="cpu") + V1.format(base="/", name="memory"),
        "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1",
        "/sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
        "/sys/fs/cgroup/memory/memory.limit_in_bytes": UNLIMITED_V1,
    }
    root = write(tmp_path, files)
    assert (cpu_limit_milli(root), memory_limit_mib(root)) == (None, None)


@pytest.fixture
def cpu_group() -> Iterator[Path]:
    """A real control group with 0.3 CPUs."""
    name = f"trimtab-test-{os.getpid()}"
    unified = Path("/sys/fs/cgroup/cgroup.controllers").exists()
    group = Path("/sys/fs/cgroup") / name if unified else Path("/sys/fs/cgroup/cpu") / name
    try:
        group.mkdir()
        (group / ("cpu.max" if unified else "cpu.cfs_quota_us")).write_text("30000 100000" if unified else "30000")
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no control group can be made here: {error}")
    yield group
    group.rmdir()


def read_elsewhere(before: str) -> str:
    """What a process of its own reads, after `before`."""
    code = (
        f"import os, pathlib; {before}\n"
        "from trimtab_work_pools.inventory.host import HostReader\n"
        "host = HostReader(pathlib.Path('/')).read(); print(host.cpu_total_milli, host.cpus)"
    )
    path = os.pathsep.join(part for part in sys.path if part)
    environment = {**os.environ, "PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return done.stdout.strip()


def test_a_real_control_group(cpu_group: Path) -> None:
    enter = f"pathlib.Path({str(cpu_group / 'cgroup.procs')!r}).write_text(str(os.getpid()))"
    assert read_elsewhere(enter).split()[0] == "300"


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
def test_affinity() -> None:
    one = max(os.sched_getaffinity(0))
    assert read_elsewhere(f"os.sched_setaffinity(0, {{{one}}})") == f"1000 ({one},)"


def test_this_host(tmp_path: Path) -> None:
    host = HostReader(tmp_path, name="n", labels={"b": "2", "a": "1"}, cached_digests=lambda: ["x", "x"]).read()
    assert host.problems == ()
    assert (host.name, host.folder, host.labels) == ("n", str(tmp_path), (("a", "1"), ("b", "2")))
    assert host.cached_digests == {"x"}
    assert 0 < host.cpu_total_milli <= 1000 * len(host.cpus)
    assert host.memory_available_mib is not None
    assert 0 < host.memory_available_mib <= host.memory_total_mib <= psutil.virtual_memory().total // 2**20
    assert host.disk_total_mib is not None
    assert host.disk_free_mib is not None
    assert 0 < host.disk_free_mib <= host.disk_total_mib
    assert {cpu for _, cpus in host.numa_cpus for cpu in cpus} <= set(host.cpus)


def unreadable() -> list[str]:
    raise OSError("the library is away")


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    host = HostReader(tmp_path / "none", cached_digests=unreadable).read()
    assert host.name
    assert (host.disk_free_mib, host.cached_digests) == (None, frozenset())
    assert [problem.split(":")[0] for problem in host.problems] == [
        f"the disk of {tmp_path / 'none'} cannot be read",
        "the cached data cannot be listed",
    ]


def test_numa_nodes_have_the_usable_cpus(tmp_path: Path) -> None:
    root = write(
        tmp_path,
        {
            "/sys/devices/system/node/node0/cpulist": "0-3,8-11",
            "/sys/devices/system/node/node1/cpulist": "4-7",
            "/sys/devices/system/node/node2/cpulist": "",
            "/sys/devices/system/node/node10/cpulist": "12",
        },
    )
    assert numa_cpus(range(2, 13), root) == ((0, (2, 3, 8, 9, 10, 11)), (1, (4, 5, 6, 7)), (10, (12,)))
    assert numa_cpus(range(4), tmp_path / "none") == ()


@given(st.sets(st.integers(0, 300), min_size=1))
def test_id_lists_of_single_ids(ids: set[int]) -> None:
    assert set(id_list(",".join(str(one) for one in sorted(ids)) + "\n")) == ids


def test_labels_from_the_command_line_win() -> None:
    environment = {"TRIMTAB_NODE_LABELS": " region=eu-1, tier=gold ,note=a=b,"}
    assert parse_labels(["region=us", "zone=c"], environment) == {
        "region": "us",
        "tier": "gold",
        "note": "a=b",
        "zone": "c",
    }
    assert parse_labels([], {}) == {}


@pytest.mark.parametrize(
    ("given_labels", "variable", "said"),
    [
        (["region"], "", "'region' in the command line must be key=value"),
        (["region="], "", "must be key=value"),
        (["=eu"], "", "the key ''"),
        ([], "a b=1", "'a b=1' in TRIMTAB_NODE_LABELS"),
        (["a=1", "a=2"], "", "'a' has two values in the command line, '1' and '2'"),
    ],
)
def test_what_is_no_label(given_labels: list[str], variable: str, said: str) -> None:
    with pytest.raises(LabelError, match=said.replace("(", r"\(")):
        parse_labels(given_labels, {"TRIMTAB_NODE_LABELS": variable})


@st.composite
def mutated(draw: st.DrawFn, text: str) -> str:
    """A few characters or lines taken out, doubled, or put in."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(text)))
        end = draw(st.integers(at, min(len(text), at + 40)))
        text = (
            text[:at]
            + draw(st.sampled_from(["", " ", "\n", ":", " - ", "\\040", "²", "max", "-1", text[at:end] * 2]))
            + text[end:]
        )
    return text


CGROUP = "5:cpu,cpuacct:/docker/abc\n4:memory:/docker/abc\n1:name=systemd:/\n0::/user.slice/worker.scope\n"
MOUNTS = TMPFS + V1.format(base="/", name="cpu") + V1.format(base="/docker", name="memory") + V2.format(base="/")


@given(mutated(CGROUP), mutated(MOUNTS), mutated("150000 100000"), mutated("oom_kill 3\nlow 0\n"), mutated("0-3,8"))
def test_lines_of_odd_forms_never_raise(groups: str, mounts: str, maximum: str, events: str, cpus: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        files = {
            "/proc/self/cgroup": groups,
            "/proc/self/mountinfo": mounts,
            "/proc/vmstat": events,
            "/sys/fs/cgroup/cpu.max": maximum,
            "/sys/fs/cgroup/memory.max": maximum,
            "/sys/fs/cgroup/memory.events": events,
            "/sys/fs/cgroup/user.slice/worker.scope/cpu.max": maximum,
            "/sys/fs/cgroup/cpu/cpu.cfs_quota_us": maximum,
            "/sys/devices/system/node/node0/cpulist": cpus,
        }
        root = write(Path(folder), files)
        cpu_limit_milli(root)
        memory_limit_mib(root)
        oom_kills(root)
        numa_cpus(range(8), root)


def test_a_mount_point_with_a_space(tmp_path: Path) -> None:
    line = "35 24 0:30 / /sys/fs/my\\040cgroup rw shared:4 - cgroup2 cgroup2 rw\n"
    files = {"/proc/self/cgroup": "0::/", "/proc/self/mountinfo": line, "/sys/fs/my cgroup/cpu.max": "50000 100000"}
    assert cpu_limit_milli(write(tmp_path, files)) == 500
