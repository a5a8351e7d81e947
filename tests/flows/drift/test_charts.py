"""Charts of drift: worst first, safe for any column name, and well-formed."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from trimtab_flows.drift.charts import drift_markdown, drift_svg
from trimtab_flows.drift.signals import PREDICTION, Signal

SVG = "{http://www.w3.org/2000/svg}"


def both(column: str, psi: float, by_chance: float = 0.0) -> tuple[Signal, Signal]:
    return Signal("psi", column, psi, by_chance), Signal("js", column, psi / 10)


SIGNALS = (*both("calm", 0.01), *both("wild", 0.5), *both("middling", 0.12), *both(PREDICTION, 0.02))


def columns(markdown: str) -> list[str]:
    return [line.split("|")[1].strip() for line in markdown.splitlines() if line.startswith("| ")][1:]


def test_predictions_come_first_and_then_the_worst_inputs():
    table = drift_markdown(SIGNALS)
    assert columns(table) == [PREDICTION, "wild", "middling", "calm"]
    assert "| wild | 0.500 | `████████████████████████` large | 0.050 |" in table
    middling, calm = (next(line for line in table.splitlines() if name in line) for name in ("middling", "calm"))
    assert "shift" in middling
    assert middling.count("█") == 5  # 24 * 0.12 / 0.5 is 5.76; the rest is a part of a block
    assert "shift" not in calm
    assert "large" not in calm


def test_bars_stay_comparable_when_one_column_is_beyond_all_measure():
    table = drift_markdown((*both("unit", 17.0), *both("wild", 0.5)))
    wild = next(line for line in table.splitlines() if "wild" in line)
    assert wild.count("█") == 12


def test_what_chance_may_have_done_is_not_called_a_shift():
    assert "`" in drift_markdown(both("few rows", 0.3, by_chance=0.2))
    assert "large" not in drift_markdown(both("few rows", 0.3, by_chance=0.2)).splitlines()[2]
    assert "large" in drift_markdown(both("many rows", 0.3, by_chance=0.001)).splitlines()[2]


def test_only_the_worst_are_shown_and_the_others_counted():
    many = [signal for number in range(30) for signal in both(f"c{number:02}", number / 100)]
    table = drift_markdown(many, top=10)
    assert columns(table) == [f"c{number:02}" for number in range(29, 19, -1)]
    assert "20 more columns drifted less." in table
    assert len(list(ElementTree.fromstring(drift_svg(many, top=10)).iter(f"{SVG}rect"))) == 10


def test_svg_has_a_bar_for_each_column_as_long_as_its_drift():
    picture = ElementTree.fromstring(drift_svg(SIGNALS))
    widths = [float(bar.attrib["width"]) for bar in picture.iter(f"{SVG}rect")]
    assert widths[1] == max(widths)
    assert widths[2] / widths[1] == pytest.approx(0.12 / 0.5, abs=0.001)
    assert "http" not in drift_svg(SIGNALS).replace("http://www.w3.org/2000/svg", "")


def test_a_name_with_signs_of_markup_stays_a_name():
    name = "a|b<script>&\nc"
    assert len(drift_markdown(both(name, 0.2)).splitlines()[2].replace("\\|", "").split("|")) == 6
    picture = ElementTree.fromstring(drift_svg(both(name, 0.2)))
    assert name in {text.text for text in picture.iter(f"{SVG}text")}


def test_without_signals_both_say_so():
    assert drift_markdown(()) == "Nothing was measured."
    assert "Nothing was measured." in "".join(ElementTree.fromstring(drift_svg(())).itertext())


def test_no_drift_at_all_is_drawn_without_a_bar():
    assert "█" not in drift_markdown(both("x", 0.0))
    ElementTree.fromstring(drift_svg(both("x", 0.0)))
