"""What pandera is known to do to the unwary, and that it does not happen to a table that goes through ``check``."""

from __future__ import annotations

import pickle
import uuid
from datetime import datetime, timedelta
from decimal import Decimal

import pandas as pd
import pandera.polars as pa
import polars as pl
import pytest
from pandera.config import ValidationDepth, config_context
from pandera.errors import SchemaWarning
from pandera.extensions import register_check_method

from trimtab_flows.contracts.check import FAILED_CHECKS, check
from trimtab_flows.contracts.contract import Contract, ContractRefused, Verdict

AS_OF = datetime(2013, 2, 1)


def ask(schema: pa.DataFrameSchema | type[pa.DataFrameModel], frame: pl.DataFrame, **changes: object) -> Verdict:
    return check(
        Contract("t", schema, **({"max_quarantined_share": 1.0} | changes)),  # type: ignore[arg-type]
        frame,
        as_of=AS_OF,
    )


def said(verdict: Verdict) -> list[tuple[str, str, int]]:
    return [(failure.column, failure.check, failure.count) for failure in verdict.failures]


class TestDropInvalidRows:
    def test_a_column_that_cannot_be_read_does_not_empty_the_table(self) -> None:
        schema = pa.DataFrameSchema(
            {"n": pa.Column(pl.Int64), "x": pa.Column(pl.Float64)}, coerce=True, drop_invalid_rows=True
        )
        verdict = ask(schema, pl.DataFrame({"n": ["1", "two", "3"], "x": [1.0, 2.0, 3.0]}))
        assert verdict.status == "refused"
        assert said(verdict) == [("n", "cannot be read as Int64; the type is String", 1)]
        assert verdict.failures[0].samples == ("'two'",)

    def test_rows_go_to_quarantine_and_not_away(self) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(0))}, drop_invalid_rows=True)
        verdict = ask(schema, pl.DataFrame({"n": [1, -1]}))
        assert (verdict.accepted["n"].to_list(), verdict.quarantined["n"].to_list()) == ([1], [-1])

    def test_rows_go_to_quarantine_and_not_away_when_one_column_says_so(self) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(0), drop_invalid_rows=True)})
        verdict = ask(schema, pl.DataFrame({"n": [1, -1]}))
        assert (verdict.accepted["n"].to_list(), verdict.quarantined["n"].to_list()) == ([1], [-1])

    def test_a_repeated_value_does_not_take_good_rows_with_it(self) -> None:
        schema = pa.DataFrameSchema(
            {"n": pa.Column(pl.Int64, unique=True), "x": pa.Column(pl.Float64, pa.Check.ge(0))}, drop_invalid_rows=True
        )
        verdict = ask(schema, pl.DataFrame({"n": [1, 1, 2], "x": [1.0, 2.0, -3.0]}))
        assert verdict.status == "refused"
        assert said(verdict) == [("n", "the values are not unique", 2), ("x", "greater_than_or_equal_to(0)", 1)]

    def test_strict_filter_names_the_columns_it_takes_away(self) -> None:
        verdict = ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64)}, strict="filter"), pl.DataFrame({"n": [1], "m": 2}))
        assert verdict.accepted.columns == ["n"]
        assert verdict.extra_columns == ("m",)


class TestChecksThatYamlLoses:
    """A schema that goes to YAML and back has lost these; a contract is Python, and holds them."""

    def test_a_schema_read_back_holds_no_more_than_pandera_kept(self) -> None:
        """No check can tell that another one was lost: a schema kept as YAML needs registered checks."""
        odd = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) % 2 == 1), name="odd")
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, [pa.Check.ge(0), odd])})
        frame = pl.DataFrame({"n": [-1, 1, 2]})
        assert said(ask(schema, frame)) == [("n", "greater_than_or_equal_to(0)", 1), ("n", "odd", 1)]
        with pytest.warns(UserWarning, match="Check `odd` will be skipped"):
            text = schema.to_yaml()
        verdict = ask(pa.DataFrameSchema.from_yaml(text), frame)
        assert said(verdict) == [("n", "greater_than_or_equal_to(0)", 1)]
        assert verdict.accepted["n"].to_list() == [1, 2]

    def test_a_lambda(self) -> None:
        odd = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) % 2 == 1), name="odd")
        verdict = ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64, odd)}), pl.DataFrame({"n": [1, 2]}))
        assert said(verdict) == [("n", "odd", 1)]

    def test_checks_of_a_model(self) -> None:
        class Numbers(pa.DataFrameModel):
            n: int
            m: int

            @pa.check("n")
            @classmethod
            def odd(cls, data: pa.PolarsData) -> pl.LazyFrame:
                return data.lazyframe.select(pl.col(data.key) % 2 == 1)

            @pa.dataframe_check
            @classmethod
            def ordered(cls, data: pa.PolarsData) -> pl.LazyFrame:
                return data.lazyframe.select(pl.col("n") <= pl.col("m"))

        verdict = ask(Numbers, pl.DataFrame({"n": [1, 2, 5], "m": [1, 2, 3]}))
        assert said(verdict) == [("n", "odd", 1), ("(row)", "ordered", 1)]
        assert verdict.quarantined[FAILED_CHECKS].to_list() == ["n: odd", "(row): ordered"]

    def test_a_registered_check(self) -> None:
        name = f"divides_{uuid.uuid4().hex}"

        def divides(data: pa.PolarsData, *, by: int) -> pl.LazyFrame:
            return data.lazyframe.select(pl.col(data.key) % by == 0)

        divides.__name__ = name
        register_check_method(divides, statistics=["by"])
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, getattr(pa.Check, name)(by=3))})
        verdict = ask(schema, pl.DataFrame({"n": [3, 4]}))
        assert [(failure.column, failure.count, failure.samples) for failure in verdict.failures] == [("n", 1, ("4",))]
        assert verdict.failures[0].check.startswith(name)


class TestTypes:
    @pytest.mark.parametrize("kind", [str, object])
    def test_text_that_came_through_pandas(self, kind: type) -> None:
        """pandas 3 keeps text as ``str``, older code as ``object``: both are String here."""
        frame = pl.from_pandas(pd.DataFrame({"c": pd.Series(["a", "b"], dtype=kind)}))
        assert ask(pa.DataFrameSchema({"c": pa.Column(str)}), frame).status == "ok"

    @pytest.mark.parametrize("column", [pa.Column(object), pa.Column(pl.Object)])
    def test_a_column_of_objects_names_the_type_it_found(self, column: pa.Column) -> None:
        verdict = ask(pa.DataFrameSchema({"c": column}), pl.DataFrame({"c": ["a"]}))
        assert said(verdict) == [("c", "the type is String, not Object", 1)]

    def test_objects_where_text_should_be(self) -> None:
        frame = pl.DataFrame({"c": pl.Series(["a", 1], dtype=pl.Object)})
        for coerce in (False, True):
            verdict = ask(pa.DataFrameSchema({"c": pa.Column(str, unique=True, coerce=coerce)}), frame)
            assert verdict.status == "refused"
            assert verdict.failures[0].samples == ("'a'", "1")

    @pytest.mark.parametrize(
        "column", [pa.Column(str), pa.Column(pl.Int64), pa.Column(pl.Enum(["a"])), pa.Column(None)]
    )
    def test_an_empty_table_without_types(self, column: pa.Column) -> None:
        verdict = ask(pa.DataFrameSchema({"c": column}), pl.DataFrame({"c": []}), min_rows=0)
        assert verdict.status == "ok"
        wanted = pl.Null if column.dtype is None else column.dtype.type
        assert verdict.accepted.schema["c"] == wanted

    def test_an_empty_table_of_a_wrong_type(self) -> None:
        verdict = ask(pa.DataFrameSchema({"c": pa.Column(str)}), pl.DataFrame(schema={"c": pl.Int64}), min_rows=0)
        assert said(verdict) == [("c", "the type is Int64, not String", 0)]

    def test_a_column_without_a_single_value(self) -> None:
        frame = pl.DataFrame({"n": [1, 2], "c": [None, None]})
        columns = {"n": pa.Column(pl.Int64), "c": pa.Column(pl.Float64, pa.Check.ge(0), nullable=True)}
        verdict = ask(pa.DataFrameSchema(columns), frame)
        assert verdict.status == "ok"
        assert verdict.accepted.schema["c"] == pl.Float64
        columns["c"] = pa.Column(pl.Float64)
        assert said(ask(pa.DataFrameSchema(columns), frame))[-1] == ("c", "not_nullable", 2)

    def test_times_of_another_unit(self) -> None:
        """pandas 3 makes microseconds where pandas 2 made nanoseconds."""
        frame = pl.from_pandas(pd.DataFrame({"at": pd.to_datetime(["2013-01-01"])}))
        assert frame.schema["at"] == pl.Datetime("us")
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("ns"))})
        verdict = ask(schema, frame)
        assert verdict.status == "refused"
        assert verdict.failures[0].check == (
            "the type is Datetime(time_unit='us', time_zone=None), not Datetime(time_unit='ns', time_zone=None)"
        )
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("ns"), coerce=True)})
        assert ask(schema, frame).accepted.schema["at"] == pl.Datetime("ns")

    def test_categories(self) -> None:
        enum = pl.Enum(["AA", "UA"])
        schema = pa.DataFrameSchema(
            {"c": pa.Column(pl.Categorical, pa.Check.isin(["AA"])), "e": pa.Column(enum, pa.Check.isin(["AA"]))}
        )
        frame = pl.DataFrame({"c": ["AA", "ZZ"], "e": ["AA", "UA"]}, schema={"c": pl.Categorical, "e": enum})
        verdict = ask(schema, frame)
        assert said(verdict) == [("c", "isin(['AA'])", 1), ("e", "isin(['AA'])", 1)]
        assert [failure.samples for failure in verdict.failures] == [("'ZZ'",), ("'UA'",)]
        assert verdict.accepted.schema == frame.schema

    def test_values_that_are_no_category(self) -> None:
        schema = pa.DataFrameSchema({"e": pa.Column(pl.Enum(["AA", "UA"]), coerce=True, nullable=True)})
        verdict = ask(schema, pl.DataFrame({"e": ["AA", "ZZ", None]}))
        (failure,) = verdict.failures
        assert (failure.count, failure.samples) == (1, ("'ZZ'",))

    @pytest.mark.parametrize(
        "values",
        [
            pl.Series([b"\xff", b"\xfe"]),
            pl.Series([timedelta(1), timedelta(2)]),
            pl.Series([Decimal("1.2"), Decimal("2.4")]),
            pl.Series([[b"\xff"], [b"\xfe"]]),
            pl.Series([{"a": 1}, {"a": 2}]),
            pl.Series([object(), object()], dtype=pl.Object),
        ],
        ids=["binary", "duration", "decimal", "list of binary", "struct", "object"],
    )
    def test_bad_values_of_types_that_panderas_report_fails_on(self, values: pl.Series) -> None:
        second = pa.Check(lambda data: data.lazyframe.select(pl.col("n") != 2), name="not the second")
        frame = pl.DataFrame({"n": [1, 2], "x": values})
        in_column = ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64), "x": pa.Column(None, second)}), frame)
        on_rows = ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64), "x": pa.Column(None)}, checks=second), frame)
        for verdict, column in ((in_column, "x"), (on_rows, "(row)")):
            assert said(verdict) == [(column, "not the second", 1)]
            assert verdict.quarantined["n"].to_list() == [2]


class TestCoercion:
    def test_every_column_that_cannot_be_read_is_named(self) -> None:
        columns = {name: pa.Column(pl.Int64, pa.Check.ge(0)) for name in ("a", "b", "c")}
        frame = pl.DataFrame({"a": ["1", "x", None], "b": ["y", "2", "y"], "c": ["1", "2", "3"]})
        verdict = ask(pa.DataFrameSchema(columns, coerce=True), frame)
        assert [(failure.column, failure.count, failure.samples) for failure in verdict.failures] == [
            ("a", 1, ("'x'",)),
            ("b", 2, ("'y'",)),
        ]

    def test_a_missing_column_beside_one_to_coerce(self) -> None:
        columns = {"a": pa.Column(pl.Int64), "b": pa.Column(pl.Int64)}
        verdict = ask(pa.DataFrameSchema(columns, coerce=True), pl.DataFrame({"a": ["1"]}))
        assert said(verdict) == [("b", "the column is missing", 1)]

    def test_values_are_read_before_they_are_checked(self) -> None:
        schema = pa.DataFrameSchema({"a": pa.Column(pl.Int64, pa.Check.ge(2), coerce=True)})
        verdict = ask(schema, pl.DataFrame({"a": ["1", "2"]}))
        assert verdict.accepted["a"].to_list() == [2]
        assert verdict.quarantined["a"].to_list() == ["1"]

    def test_a_fraction_is_not_cut_off(self) -> None:
        schema = pa.DataFrameSchema({"a": pa.Column(pl.Int64, coerce=True, nullable=True)})
        assert ask(schema, pl.DataFrame({"a": [1.0, None]})).accepted["a"].to_list() == [1, None]
        verdict = ask(schema, pl.DataFrame({"a": [1.0, 1.5, None]}))
        assert verdict.status == "refused"
        assert (verdict.failures[0].count, verdict.failures[0].samples) == (1, ("1.5",))

    def test_a_number_that_does_not_fit(self) -> None:
        verdict = ask(pa.DataFrameSchema({"a": pa.Column(pl.Int8, coerce=True)}), pl.DataFrame({"a": [1, 1000]}))
        assert (verdict.failures[0].count, verdict.failures[0].samples) == (1, ("1000",))

    def test_one_type_for_all_columns(self) -> None:
        frame = pl.DataFrame({"a": ["1"], "b": ["x"]})
        verdict = ask(pa.DataFrameSchema(dtype=pl.Int64, coerce=False), frame)
        assert said(verdict) == [("a", "the type is String, not Int64", 1), ("b", "the type is String, not Int64", 1)]

    def test_columns_that_are_added(self) -> None:
        columns = {"a": pa.Column(pl.Int64, default=7), "b": pa.Column(pl.Int64, nullable=True), "c": pa.Column(str)}
        schema = pa.DataFrameSchema(columns, add_missing_columns=True)
        assert ask(schema, pl.DataFrame({"c": ["x"]})).accepted.rows() == [(7, None, "x")]
        assert said(ask(schema, pl.DataFrame({"a": [1]}))) == [("c", "the column is missing", 1)]


class TestNullAndNan:
    FRAME = pl.DataFrame({"n": [1, 2, 3, 4], "x": [0.5, None, float("nan"), float("inf")]})

    def verdict(self, column: pa.Column) -> Verdict:
        return ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64), "x": column}), self.FRAME)

    def test_neither_may_be_where_null_may_not(self) -> None:
        verdict = self.verdict(pa.Column(pl.Float64))
        assert verdict.quarantined["n"].to_list() == [2, 3]
        assert verdict.failures[0].samples == ("None", "nan")

    def test_null_passes_and_nan_is_outside_every_range(self) -> None:
        verdict = self.verdict(pa.Column(pl.Float64, pa.Check.in_range(0, 1), nullable=True))
        assert verdict.quarantined["n"].to_list() == [3, 4]

    def test_a_lower_bound_alone_lets_nan_pass_as_polars_orders_it_last(self) -> None:
        verdict = self.verdict(pa.Column(pl.Float64, pa.Check.ge(0), nullable=True))
        assert verdict.status == "ok"

    def test_a_check_may_ask_for_nulls_to_fail(self) -> None:
        verdict = self.verdict(pa.Column(pl.Float64, pa.Check.le(1, ignore_na=False), nullable=True))
        assert verdict.quarantined["n"].to_list() == [2, 3, 4]


class TestSwitches:
    def test_pandera_switched_off_does_not_switch_contracts_off(self) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(0))})
        with config_context(validation_enabled=False):
            assert said(ask(schema, pl.DataFrame({"n": [-1, 1]}))) == [("n", "greater_than_or_equal_to(0)", 1)]
        with config_context(validation_depth=ValidationDepth.SCHEMA_ONLY):
            assert said(ask(schema, pl.DataFrame({"n": [-1, 1]}))) == [("n", "greater_than_or_equal_to(0)", 1)]

    def test_a_check_that_only_warns_holds_nothing_back(self) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(0, raise_warning=True))})
        with pytest.warns(SchemaWarning, match=r"greater_than_or_equal_to\(0\)"):
            verdict = ask(schema, pl.DataFrame({"n": [-1, 1]}))
        assert (verdict.status, verdict.accepted.height) == ("ok", 2)

    def test_a_check_that_shows_few_failures_still_fails_all_its_rows(self) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(5, n_failure_cases=1))})
        verdict = ask(schema, pl.DataFrame({"n": [1, 2, 3, 9]}))
        assert verdict.failures[0].count == 3
        assert verdict.accepted["n"].to_list() == [9]

    def test_the_schema_is_left_as_it_was(self) -> None:
        column = pa.Column(pl.Int64, pa.Check.ge(5), coerce=True, regex=True)
        schema = pa.DataFrameSchema({"n.*": column}, drop_invalid_rows=True, strict="filter")
        before = repr(schema), repr(column.checks), column.checks[0].n_failure_cases
        ask(schema, pl.DataFrame({"n1": ["1"], "n2": [7]}))
        assert (repr(schema), repr(column.checks), column.checks[0].n_failure_cases) == before

    @pytest.mark.parametrize("name", ["check_output", "_duplicated", FAILED_CHECKS])
    def test_a_table_may_have_columns_by_the_names_that_pandera_uses(self, name: str) -> None:
        schema = pa.DataFrameSchema({"n": pa.Column(pl.Int64, pa.Check.ge(0), unique=True)})
        verdict = ask(schema, pl.DataFrame({"n": [-1, 1], name: ["old", "old"]}))
        assert said(verdict) == [("n", "greater_than_or_equal_to(0)", 1)]
        assert verdict.extra_columns == (name,)
        assert verdict.quarantined[FAILED_CHECKS].to_list() == ["n: greater_than_or_equal_to(0)"]

    def test_a_refusal_survives_a_process_boundary(self) -> None:
        verdict = ask(pa.DataFrameSchema({"n": pa.Column(pl.Int64)}), pl.DataFrame({"n": ["x"]}))
        with pytest.raises(ContractRefused) as caught:
            verdict.accepted_or_raise()
        again = pickle.loads(pickle.dumps(caught.value))
        assert (str(again), again.failures) == (str(caught.value), verdict.failures)
