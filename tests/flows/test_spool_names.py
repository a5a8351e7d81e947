"""Every name can be logged to MLflow, and read back as it was."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric

from trimtab_flows.spool.names import NameTooLong, escape, unescape

#: Short, and of what is in the way, so that the rules meet each other.
AWKWARD = st.text(alphabet="_x5F7C2E./|ab\n :%é\ud800", max_size=30)


@given(st.one_of(AWKWARD, st.text(max_size=25)))
@example("")
@example("a|b")
@example("..")
@example("a//b/../c/")
@example("_x7C|_x_")
def test_any_name_is_accepted_and_comes_back(name: str) -> None:
    escaped = escape(name)
    _validate_metric(escaped, 1.0, 0, 0)
    assert unescape(escaped) == name


@given(AWKWARD, AWKWARD)
def test_two_names_never_become_one(first: str, second: str) -> None:
    assert (escape(first) == escape(second)) == (first == second)


@pytest.mark.parametrize("name", ["loss", "drift/psi/air_time", "drift/js/ä b:c-d.e", "performance/auc", "max_x", "x_"])
def test_ordinary_names_stay(name: str) -> None:
    assert unescape(escape(name)) == name
    assert (escape(name) == name) == ("_x" not in name)


def test_a_name_too_long_is_refused_and_named() -> None:
    assert len(escape("a" * 250)) == 250
    with pytest.raises(NameTooLong, match=r"'\|\|.*has 300 characters.*250 are allowed"):
        escape("|" * 60)


@pytest.mark.parametrize("name", ["_xFFFFFFFF_", "_x110000_", "a_x_b"])
def test_a_name_of_someone_else_is_read_as_far_as_it_goes(name: str) -> None:
    assert isinstance(unescape(name), str)
