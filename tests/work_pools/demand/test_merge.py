"""What pool, deployment, run and retry ask for comes to one demand, key by key; residency only narrows."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from prefect.utilities.schema_tools import validate

from trimtab_work_pools.demand.layers import layers_of, nested
from trimtab_work_pools.demand.merge import Asked, Layer, Source, merge
from trimtab_work_pools.wishes import KEYS, DemandError
from trimtab_work_pools.worker import GpuProcessWorker
from trimtab_work_pools.worker.gpu_docker import GpuDockerWorker

TEMPLATE = GpuProcessWorker.get_default_base_job_template()


def pool(**default: Any) -> dict[str, Any]:
    """The template with a default for `resources`, as the UI writes it."""
    template = copy.deepcopy(TEMPLATE)
    template["variables"]["properties"]["resources"]["default"] = default
    return template


def asked(
    template: Mapping[str, Any] | None = TEMPLATE,
    deployment: Mapping[str, Any] | None = None,
    run: Mapping[str, Any] | None = None,
    retry: Mapping[str, Any] | None = None,
) -> Asked:
    return merge(layers_of(template, deployment or {}, run or {}, retry))


def test_a_deployment_that_says_one_key_keeps_the_others_of_the_pool() -> None:
    template = pool(labels={"region": "eu"}, cpus=2, memory_mib=1000)
    found = asked(template, {"resources": {"gpus": 1}}, {"resources": {"cpus": 4}})
    assert found.demand.node_labels == (("region", frozenset({"eu"})),)
    assert (found.demand.gpus, found.demand.cpu_milli, found.demand.memory_mib) == (1, 4000, 1000)
    assert str(found) == (
        "gpus: 1 (deployment), cpus: 4 (run), memory_mib: 1000 (work pool), labels.region: eu (work pool)"
    )


def test_labels_are_merged_by_label() -> None:
    found = asked(pool(labels={"region": "eu"}), {"resources": {"labels": {"tier": ["gold", "silver"]}}})
    assert found.resources["labels"] == {"region": "eu", "tier": ["gold", "silver"]}
    assert found.sources["labels.tier"] is Source.DEPLOYMENT
    again = asked(TEMPLATE, {"resources": {"labels": {"tier": "gold"}}}, {"resources": {"labels": {"tier": "iron"}}})
    assert again.resources["labels"] == {"tier": "iron"}, "only the pool's labels bind"


@pytest.mark.parametrize("source", ["deployment", "run"])
@pytest.mark.parametrize(
    ("region", "said"),
    [
        ("us", "asks for region=us; the work pool allows region=eu-1 or eu-2 and no other"),
        (["eu-1", "us"], "asks for region=eu-1 or us; the work pool allows region=eu-1 or eu-2"),
        ([], "asks for region=nothing; the work pool allows"),
    ],
)
def test_the_pool_s_residency_is_narrowed_or_the_demand_is_refused(source: str, region: Any, said: str) -> None:
    template = pool(labels={"region": ["eu-1", "eu-2"]})
    with pytest.raises(DemandError, match=said) as caught:
        asked(template, **{source: {"resources": {"gpus": 1, "labels": {"region": region}}}})
    assert f"(from the {source})" in str(caught.value)
    assert caught.value.sources == {source}
    narrowed = asked(template, **{source: {"resources": {"labels": {"region": "eu-2"}}}})
    assert narrowed.demand.node_labels == (("region", frozenset({"eu-2"})),)


@pytest.mark.parametrize("empty", [None, {}, {"labels": None}, {"labels": {}}, {"labels": {"region": None}}])
def test_what_is_empty_takes_nothing_away(empty: Any) -> None:
    found = asked(pool(labels={"region": "eu"}), {"resources": empty}, {"resources": empty})
    assert found.demand.node_labels == (("region", frozenset({"eu"})),)


def test_a_choice_of_another_kind_takes_the_place_of_the_pool_s() -> None:
    template = pool(gpus=2, gpu_nvlink=True, gpu_memory_mib=20_000, gpu_models=["A100"])
    cpu_only = asked(template, {"resources": {"gpus": 0}})
    assert (cpu_only.demand.gpus, cpu_only.demand.gpu_models, cpu_only.demand.gpu_memory_mib) == (0, frozenset(), 0)
    assert str(cpu_only) == "gpus: 0 (deployment)"
    share = asked(template, {"resources": {"gpu_share": 0.5}})
    assert (share.demand.gpu_share_milli, share.demand.gpus, share.demand.gpu_memory_mib) == (500, 1, 20_000)
    whole = asked(pool(gpu_share=0.5), {"resources": {"gpus": 4}})
    assert (whole.demand.gpus, whole.demand.gpu_share_milli) == (4, 1000)
    sliced = asked(template, {"resources": {"gpu_mig_profile": "1g.10gb"}})
    assert (sliced.demand.gpu_mig_profile, sliced.demand.gpu_nvlink) == ("1g.10gb", False)


def test_what_a_pool_says_of_gpus_is_nothing_to_a_run_without_any() -> None:
    template = pool(gpu_models=["A100"], gpu_memory_mib=20_000)
    assert str(asked(template, {"resources": {"cpus": 2}})) == "cpus: 2 (deployment)"
    assert asked(template, {"resources": {"gpus": 1}}).demand.gpu_memory_mib == 20_000
    with pytest.raises(DemandError, match=r"gpu_models: needs gpus of at least 1 beside it \(from the deployment\)"):
        asked(template, {"resources": {"gpu_models": "L4"}})


def test_where_a_pool_s_defaults_may_stand() -> None:
    """Under the form's own parts, as the variable's default, and in the configuration itself."""
    template = pool(gpus=1)
    template["variables"]["definitions"]["Resources"]["properties"]["cpus"]["default"] = 3
    template["variables"]["definitions"]["Resources"]["properties"]["gpus"]["default"] = 8
    assert str(asked(template)) == "gpus: 1 (work pool), cpus: 3 (work pool)"
    written = pool(memory_mib=100)
    written["variables"]["properties"]["region"] = {"type": "string", "default": "eu"}
    written["variables"]["properties"]["gpus"] = {"type": "integer"}
    written["job_configuration"]["resources"] = {
        "gpus": "{{ gpus }}", "labels": {"region": "{{ region }}", "site": "a"}, "disk_mib": 50
    }  # fmt: skip
    found = asked(written, {"gpus": 2, "resources": {"cpus": 1, "disk_mib": 9}})
    assert dict(found.resources) == {
        "memory_mib": 100, "cpus": 1, "gpus": 2, "disk_mib": 50, "labels": {"region": "eu", "site": "a"}
    }  # fmt: skip
    assert found.sources["disk_mib"] is Source.FIXED
    with pytest.raises(DemandError, match="asks for region=us; the work pool allows region=eu"):
        asked(written, {"region": "us"})
    with pytest.raises(DemandError, match="asks for site=b; the work pool allows site=a"):
        asked(written, {"resources": {"labels": {"site": "b"}}})


def test_a_retry_is_told_from_what_the_run_says_itself() -> None:
    found = asked(TEMPLATE, {"resources": {"memory_mib": 10}}, {"resources": {"memory_mib": 20, "cpus": 1}},
                  {"memory_mib": 20})  # fmt: skip
    assert str(found) == "cpus: 1 (run), memory_mib: 20 (retry)"
    changed = asked(TEMPLATE, {}, {"resources": {"memory_mib": 30}}, {"memory_mib": 20})
    assert str(changed) == "memory_mib: 30 (run)", "somebody has changed it since"


def test_dots_are_as_good_as_braces() -> None:
    assert nested({"resources.gpus": 1, "resources": {"cpus": 2}, "resources.labels.region": "eu", "env.A": "b"}) == {
        "resources": {"gpus": 1, "cpus": 2, "labels": {"region": "eu"}},
        "env": {"A": "b"},
    }
    assert asked(TEMPLATE, {"resources.gpus": 2}).demand.gpus == 2


# --- keys that nobody would read ---


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"nodes": 2, "resources": {"gpus": 1}}, "nodes stands beside it and changes nothing: write resources: {nodes"),
        ({"gpus": 1}, "gpus stands beside it and changes nothing: write resources: {gpus: ...}"),
        ({"gpu": 1}, "gpu stands beside it and is not a key; did you mean resources: {gpus: ...}?"),
        ({"resorces": {"gpus": 1}}, "the job variable resorces is not known here; did you mean resources?"),
        ({"resource.gpus": 1}, "the job variable resource is not known here; did you mean resources?"),
        ({"resources": {"gpuz": 1}}, "resources.gpuz: is not a key; did you mean gpus?"),
        ({"resources.gpuz": 1}, "resources.gpuz: is not a key; did you mean gpus?"),
        ({"resources": [1]}, "must map keys to values, not [1]"),
        ({"resources": {"labels": ["eu"]}}, "resources.labels: must map labels to the values allowed"),
        ({"resources": {"gpu_memory": 1, "gpus": 1}}, "did you mean gpu_memory_mib?"),
    ],
)
@pytest.mark.parametrize("source", ["deployment", "run"])
@pytest.mark.parametrize("template", [TEMPLATE, GpuDockerWorker.get_default_base_job_template(), None])
def test_unknown_and_misplaced_keys_are_refused_by_every_way_in(
    template: Any, source: str, variables: Any, said: str
) -> None:
    with pytest.raises(DemandError) as caught:
        asked(template, **{source: variables})
    assert said in str(caught.value)
    assert f"(from the {source})" in str(caught.value)
    assert caught.value.sources == {source}


def test_job_variables_of_prefect_s_own_are_none_of_ours() -> None:
    docker = GpuDockerWorker.get_default_base_job_template()
    own = {"labels": {"a": "b"}, "env": {}, "name": "x", "image": "y", "mem_limit": "1g", "working_dir": "/"}
    for template in (TEMPLATE, docker, None):
        assert asked(template, {**own, "anything_else": 1}).sources == {}


def test_a_pool_that_is_wrong_is_to_blame_itself() -> None:
    with pytest.raises(DemandError, match=r"resources.gpus: must be .* not 'many' \(from the work pool\)") as caught:
        asked(pool(gpus="many"), {"resources": {"cpus": 1}})
    assert caught.value.sources == {"work pool"}


TEXT = st.sampled_from(("", "eu-1", "us", "7"))
EXAMPLES = yaml.safe_load(
    (Path(__file__).parents[3] / "work_pools/WORKERS.md")
    .read_text()
    .split("### One of each kind\n```yaml\n")[1]
    .split("```")[0]
)


@pytest.mark.parametrize("variables", EXAMPLES, ids=lambda variables: " ".join(variables["resources"]))
def test_an_example_of_each_kind_is_accepted_by_the_server_and_by_us(variables: dict[str, Any]) -> None:
    for template in (TEMPLATE, GpuDockerWorker.get_default_base_job_template()):
        validate(variables, template["variables"], raise_on_error=True, preprocess=True, ignore_required=True,
                 allow_none_with_default=True)  # fmt: skip
        found = asked(template, variables)
        assert dict(found.resources) == variables["resources"]


def test_there_is_an_example_of_every_key() -> None:
    assert {key for variables in EXAMPLES for key in variables["resources"]} == set(KEYS)


PLAIN = st.none() | st.booleans() | st.integers() | TEXT | st.lists(TEXT, max_size=2)
WRITTEN = st.dictionaries(
    st.sampled_from(("gpus", "gpu_share", "gpu_nvlink", "cpus", "labels", "nodes", "gpuz", "region")),
    PLAIN | st.dictionaries(st.sampled_from(("region", "tier")), PLAIN, max_size=2),
    max_size=4,
)


@given(WRITTEN, WRITTEN, WRITTEN)
def test_nothing_that_is_written_gets_out_of_the_pool_s_region(
    default: dict[str, Any], deployment: dict[str, Any], run: dict[str, Any]
) -> None:
    """Whatever else is written: a demand that results stays in the region, or there is none."""
    default["labels"] = {"region": ["eu-1", "eu-2"]}
    try:
        found = merge((Layer(Source.POOL, default), Layer(Source.DEPLOYMENT, deployment), Layer(Source.RUN, run)))
    except DemandError:
        return
    assert dict(found.demand.node_labels)["region"] <= {"eu-1", "eu-2"}
    flat = set(found.resources) - {"labels"} | {f"labels.{name}" for name in found.resources["labels"]}
    assert flat == set(found.sources)
