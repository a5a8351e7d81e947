"""`resources:` in job variables: what is read, and what is said of everything that is wrong."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.resources import Demand
from trimtab_work_pools.wishes import DemandError, read_demand


def test_everything_can_be_asked_for() -> None:
    asked = read_demand(
        {
            "resources": {
                "gpus": 4,
                "gpu_memory_mib": 30_000,
                "gpu_compute_capability": 8.0,
                "gpu_models": ["A100", "H100"],
                "gpu_nvlink": True,
                "cpus": 7.5,
                "memory_mib": 65_536.0,
                "disk_mib": 1024,
                "labels": {"region": ["eu-1", "eu-2"], "tier": "gold"},
                "nodes": 2,
                "reads": "sha256:aa",
                "team": "vision",
                "priority": -3,
                "deadline": "2026-03-01T08:00:00+00:00",
                "preemptible": True,
                "expected_s": 3600,
                "expected_sigma": 0.5,
            }
        }
    )
    assert asked == Demand(
        gpus=4,
        gpu_memory_mib=30_000,
        gpu_compute_capability=(8, 0),
        gpu_models=frozenset(("A100", "H100")),
        gpu_nvlink=True,
        cpu_milli=7500,
        memory_mib=65_536,
        disk_mib=1024,
        node_labels=(("region", frozenset(("eu-1", "eu-2"))), ("tier", frozenset(("gold",)))),
        nodes=2,
        reads=frozenset(("sha256:aa",)),
        team="vision",
        priority=-3,
        deadline_s=datetime(2026, 3, 1, 8, tzinfo=UTC).timestamp(),
        preemptible=True,
        expected_s=3600.0,
        expected_sigma=0.5,
    )


@pytest.mark.parametrize("variables", [{}, {"resources": None}, {"resources": {}}, {"env": {"A": "b"}}])
def test_nothing_asked(variables: dict[str, Any]) -> None:
    assert read_demand(variables) == Demand()


def test_a_share_is_of_one_gpu() -> None:
    asked = read_demand({"resources": {"gpu_share": 0.25}})
    assert (asked.gpus, asked.gpu_share_milli) == (1, 250)
    assert read_demand({"resources": {"gpus": 1, "gpu_share": 1}}) == Demand(gpus=1)
    assert (
        read_demand({"resources": {"gpu_share": 1}})
        == read_demand({"resources": {"gpu_share": 0.9999}})
        == Demand(gpus=1)
    )
    assert read_demand({"resources": {"gpus": 1, "gpu_mig_profile": "1g.10gb"}}).gpu_mig_profile == "1g.10gb"


@pytest.mark.parametrize(
    ("text", "capability"), [("7.5", (7, 5)), ("8.0", (8, 0)), (9.0, (9, 0)), ("10.0", (10, 0)), ("12.1", (12, 1))]
)
def test_capabilities(text: object, capability: tuple[int, int]) -> None:
    assert read_demand({"resources": {"gpus": 1, "gpu_compute_capability": text}}).gpu_compute_capability == capability


@pytest.mark.parametrize(
    ("wishes", "said"),
    [
        ({"gpu": 1}, "resources.gpu: is not a key; did you mean gpus? (allowed: gpus, gpu_share, "),
        ({"colour": "red"}, "resources.colour: is not a key (allowed: "),
        ({"gpus": -1}, "resources.gpus: must be a whole number from 0 to 64, not -1"),
        ({"gpus": True}, "resources.gpus: must be a whole number from 0 to 64, not True"),
        ({"gpus": 1.5}, "resources.gpus: must be a whole number from 0 to 64, not 1.5"),
        ({"gpus": "2"}, "resources.gpus: must be a whole number from 0 to 64, not '2'"),
        ({"gpu_share": 0}, "resources.gpu_share: must be a number from 0.001 to 1, not 0"),
        ({"gpu_share": 1.2}, "resources.gpu_share: must be a number from 0.001 to 1, not 1.2"),
        ({"gpus": 2, "gpu_share": 0.5}, "resources.gpu_share: a share is of one GPU: 0.5 of 2 GPUs is not possible"),
        ({"gpus": 0, "gpu_share": 0.5}, "0.5 of 0 GPUs is not possible; use gpus: 1"),
        ({"gpu_models": "A100"}, "resources.gpu_models: needs gpus of at least 1 beside it"),
        ({"gpus": 1, "gpu_models": []}, "resources.gpu_models: must be a text or a list of texts, not []"),
        ({"gpus": 1, "gpu_models": ["A100", 3]}, "resources.gpu_models: must be a text that is not empty, not 3"),
        ({"gpus": 1, "gpu_nvlink": True}, "resources.gpu_nvlink: needs gpus of at least 2"),
        ({"gpus": 2, "gpu_nvlink": "yes"}, "resources.gpu_nvlink: must be true or false, not 'yes'"),
        (
            {"gpus": 2, "gpu_nvlink": True, "gpu_mig_profile": "1g.10gb"},
            "resources.gpu_nvlink: a MIG slice has no NVLink",
        ),
        ({"gpus": 1, "gpu_compute_capability": 8}, 'must be like "8.0" (major.minor), not 8'),
        ({"gpus": 1, "gpu_memory_mib": 10**9}, "resources.gpu_memory_mib: must be a whole number from 0 to 2097152"),
        (
            {"gpus": 10**5000},
            "resources.gpus: must be a whole number from 0 to 64, not a number of thousands of digits",
        ),
        ({"cpus": 10**400}, "resources.cpus: must be a number from 0 to 4096, not 1000"),
        ({"cpus": float("inf")}, "resources.cpus: must be a number from 0 to 4096, not inf"),
        ({"cpus": float("nan")}, "resources.cpus: must be a number from 0 to 4096, not nan"),
        ({"cpus": 0.0001}, "resources.cpus: must be at least 0.001, not 0.0001"),
        ({"memory_mib": 2**31}, "resources.memory_mib: must be a whole number from 0 to 1073741824"),
        ({"labels": ["eu"]}, "resources.labels: must map labels to the values allowed, like {region: [eu-1, eu-2]}"),
        ({"labels": {"region": []}}, "resources.labels: must be a text or a list of texts, not []"),
        ({"nodes": 0}, "resources.nodes: must be a whole number from 1 to 10000, not 0"),
        ({"deadline": "tomorrow"}, "resources.deadline: must be a time with its zone"),
        ({"deadline": "2026-03-01T08:00:00"}, "resources.deadline: must name its time zone"),
        ({"expected_sigma": 1}, "resources.expected_sigma: needs expected_s beside it"),
        ({"expected_s": 0}, "resources.expected_s: must be a number from 0.001"),
        ({"priority": 5000}, "resources.priority: must be a whole number from -1000 to 1000, not 5000"),
        ({"team": " "}, "resources.team: must be a text that is not empty, not ' '"),
    ],
)
def test_what_is_wrong_is_named_with_what_is_allowed(wishes: dict[str, Any], said: str) -> None:
    with pytest.raises(DemandError) as caught:
        read_demand({"resources": wishes})
    assert said in str(caught.value)
    assert len(caught.value.problems) == 1


def test_all_that_is_wrong_is_said_at_once() -> None:
    with pytest.raises(DemandError) as caught:
        read_demand({"resources": {"gpus": "x", "gpu_models": 7, "cpu": 1}})
    assert [key for key, _ in caught.value.problems] == ["gpus", "gpu_models", "cpu"]
    with pytest.raises(DemandError, match="and 2 more"):
        read_demand({"resources": {f"wish{number}": 1 for number in range(10)}})
    with pytest.raises(DemandError, match=r"resources: must map keys to values, not \[1\]"):
        read_demand({"resources": [1]})


SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5)
KEYS = st.sampled_from(
    ("gpus", "gpu_share", "gpu_models", "gpu_nvlink", "cpus", "labels", "nodes", "deadline", "reads", "priority", "gpu")
)


@given(st.dictionaries(KEYS, SCALARS | st.lists(SCALARS, max_size=2) | st.dictionaries(st.text(max_size=3), SCALARS)))
def test_whatever_is_written_is_a_demand_or_named(wishes: dict[str, Any]) -> None:
    wrong: set[str] = set()
    asked = Demand()
    try:
        asked = read_demand({"resources": wishes})
    except DemandError as error:
        wrong = {key for key, _ in error.problems}
    assert wrong <= wishes.keys()
    assert 0 <= asked.gpus <= 64
    assert 0 < asked.gpu_share_milli <= 1000
    assert not asked.shared or asked.gpus == 1
