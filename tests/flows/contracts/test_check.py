"""The verdicts: what passes, what is held back, and every reason to refuse a table."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pandera.polars as pa
import polars as pl
import pytest
from pandera.api.parsers import Parser

from trimtab_flows.contracts.check import FAILED_CHECKS, check
from trimtab_flows.contracts.contract import CheckFailure, Contract, ContractRefused, Verdict

AS_OF = datetime(2013, 2, 1)
SCHEMA = pa.DataFrameSchema(
    {
        "id": pa.Column(pl.Int64),
        "delay": pa.Column(pl.Float64, pa.Check.in_range(-60, 600), nullable=True),
        "carrier": pa.Column(pl.String, pa.Check.isin(["AA", "UA"])),
        "at": pa.Column(pl.Datetime("us")),
    }
)


def flights(rows: int = 10) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "id": range(rows),
            "delay": [float(row) for row in range(rows)],
            "carrier": ["AA", "UA"] * (rows // 2) + ["AA"] * (rows % 2),
            "at": [datetime(2013, 1, 1) + timedelta(hours=row) for row in range(rows)],
        },
        schema={"id": pl.Int64, "delay": pl.Float64, "carrier": pl.String, "at": pl.Datetime("us")},
    )


def contract(**changes: object) -> Contract:
    return Contract(
        **{"table": "flights", "schema": SCHEMA, "key": ("id",), "event_time": "at", "max_quarantined_share": 0.5}
        | changes
    )  # type: ignore[arg-type]


def ask(frame: pl.DataFrame, **changes: object) -> Verdict:
    return check(contract(**changes), frame, as_of=AS_OF)


def with_row(place: int, **values: object) -> pl.DataFrame:
    """The ten flights, with other values in one row."""
    chosen = pl.int_range(pl.len()) == place
    frame = flights()
    return frame.with_columns(
        pl.when(chosen).then(pl.lit(value, dtype=frame.schema[name])).otherwise(pl.col(name)).alias(name)
        for name, value in values.items()
    )


def said(verdict: Verdict) -> list[tuple[str, str, int]]:
    return [(failure.column, failure.check, failure.count) for failure in verdict.failures]


class TestPassing:
    def test_a_clean_table_is_handed_on_whole(self) -> None:
        verdict = ask(flights())
        assert (verdict.status, verdict.rows, verdict.failures) == ("ok", 10, ())
        assert verdict.accepted.equals(flights())
        assert verdict.quarantined.columns == [*flights().columns, FAILED_CHECKS]
        assert verdict.quarantined.is_empty()
        assert verdict.accepted_or_raise().equals(flights())

    def test_a_model_says_the_same_as_a_schema(self) -> None:
        class Flights(pa.DataFrameModel):
            id: int
            delay: float = pa.Field(in_range={"min_value": -60, "max_value": 600}, nullable=True)
            carrier: str = pa.Field(isin=["AA", "UA"])
            at: pl.Datetime

        bad = with_row(3, delay=1e6, carrier="ZZ")
        one, other = ask(bad, schema=Flights), ask(bad)
        assert one.failures == other.failures
        assert one.accepted.equals(other.accepted)
        assert one.quarantined.equals(other.quarantined)

    def test_columns_that_the_contract_does_not_name_are_left_out_and_named(self) -> None:
        verdict = ask(flights().with_columns(pl.lit(1).alias("tail"), pl.lit("x").alias("note")))
        assert verdict.status == "ok"
        assert verdict.extra_columns == ("tail", "note")
        assert verdict.accepted.columns == flights().columns

    def test_quarantined_rows_keep_the_extra_columns(self) -> None:
        verdict = ask(with_row(0, delay=-100.0).with_columns(pl.lit(1).alias("tail")))
        assert verdict.quarantined.columns == [*flights().columns, "tail", FAILED_CHECKS]

    def test_key_and_event_time_are_handed_on_though_the_schema_does_not_name_them(self) -> None:
        schema = pa.DataFrameSchema({"delay": SCHEMA.columns["delay"]})
        verdict = ask(flights(), schema=schema)
        assert verdict.accepted.columns == ["delay", "id", "at"]
        assert verdict.extra_columns == ("carrier",)

    def test_a_schema_with_checks_on_rows_only_hands_on_every_column(self) -> None:
        schema = pa.DataFrameSchema(checks=pa.Check(lambda data: data.lazyframe.select(pl.col("delay") >= 0)))
        assert ask(flights(), schema=schema).accepted.columns == flights().columns

    def test_columns_that_match_a_pattern_are_checked_and_handed_on(self) -> None:
        schema = pa.DataFrameSchema({"hour_.+": pa.Column(pl.Int64, pa.Check.lt(24), regex=True)})
        frame = pl.DataFrame({"hour_out": [1, 2, 3], "hour_in": [4, 99, 5], "day": [1, 2, 3]})
        verdict = ask(frame, schema=schema, key=(), event_time=None)
        assert said(verdict) == [("hour_in", "less_than(24)", 1)]
        assert verdict.accepted.columns == ["hour_out", "hour_in"]
        assert verdict.extra_columns == ("day",)

    def test_an_optional_column_may_be_absent(self) -> None:
        schema = SCHEMA.add_columns({"gate": pa.Column(pl.String, required=False)})
        assert ask(flights(), schema=schema).accepted.columns == flights().columns

    def test_an_empty_table_may_pass_where_no_rows_are_asked_for(self) -> None:
        verdict = ask(flights().clear(), min_rows=0)
        assert verdict.status == "ok"
        assert verdict.accepted.schema == flights().schema


class TestQuarantine:
    def test_rows_that_fail_are_held_back_with_every_reason(self) -> None:
        frame = with_row(3, delay=1e6, carrier="ZZ")
        verdict = ask(frame)
        assert verdict.status == "quarantined"
        assert verdict.accepted.equals(frame.filter(pl.col("id") != 3))
        assert verdict.quarantined.drop(FAILED_CHECKS).equals(frame.filter(pl.col("id") == 3))
        assert verdict.quarantined[FAILED_CHECKS].to_list() == [
            "delay: in_range(-60, 600); carrier: isin(['AA', 'UA'])"
        ]
        assert verdict.failures == (
            CheckFailure("flights", "delay", "in_range(-60, 600)", 1, ("1000000.0",)),
            CheckFailure("flights", "carrier", "isin(['AA', 'UA'])", 1, ("'ZZ'",)),
        )

    def test_a_null_where_none_may_be_is_held_back(self) -> None:
        verdict = ask(with_row(2, carrier=None))
        assert said(verdict) == [("carrier", "not_nullable", 1)]
        assert verdict.quarantined["id"].to_list() == [2]

    def test_three_different_samples_are_shown_and_all_rows_counted(self) -> None:
        bad = flights().with_columns(pl.Series("delay", [-99.0, -99.0, 1.0, -98.0, -97.0, -96.0, 1.0, 1.0, 1.0, 1.0]))
        (failure,) = ask(bad).failures
        assert (failure.count, failure.samples) == (5, ("-99.0", "-98.0", "-97.0"))

    def test_a_check_of_ones_own_on_a_column(self) -> None:
        even = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) % 2 == 0), name="even")
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, even)})
        verdict = ask(flights(), schema=schema)
        assert said(verdict) == [("id", "even", 5)]
        assert verdict.accepted["id"].to_list() == [0, 2, 4, 6, 8]

    def test_a_check_without_a_name_is_told_by_its_place(self) -> None:
        schema = pa.DataFrameSchema(
            {"id": pa.Column(pl.Int64, pa.Check(lambda data: data.lazyframe.select(pl.col(data.key) > 0)))}
        )
        (failure,) = ask(flights(), schema=schema).failures
        assert failure.check.startswith("unnamed check (line ")
        assert failure.check.endswith(" of test_check.py)")

    def test_a_check_on_whole_rows_shows_the_key_first(self) -> None:
        early = pa.Check(lambda data: data.lazyframe.select(pl.col("delay") < pl.col("id") + 1), name="delay below id")
        schema = pa.DataFrameSchema(SCHEMA.columns, checks=early)
        verdict = ask(with_row(4, delay=5.0), schema=schema)
        (failure,) = verdict.failures
        assert (failure.column, failure.check, failure.count) == ("(row)", "delay below id", 1)
        assert failure.samples[0].startswith("id=4, delay=5.0, carrier='AA', at=2013-01-01 04:00:00")
        assert verdict.quarantined[FAILED_CHECKS].to_list() == ["(row): delay below id"]

    def test_a_check_element_by_element(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, pa.Check(_is_small, element_wise=True, name="small"))})
        assert said(ask(flights(), schema=schema)) == [("id", "small", 2)]

    def test_a_share_that_is_just_allowed(self) -> None:
        bad = flights(100).with_columns(
            pl.when(pl.col("id") < 29).then(-99.0).otherwise(pl.col("delay")).alias("delay")
        )
        assert ask(bad, max_quarantined_share=0.29).status == "quarantined"
        assert ask(bad, max_quarantined_share=0.28).status == "refused"

    def test_rows_are_held_back_as_they_came_in_and_handed_on_as_the_contract_reads_them(self) -> None:
        schema = pa.DataFrameSchema(
            {"id": pa.Column(pl.Int64, pa.Check.ge(1)), "gate": pa.Column(pl.String, default="?")}, coerce=True
        )
        frame = pl.DataFrame({"id": ["0", "1"], "gate": [None, None]}, schema={"id": pl.String, "gate": pl.String})
        verdict = ask(frame, schema=schema, event_time=None)
        assert verdict.quarantined.drop(FAILED_CHECKS).rows() == [("0", None)]
        assert verdict.accepted.rows() == [(1, "?")]


def _is_small(value: int) -> bool:
    return value < 8


def _divides_by_zero(_: object) -> bool:
    return 1 / 0 > 0


def _stops(_: object) -> bool:
    raise ArithmeticError


class TestRefusal:
    def test_more_than_the_allowed_share(self) -> None:
        verdict = ask(with_row(3, delay=1e6), max_quarantined_share=0.05)
        assert verdict.status == "refused"
        assert said(verdict) == [
            ("(any)", "more than 5.00% of all rows (10) would be held back", 1),
            ("delay", "in_range(-60, 600)", 1),
        ]
        assert verdict.failures[1].samples == ("1000000.0",)

    def test_a_missing_column(self) -> None:
        assert said(ask(flights().drop("carrier"))) == [("carrier", "the column is missing", 10)]

    @pytest.mark.parametrize("lost", ["id", "at"])
    def test_a_missing_key_or_event_time_that_the_schema_does_not_name(self, lost: str) -> None:
        schema = pa.DataFrameSchema({"delay": SCHEMA.columns["delay"]})
        assert said(ask(flights().drop(lost), schema=schema)) == [(lost, "the column is missing", 10)]

    def test_no_column_matches_a_pattern(self) -> None:
        schema = pa.DataFrameSchema({"hour_.+": pa.Column(pl.Int64, regex=True)})
        assert said(ask(flights(), schema=schema)) == [("hour_.+", "no column has a name like this", 10)]

    def test_a_wrong_type_shows_values_and_runs_no_check_on_them(self) -> None:
        verdict = ask(flights().with_columns(pl.col("delay").cast(pl.String)))
        assert verdict.failures == (
            CheckFailure("flights", "delay", "the type is String, not Float64", 10, ("'0.0'", "'1.0'", "'2.0'")),
        )

    def test_an_empty_table(self) -> None:
        verdict = ask(flights().clear())
        assert said(verdict) == [("(table)", "the table is empty", 0)]
        assert verdict.status == "refused"

    def test_an_empty_table_that_lacks_a_column_too(self) -> None:
        verdict = ask(flights().clear().drop("carrier"))
        assert said(verdict) == [("carrier", "the column is missing", 0), ("(table)", "the table is empty", 0)]

    def test_too_few_rows(self) -> None:
        assert said(ask(flights(), min_rows=11)) == [("(table)", "fewer than 11 rows", 10)]

    def test_too_few_rows_left_once_the_bad_ones_are_gone(self) -> None:
        verdict = ask(with_row(3, delay=1e6), min_rows=10)
        assert said(verdict)[0] == ("(table)", "fewer than 10 rows would be left", 9)

    def test_no_row_left(self) -> None:
        verdict = ask(flights().with_columns(pl.lit(-99.0).alias("delay")), max_quarantined_share=1.0)
        assert verdict.status == "refused"
        assert said(verdict)[0] == ("(table)", "no row would be left", 0)

    def test_a_null_key(self) -> None:
        verdict = ask(with_row(4, id=None), schema=SCHEMA.update_column("id", nullable=True))
        assert said(verdict) == [("id", "the key is null", 1)]

    def test_a_key_that_is_no_number(self) -> None:
        frame = pl.DataFrame({"id": [1.0, float("nan")]})
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Float64, nullable=True)})
        assert said(ask(frame, schema=schema, event_time=None)) == [("id", "the key is null", 1)]

    def test_a_repeated_key(self) -> None:
        verdict = ask(with_row(4, id=7))
        assert verdict.failures == (CheckFailure("flights", "id", "the key is not unique", 2, ("7",)),)

    def test_a_repeated_key_of_two_columns(self) -> None:
        frame = flights().with_columns(pl.lit(1, pl.Int64).alias("id")).head(5)
        verdict = ask(frame.with_columns(pl.Series("carrier", ["AA", "UA", "AA", None, None])), key=("id", "carrier"))
        assert said(verdict)[:2] == [("id, carrier", "the key is null", 2), ("id, carrier", "the key is not unique", 2)]
        assert verdict.failures[1].samples == ("id=1, carrier='AA'",)

    def test_keys_that_become_equal_once_they_are_read(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, coerce=True)})
        verdict = ask(pl.DataFrame({"id": ["1", "01"]}), schema=schema, event_time=None)
        assert said(verdict) == [("id", "the key is not unique", 2)]

    def test_zeros_of_both_signs_are_one_key(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Float64)})
        verdict = ask(pl.DataFrame({"id": [0.0, -0.0, 1.0]}), schema=schema, event_time=None)
        assert said(verdict) == [("id", "the key is not unique", 2)]

    def test_keys_that_cannot_be_compared(self) -> None:
        frame = pl.DataFrame({"id": pl.Series([object(), object()], dtype=pl.Object), "n": [1, 2]})
        verdict = ask(frame, schema=pa.DataFrameSchema({"n": pa.Column(pl.Int64)}), event_time=None)
        assert said(verdict) == [("id", "the key has values that cannot be compared (type Object)", 2)]

    @pytest.mark.parametrize("kind", [pl.List(pl.Int64), pl.Array(pl.Int64, 1), pl.Struct({"a": pl.Int64})])
    def test_nested_keys(self, kind: pl.DataType) -> None:
        value = {"a": 1} if isinstance(kind, pl.Struct) else [1]
        frame = pl.DataFrame({"id": pl.Series([value, value], dtype=kind)})
        schema = pa.DataFrameSchema({"id": pa.Column(None)})
        assert said(ask(frame, schema=schema, event_time=None)) == [("id", "the key is not unique", 2)]

    def test_a_time_yet_to_come(self) -> None:
        late = datetime(2013, 2, 1, 0, 0, 0, 1)
        verdict = ask(with_row(4, at=late))
        assert verdict.failures == (
            CheckFailure("flights", "at", "later than 2013-02-01 00:00:00", 1, ("2013-02-01 00:00:00.000001",)),
        )
        assert ask(with_row(4, at=AS_OF)).status == "ok"

    def test_an_event_time_of_another_type(self) -> None:
        schema = SCHEMA.update_column("at", dtype=pl.String)
        verdict = ask(flights().with_columns(pl.col("at").cast(pl.String)), schema=schema)
        assert said(verdict) == [("at", "the type is String; an event time is a Date or a Datetime", 10)]

    def test_a_column_that_must_be_unique(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, unique=True)})
        verdict = ask(with_row(4, id=7), schema=schema, key=())
        assert verdict.failures == (CheckFailure("flights", "id", "the values are not unique", 2, ("7",)),)
        assert verdict.status == "refused"

    @pytest.mark.parametrize("unique", [["id", "carrier"], [["id", "carrier"], ["delay"]]])
    def test_columns_that_must_be_unique_together(self, unique: list[str]) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64), "carrier": pa.Column(pl.String)}, unique=unique)
        verdict = ask(with_row(4, id=6), schema=schema, key=())
        assert said(verdict) == [("id, carrier", "the values are not unique", 2)]
        assert verdict.failures[0].samples == ("id=6, carrier='AA'",)

    def test_a_check_on_the_column_as_a_whole(self) -> None:
        mean = pa.Check(lambda data: data.lazyframe.select(pl.col(data.key).mean() > 100), name="mean above 100")
        schema = pa.DataFrameSchema({"delay": pa.Column(pl.Float64, mean)})
        verdict = ask(flights(), schema=schema, max_quarantined_share=1.0)
        assert said(verdict) == [("delay", "mean above 100, asked of the column as a whole", 10)]
        assert verdict.failures[0].samples == ("0.0", "1.0", "2.0")

    def test_a_check_that_answers_with_one_truth_value(self) -> None:
        schema = pa.DataFrameSchema({"delay": pa.Column(pl.Float64, pa.Check(lambda _: False, name="never"))})
        verdict = ask(flights(1), schema=schema, max_quarantined_share=1.0)
        assert said(verdict) == [("delay", "never, asked of the column as a whole", 1)]

    def test_a_check_that_cannot_be_run(self) -> None:
        broken = pa.Check(lambda data: data.lazyframe.select(pl.col("nowhere") > 1), name="broken")
        verdict = ask(flights(), schema=pa.DataFrameSchema({"delay": pa.Column(pl.Float64, broken)}))
        (failure,) = verdict.failures
        assert failure.check.startswith("broken could not be run: ColumnNotFoundError: ")
        assert "nowhere" in failure.check
        assert "\n" not in failure.check

    @pytest.mark.parametrize("element_wise", [False, True])
    @pytest.mark.parametrize("on_rows", [False, True])
    def test_an_error_inside_a_check_is_a_refusal_with_its_name(self, on_rows: bool, element_wise: bool) -> None:
        raises = pa.Check(_divides_by_zero, element_wise=element_wise, name="own")
        columns = {"delay": pa.Column(pl.Float64, None if on_rows else raises)}
        schema = pa.DataFrameSchema(columns, checks=raises if on_rows else None)
        verdict = ask(flights(), schema=schema, max_quarantined_share=1.0)
        column = "(row)" if on_rows else "delay"
        assert said(verdict) == [(column, "own could not be run: ZeroDivisionError: division by zero", 10)]
        assert verdict.status == "refused"

    def test_an_error_without_words(self) -> None:
        schema = pa.DataFrameSchema({"delay": pa.Column(pl.Float64, pa.Check(_stops, name="own"))})
        assert said(ask(flights(), schema=schema)) == [("delay", "own could not be run: ArithmeticError", 10)]

    @pytest.mark.parametrize("answer", [None, "yes", pl.Series([True]), pl.DataFrame({"n": [True]})])
    def test_a_check_whose_answer_is_none(self, answer: object) -> None:
        schema = pa.DataFrameSchema({"delay": pa.Column(pl.Float64, pa.Check(lambda _: answer, name="own"))})
        (failure,) = ask(flights(), schema=schema).failures
        assert failure.column == "delay"
        assert failure.check.startswith("own could not be run: ")

    def test_a_column_that_must_be_unique_and_is_not_there(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64)}, unique=["id", "gate"])
        verdict = ask(flights(), schema=schema)
        assert said(verdict) == [("gate", "the column is missing; the schema wants it to be unique", 10)]

    def test_without_an_optional_column_the_others_must_be_unique(self) -> None:
        columns = {"id": pa.Column(pl.Int64), "gate": pa.Column(pl.String, required=False)}
        schema = pa.DataFrameSchema(columns, unique=["id", "gate"])
        assert ask(flights(), schema=schema, key=()).status == "ok"
        assert said(ask(with_row(4, id=7), schema=schema, key=())) == [("id", "the values are not unique", 2)]

    def test_a_strict_schema_refuses_every_column_it_does_not_name(self) -> None:
        schema = pa.DataFrameSchema(SCHEMA.columns, strict=True)
        verdict = ask(flights().with_columns(pl.lit(1).alias("tail"), pl.lit("x").alias("note")), schema=schema)
        assert [(failure.column, failure.samples) for failure in verdict.failures] == [
            ("tail", ("1",)),
            ("note", ("'x'",)),
        ]
        assert verdict.failures[0].check == "the column is not in the schema, which is strict"

    def test_columns_in_another_order_where_the_order_counts(self) -> None:
        schema = pa.DataFrameSchema(SCHEMA.columns, ordered=True)
        assert ask(flights(), schema=schema).status == "ok"
        verdict = ask(flights().select("id", "carrier", "delay", "at"), schema=schema)
        assert said(verdict) == [("carrier", "the column is out of order: the schema has 'delay' in its place", 10)]

    def test_rows_that_fail_only_once_others_are_gone(self) -> None:
        ranks = pa.Check(
            lambda data: data.lazyframe.select(pl.col(data.key).rank() - 1 == pl.col(data.key)), name="rank"
        )
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, [pa.Check.ne(0), ranks])})
        verdict = ask(flights(), schema=schema)
        assert verdict.status == "refused"
        assert said(verdict) == [("id", "rank, once the failing rows are held back", 9), ("id", "not_equal_to(0)", 1)]

    def test_all_that_was_found_is_told_at_once(self) -> None:
        frame = with_row(4, id=7, delay=1e6, at=datetime(2014, 1, 1)).drop("carrier")
        schema = SCHEMA.add_columns({"tail": pa.Column(pl.Int64), "seats": pa.Column(pl.Int64)})
        verdict = ask(
            frame.with_columns(pl.lit("N1").alias("tail")), schema=schema, max_quarantined_share=0.0, min_rows=11
        )
        assert said(verdict) == [
            ("carrier", "the column is missing", 10),
            ("seats", "the column is missing", 10),
            ("tail", "the type is String, not Int64", 10),
            ("(table)", "fewer than 11 rows", 10),
            ("id", "the key is not unique", 2),
            ("at", "later than 2013-02-01 00:00:00", 1),
            ("(any)", "more than 0.00% of all rows (10) would be held back", 1),
            ("delay", "in_range(-60, 600)", 1),
        ]

    def test_the_message_names_table_column_check_count_and_samples(self) -> None:
        verdict = ask(flights().with_columns(pl.lit(-99.0).alias("delay")))
        with pytest.raises(ContractRefused) as caught:
            verdict.accepted_or_raise()
        assert str(caught.value) == (
            "table 'flights' refused: table 'flights', column '(any)': "
            "more than 50.00% of all rows (10) would be held back: 10 rows; "
            "table 'flights', column 'delay': in_range(-60, 600): 10 rows (for example -99.0)"
        )

    def test_nothing_is_handed_on(self) -> None:
        verdict = ask(with_row(4, id=7))
        assert verdict.accepted.is_empty()
        assert verdict.quarantined.is_empty()
        assert verdict.quarantined.columns[-1] == FAILED_CHECKS


class TestTime:
    @pytest.mark.parametrize("unit", ["ms", "us", "ns"])
    def test_every_unit_of_time(self, unit: str) -> None:
        schema = SCHEMA.update_column("at", dtype=pl.Datetime(unit))
        frame = with_row(4, at=datetime(2013, 2, 1, 0, 0, 1)).with_columns(pl.col("at").dt.cast_time_unit(unit))
        assert said(ask(frame, schema=schema)) == [("at", "later than 2013-02-01 00:00:00", 1)]

    def test_days(self) -> None:
        schema = pa.DataFrameSchema({"day": pa.Column(pl.Date)})
        frame = pl.DataFrame({"day": [date(2013, 1, 31), date(2013, 2, 1), date(2013, 2, 2)]})
        verdict = ask(frame, schema=schema, key=(), event_time="day")
        assert verdict.failures[0].samples == ("2013-02-02",)

    def test_a_moment_without_a_zone_is_in_the_zone_of_the_column(self) -> None:
        at = pl.Series("at", [datetime(2013, 1, 31, 23), datetime(2013, 2, 1, 1)]).dt.replace_time_zone("Asia/Tokyo")
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("us", "Asia/Tokyo"))})
        verdict = ask(at.to_frame(), schema=schema, key=())
        assert verdict.failures[0].samples == ("2013-02-01 01:00:00+09:00",)

    def test_a_moment_in_another_zone(self) -> None:
        at = pl.Series("at", [datetime(2013, 2, 1, 8, 59), datetime(2013, 2, 1, 9, 1)])
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("us", "Asia/Tokyo"))})
        verdict = check(
            contract(schema=schema, key=()),
            at.dt.replace_time_zone("Asia/Tokyo").to_frame(),
            as_of=AS_OF.replace(tzinfo=UTC),
        )
        assert verdict.failures[0].samples == ("2013-02-01 09:01:00+09:00",)
        assert verdict.failures[0].check == "later than 2013-02-01 00:00:00+00:00"

    def test_a_moment_that_the_clock_of_the_zone_shows_twice_or_never(self) -> None:
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("us", "Europe/Berlin"))})
        for as_of in (datetime(2013, 10, 27, 2, 30), datetime(2013, 3, 31, 2, 30)):
            near = pl.Series("at", [as_of - timedelta(hours=3), as_of + timedelta(hours=3)])
            frame = near.dt.replace_time_zone("Europe/Berlin").to_frame()
            verdict = check(contract(schema=schema, key=()), frame, as_of=as_of)
            assert [failure.count for failure in verdict.failures] == [1]

    def test_of_a_moment_that_comes_twice_the_later_one_counts(self) -> None:
        at = pl.Series("at", [datetime(2013, 10, 27, 1, 15), datetime(2013, 10, 27, 1, 45)]).dt.replace_time_zone("UTC")
        schema = pa.DataFrameSchema({"at": pa.Column(pl.Datetime("us", "Europe/Berlin"))})
        frame = at.dt.convert_time_zone("Europe/Berlin").to_frame()
        verdict = check(contract(schema=schema, key=()), frame, as_of=datetime(2013, 10, 27, 2, 30))
        assert verdict.failures[0].samples == ("2013-10-27 02:45:00+01:00",)

    def test_a_moment_with_a_zone_and_a_column_without_is_no_comparison(self) -> None:
        with pytest.raises(ValueError, match=r"event time 'at' has no time zone; pass as_of without one"):
            check(contract(), flights(), as_of=AS_OF.replace(tzinfo=UTC))

    def test_a_row_without_a_moment_is_not_later(self) -> None:
        schema = SCHEMA.update_column("at", nullable=True)
        assert ask(with_row(4, at=None), schema=schema).status == "ok"


class TestWrongUse:
    def test_a_lazy_frame(self) -> None:
        with pytest.raises(TypeError, match=r"table 'flights' is a LazyFrame; .*; call collect\(\) first"):
            check(contract(), flights().lazy(), as_of=AS_OF)  # type: ignore[arg-type]

    def test_no_frame(self) -> None:
        with pytest.raises(TypeError, match="table 'flights' is a dict"):
            check(contract(), {}, as_of=AS_OF)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", [FAILED_CHECKS, "check_output"])
    def test_a_column_name_that_is_taken(self, name: str) -> None:
        schema = pa.DataFrameSchema({name: pa.Column(pl.Int64)})
        with pytest.raises(ValueError, match=f"the column name '{name}' is taken by the check"):
            ask(pl.DataFrame({name: [1]}), schema=schema)

    def test_parsers(self) -> None:
        schema = pa.DataFrameSchema({"id": pa.Column(pl.Int64, parsers=Parser(lambda data: data))})
        with pytest.raises(ValueError, match="pandera runs no parsers on polars tables"):
            ask(flights(), schema=schema)
