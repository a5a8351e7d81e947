"""Lineage: recorded once, followed both ways, shown as text."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_blocks.stores import DirectoryStore
from trimtab_flows.snapshots.lineage import Edge, Graph, InvalidNode, Lineage, render, short


def node(letter: str) -> str:
    return letter * 64


RAW, WEATHER, JANUARY, FEBRUARY, PREDICTIONS = (node(letter) for letter in "abcde")
MODEL = "model:flights/3"
STORY = (
    Edge(JANUARY, (RAW, WEATHER), "build", "flights", "2013-01"),
    Edge(FEBRUARY, (node("f"), WEATHER), "build", "flights", "2013-02"),
    Edge(MODEL, (JANUARY, FEBRUARY), "train", "flights", "2013-01..2013-02", "run-1"),
    Edge(PREDICTIONS, (MODEL, node("0")), "score", "flights", "2013-03"),
)


@pytest.fixture
def lineage(tmp_path: Path) -> Lineage:
    lineage = Lineage(DirectoryStore(path=tmp_path / "store"))
    for edge in STORY:
        lineage.record(edge)
    return lineage


def test_ancestors_reach_the_sources(lineage: Lineage) -> None:
    graph = lineage.ancestors(PREDICTIONS)
    assert set(graph.edges) == set(STORY)
    assert set(graph.nodes) == {PREDICTIONS, MODEL, JANUARY, FEBRUARY, RAW, WEATHER, node("f"), node("0")}
    assert graph.nodes[0] == PREDICTIONS
    assert lineage.ancestors(JANUARY).edges == STORY[:1]


def test_descendants_reach_the_predictions(lineage: Lineage) -> None:
    assert lineage.descendants(RAW).edges == (STORY[0], STORY[2], STORY[3])
    assert set(lineage.descendants(WEATHER).edges) == set(STORY)
    assert lineage.descendants(MODEL).edges == (STORY[3],)


def test_an_unknown_node_has_neither(lineage: Lineage) -> None:
    lonely = "model:other/1"
    assert lineage.ancestors(lonely) == Graph(lonely, "ancestors")
    assert lineage.descendants(lonely).nodes == (lonely,)
    assert render(lineage.ancestors(lonely)) == "model:other/1  (nothing recorded)"


def test_recording_again_changes_nothing(lineage: Lineage) -> None:
    keys = list(lineage.store.keys())
    lineage.record(STORY[2])
    assert list(lineage.store.keys()) == keys
    assert len(keys) == 4 + 8  # one by output, and one by each input


def test_recording_again_completes_what_a_crash_left_half_done(lineage: Lineage) -> None:
    store = lineage.store
    complete = list(store.keys())
    for key in store.keys("lineage/by-input/"):
        with store.local(key) as path:
            path.unlink()
    assert lineage.descendants(RAW).edges == ()
    for edge in STORY:
        lineage.record(edge)
    assert list(store.keys()) == complete


def test_another_run_of_the_same_stage_is_another_edge(lineage: Lineage) -> None:
    again = replace(STORY[2], run_id="run-2")
    lineage.record(again)
    graph = lineage.ancestors(MODEL)
    assert {STORY[2], again} <= set(graph.edges)
    assert graph.made_by(MODEL) == ("train 2013-01..2013-02",)
    assert render(graph).count("train") == 1


def test_a_tree_of_ancestors(lineage: Lineage) -> None:
    assert render(lineage.ancestors(PREDICTIONS)) == "\n".join(
        [
            "eeeeeeeeeeee  score 2013-03",
            "├── model:flights/3  train 2013-01..2013-02",
            "│   ├── cccccccccccc  build 2013-01",
            "│   │   ├── aaaaaaaaaaaa",
            "│   │   └── bbbbbbbbbbbb",
            "│   └── dddddddddddd  build 2013-02",
            "│       ├── ffffffffffff",
            "│       └── bbbbbbbbbbbb",
            "└── 000000000000",
        ]
    )


def test_a_tree_shows_a_shared_node_once(lineage: Lineage) -> None:
    assert render(lineage.descendants(WEATHER)) == "\n".join(
        [
            "bbbbbbbbbbbb",
            "├── cccccccccccc  build 2013-01",
            "│   └── model:flights/3  train 2013-01..2013-02",
            "│       └── eeeeeeeeeeee  score 2013-03",
            "└── dddddddddddd  build 2013-02",
            "    └── model:flights/3  (shown above)",
        ]
    )


def test_a_cycle_ends(tmp_path: Path) -> None:
    # Mending and breaking a table again can give the content that was there before.
    lineage = Lineage(DirectoryStore(path=tmp_path / "store"))
    there, back = Edge(node("b"), (node("a"),), "mend", "m", "w"), Edge(node("a"), (node("b"),), "break", "m", "w")
    lineage.record(there)
    lineage.record(back)
    for graph in (lineage.ancestors(node("a")), lineage.descendants(node("a"))):
        assert set(graph.edges) == {there, back}
    assert render(lineage.ancestors(node("a"))) == "\n".join(
        ["aaaaaaaaaaaa  break w", "└── bbbbbbbbbbbb  mend w", "    └── aaaaaaaaaaaa  (shown above)"]
    )


def test_a_long_history_needs_no_deep_recursion() -> None:
    chain = [f"{place:064x}" for place in range(3000)]
    edges = tuple(Edge(new, (old,), "step", "m", "w") for old, new in pairwise(chain))
    lines = render(Graph(chain[-1], "ancestors", edges)).splitlines()
    assert len(lines) == 3000
    assert lines[-1].endswith(short(chain[0]))


@pytest.mark.parametrize("text", ["", "abc", "A" * 64, "model:", "model:flights", "model:/3", "model:flights/"])
def test_a_text_that_is_no_node_is_refused(lineage: Lineage, text: str) -> None:
    with pytest.raises(InvalidNode, match="names no node"):
        lineage.ancestors(text)
    with pytest.raises(InvalidNode):
        Edge(text, (RAW,), "build", "m", "w")
    with pytest.raises(InvalidNode):
        Edge(RAW, (text,), "build", "m", "w")


def test_nothing_comes_from_itself() -> None:
    with pytest.raises(InvalidNode, match="cannot come from itself"):
        Edge(RAW, (WEATHER, RAW), "check", "m", "w")


@pytest.mark.parametrize("name", ["flights", "team/flights", "Grüße & mehr", "a b", "..", "x:y"])
def test_any_model_name_is_a_node(lineage: Lineage, name: str) -> None:
    edge = Edge(f"model:{name}/1", (RAW,), "train", name, "w")
    lineage.record(edge)
    assert lineage.ancestors(f"model:{name}/1").edges == (edge,)
    assert edge in lineage.descendants(RAW).edges


@given(
    st.builds(Edge, st.just(RAW), st.lists(st.just(WEATHER)), st.text(), st.text(), st.text(), st.none() | st.text())
)
def test_an_edge_is_read_back_as_it_was(edge: Edge) -> None:
    assert Edge.from_json(edge.to_json()) == edge
