"""Move snapshots between hot, warm and cold storage, and let go what may go, as the tiering policy says."""

from __future__ import annotations

from datetime import UTC, datetime

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from pydantic import BaseModel

from trimtab_blocks.errors import CorruptBlob
from trimtab_blocks.tiered import TieredStore
from trimtab_blocks.tiering_rules import TieringRules
from trimtab_flows import runtime
from trimtab_flows.faults import RETRIES
from trimtab_flows.tiering.decision import Move, Plan, decide
from trimtab_flows.tiering.facts import carry_out, stored

__all__ = ["NoPolicy", "Tiered", "plan", "policy", "tier"]


class NoPolicy(LookupError):
    """No tiering policy is saved."""


class Tiered(BaseModel, frozen=True):
    """What was to move and what did; money in the policy's currency."""

    snapshots: int
    moves: int
    done: int
    faults: tuple[str, ...]
    bytes: int
    saves_month: float
    costs_once: float
    currency: str


def policy() -> TieringRules:
    """The policy that is saved.

    Raises:
        NoPolicy: there is none.
    """
    found = runtime.tiering()
    if found is None:
        raise NoPolicy(
            f"there is no tiering policy: write one (blocks/STORES.md shows how) and save it with `trimtab data policy "
            f"FILE`; it becomes the Prefect block trimtab-tiering-policy/{runtime.BLOCKS}"
        )
    return found.rules


def plan(rules: TieringRules) -> Plan:
    """What would move now. Nothing is changed."""
    return decide(stored(runtime.uncached(), rules), rules, datetime.now(UTC))


@task(task_run_name="move {digest}", timeout_seconds=6 * 3600, **RETRIES)
def move_one(digest: str, move: Move) -> bool:
    """One move; False if nothing was left to do."""
    store = runtime.uncached()
    assert isinstance(store, TieredStore)
    return carry_out(store, move)


@flow(name="tier", flow_run_name="tier data", persist_result=True)
def tier(dry_run: bool = False) -> Tiered:
    """Move what should lie elsewhere. Run again after any fault, it goes on; data is in one place at least at any time.

    Args:
        dry_run: only say what would move.

    Raises:
        NoPolicy: none is saved.
        RootsUnknown: the policy deletes, and what needs the data cannot be read.
    """
    rules = policy()
    found = plan(rules)
    done, faults = 0, []
    for move in found.moves if not dry_run else ():
        try:
            done += move_one(move.digest, move)
        except CorruptBlob as error:  # one bad file must not keep the rest where it is
            faults.append(str(error))
            get_run_logger().error("%s", error)
    create_markdown_artifact(
        markdown=markdown(found, rules), key="tiering", description=f"{len(found.moves)} moves, {done} done"
    )
    return Tiered(
        snapshots=found.snapshots,
        moves=len(found.moves),
        done=done,
        faults=tuple(faults),
        bytes=sum(move.bytes for move in found.moves),
        saves_month=found.saves_month,
        costs_once=found.costs_once,
        currency=rules.currency,
    )


def markdown(found: Plan, rules: TieringRules) -> str:
    """The plan for people."""
    head = (
        f"{len(found.moves)} of {found.snapshots} snapshots move. A month costs {found.month_before:.4f} "
        f"{rules.currency} now and {found.month_after:.4f} after; the moves cost {found.costs_once:.4f} once."
    )
    rows = [
        f"| {move.digest[:12]} | {move.bytes / 2**20:.1f} | {move.source} | {move.target} | {move.saves_month:.4f} "
        f"| {move.costs_once:.4f} | {'; '.join(move.reasons)} |"
        for move in found.moves[:200]
    ]
    table = [
        "| snapshot | MiB | from | to | saves a month | costs once | why |",
        "|---|---:|---|---|---:|---:|---|",
        *rows,
    ]
    spared = [f"- {digest[:12]} stays: {why}" for digest, why in found.spared[:50]]
    return "\n".join([f"# {head}", "", *(table if rows else []), "", *spared])
