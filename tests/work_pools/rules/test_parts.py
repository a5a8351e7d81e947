"""A text of any length in short values: it comes back whole, or not at all."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trimtab_work_pools.rules.parts import VALUE_BYTES, Letter, Parts, Sign, from_parts, to_parts, whole

SIGN = Sign("w1", 100.0, "h1")


def letter(length: int, seed: int = 0, sign: Sign = SIGN) -> Letter:
    """Of so many characters that cannot be packed well."""
    return Letter(sign, json.dumps({"said": random.Random(seed).randbytes(length // 2).hex()}))


def values(parts: Parts) -> dict[str, str]:
    return {"first": parts.head, **{f"part {number}": value for number, value in parts.rest}}


@given(
    st.builds(Sign, st.text(min_size=1, max_size=40), st.floats(0, 1e10), st.text(max_size=12)),
    st.dictionaries(st.text(max_size=3), st.text()),
    st.integers(0, 40_000),
)
def test_what_is_written_is_read_and_no_value_is_too_long(sign: Sign, said: dict[str, str], length: int) -> None:
    body = json.dumps({**said, "said": random.Random(length).randbytes(length).hex()})
    written = to_parts(Letter(sign, body))
    for value in values(written).values():
        assert len(json.dumps(value).encode()) <= VALUE_BYTES
    ((read,), unread) = from_parts(values(written))
    assert (read.sign, json.loads(read.body), unread) == (sign, json.loads(body), [])


@given(st.integers(1, 60_000), st.integers(1, 60_000), st.randoms())
def test_parts_of_two_generations_are_never_joined(one: int, other: int, rng: random.Random) -> None:
    """Whatever of both lies there at one time."""
    first, second = letter(one, 1), letter(other, 2)
    parts = [to_parts(first), to_parts(second)]
    rest = [(f"{place}-{number}", value) for place, of in enumerate(parts) for number, value in of.rest]
    there = dict(rng.sample(rest, rng.randint(0, len(rest))))
    letters, unread = from_parts({"head": rng.choice(parts).head, **there})
    assert {json.loads(one.body)["said"] for one in letters} <= {
        json.loads(one.body)["said"] for one in parts_of(parts)
    }
    assert len(letters) + len(unread) == 1
    assert all(one.sign == SIGN for one in unread), "it is alive"


def parts_of(parts: list[Parts]) -> list[Letter]:
    return [read for one in parts for read in from_parts(values(one))[0]]


def test_a_renewal_changes_only_the_first_part() -> None:
    before, after = to_parts(letter(30_000)), to_parts(letter(30_000, sign=Sign("w1", 200.0, "h1")))
    assert len(before.rest) > 2
    assert (before.generation, before.rest) == (after.generation, after.rest)
    assert before.head != after.head


@pytest.mark.parametrize("damage", ["cut", "changed", "gone"])
def test_a_damaged_part_is_seen_and_the_worker_is_alive(damage: str) -> None:
    written = values(to_parts(letter(30_000)))
    name = next(name for name in written if name.startswith("part"))
    part = json.loads(written[name])
    swapped = part["packed"][:50] + ("a" if part["packed"][50] != "a" else "b") + part["packed"][51:]
    changed = {"cut": part["packed"][:-1], "changed": swapped}.get(damage, "")
    written |= {name: json.dumps({**part, "packed": changed})}
    if damage == "gone":
        del written[name]
    letters, (unread,) = from_parts(written)
    assert letters == []
    assert unread.sign == SIGN
    assert "first: " in unread.why


@pytest.mark.parametrize(
    "value", ["", "[]", "3", "{}", '{"worker": 1}', '{"worker": "w", "expires_s": true}', "zlib:x"]
)
def test_what_nobody_wrote_is_named(value: str) -> None:
    letters, (unread,) = from_parts({"variable x": value})
    assert letters == []
    assert unread.sign is None
    assert "variable x is no advertisement" in unread.why


def test_all_of_it_in_one() -> None:
    said = letter(200_000)
    assert from_parts({"event": whole(said)}) == ([said], [])
