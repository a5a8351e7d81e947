"""What was read counts only if it was answered, and as long as nothing was heard since; a reason is news once."""

from __future__ import annotations

import uuid

from trimtab_work_pools.server.freshness import Freshness
from trimtab_work_pools.server.run_log import NewReasons


def test_a_call_that_failed_is_made_again() -> None:
    read = Freshness()
    assert read.due(100.0, 1e9), "it was never read"
    assert read.due(100.0, 1e9), "nor has it been, unless somebody says so"
    read.answered(read.asked, 100.0)
    assert not read.due(109.0, 10.0)
    assert read.due(111.0, 10.0)


def test_news_that_came_while_the_answer_was_on_its_way_is_read_too() -> None:
    read = Freshness()
    asked = read.asked
    read.spoil()
    read.answered(asked, 100.0)
    assert read.due(100.0, 1e9)
    read.answered(read.asked, 101.0)
    assert not read.due(101.0, 1e9)


def test_figures_that_change_are_no_new_reason() -> None:
    new, run_id = NewReasons(), uuid.uuid4()
    assert new.new(run_id, "needs 4 GPUs; 1 free; reserved from 2026-03-01 08:00:00 on a", 0.0)
    assert not new.new(run_id, "needs 4 GPUs; 2 free; reserved from 2026-03-01 08:10:00 on a", 30.0)
    assert new.new(run_id, "work pool 'gpus' is paused", 60.0)
    assert not new.new(run_id, "needs 4 GPUs; 1 free; reserved from 2026-03-01 08:00:00 on a", 90.0)
    assert new.new(run_id, "needs 4 GPUs; 1 free; reserved from 2026-03-01 08:00:00 on a", 700.0), "again, much later"
    new.keep(set())
    assert new.new(run_id, "work pool 'gpus' is paused", 701.0)
