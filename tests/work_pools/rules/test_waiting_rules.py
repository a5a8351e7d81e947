"""What people have paused or deleted is named, with what to do."""

from __future__ import annotations

from trimtab_work_pools.rules.waiting_rules import paused_pool, queue_says, schedules_say


def test_a_queue() -> None:
    queues = {"default": False, "night": True}
    assert queue_says("default", "gpus", queues) == ""
    assert queue_says("night", "gpus", queues) == (
        "work queue 'night' is paused: resume it (prefect work-queue resume night --pool gpus)"
    )
    assert queue_says("old", "gpus", queues).startswith("its work queue 'old' is not there any more")
    assert queue_says(None, "gpus", queues).startswith("it is in no work queue: its own was deleted")
    assert queue_says("default", "gpus", queues, ["x", "b"]) == (
        "no worker takes runs of work queue 'default': those that are there take b, x"
    )


def test_a_pool_and_a_deployment() -> None:
    assert "prefect work-pool resume gpus" in paused_pool("gpus")
    assert schedules_say("d", False, [("cron 0 3 * * *", True)]) == []
    assert schedules_say("d", True, [("cron 0 3 * * *", False)]) == [
        "deployment 'd' is paused: its schedules make no runs",
        "a schedule of 'd' is paused: cron 0 3 * * *",
    ]
