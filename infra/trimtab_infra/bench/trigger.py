"""`trimtab bench trigger`: a series lived under our retraining policy, and under the usual rules beside it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from trimtab_infra.bench.trigger_chance import chance, sentence
from trimtab_infra.bench.trigger_replay import Life, adwin, decided, every, live, never, oracle, psi_above, spread
from trimtab_infra.bench.trigger_report import figures, table
from trimtab_infra.bench.trigger_series import Series, SeriesError, windows_of

if TYPE_CHECKING:
    from trimtab_flows.drift.gate import GatePolicy, Rule
    from trimtab_flows.drift.policy import Policy

__all__ = ["trigger"]

#: Days of the recipe's own windows, by cadence, for how much trains the first model.
_DAYS = {"day": 1, "week": 7, "month": 30.5}


def trigger(
    recipe: Annotated[str | None, typer.Option(help="module:attribute, of this folder or installed.")] = None,
    policy: Annotated[Path | None, typer.Option(help="Retraining policy: JSON, TOML or YAML; the defaults.")] = None,
    first: Annotated[str | None, typer.Option("--from", help="First day of the series, like 2013-01-01.")] = None,
    last: Annotated[str | None, typer.Option("--to", help="The day after its last.")] = None,
    window: Annotated[str, typer.Option(help="Length of a window, in days: 7d.")] = "7d",
    out: Annotated[Path | None, typer.Option(help="Write all figures here (JSON).")] = None,
    bootstrap: Annotated[
        int | None, typer.Option(min=1, help="Windows that train the first model; as long as the recipe's own.")
    ] = None,
    change: Annotated[list[str] | None, typer.Option(help="Day of a known change, for the delay; repeatable.")] = None,
    seed: Annotated[int, typer.Option(help="Of every training.")] = 0,
    cache: Annotated[Path | None, typer.Option(help="Keep scores of trained models here, for the next time.")] = None,
    gate_rule: Annotated[
        str, typer.Option("--gate", help="Rule of the gate that every challenger goes through: expected or proven.")
    ] = "expected",
    gate_confidence: Annotated[float, typer.Option(help="Of the gate's interval; the product's own is 0.9.")] = 0.9,
    timings: Annotated[
        int, typer.Option(min=0, help="Compare with so many random timings of as many retrainings, and even ones.")
    ] = 0,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="Made-up series with known changes instead.")] = False,
    seeds: Annotated[int, typer.Option(min=1, help="How many made-up series of each kind.")] = 3,
) -> None:
    """Live a series window by window: with our policy, never, every-k, ADWIN on errors, PSI above .25, and an oracle.

    Each rule trains challengers for real and puts them through the gate; models are trained once and shared. No server
    is needed.
    """
    from trimtab_flows.contracts.contract import ContractRefused
    from trimtab_flows.drift.gate import GatePolicy
    from trimtab_flows.drift.policy import Policy
    from trimtab_flows.drift.policy_file import read_policy
    from trimtab_flows.drift.values import InvalidPolicy
    from trimtab_flows.loading import RecipeError, load_recipe

    try:
        chosen = Policy() if policy is None else read_policy(policy)
        gate = GatePolicy(confidence=gate_confidence, rule=cast("Rule", gate_rule))
        if synthetic:
            from trimtab_infra.bench.trigger_synthetic import report

            found = report(chosen, seed, Console(), seeds)
        else:
            if recipe is None or first is None or last is None:
                raise SeriesError("give --recipe, --from and --to, or --synthetic")
            length = _length(window)
            windows = windows_of(_day("--from", first), _day("--to", last), length)
            loaded = load_recipe(recipe)
            own = loaded.recipe.bootstrap_windows * _DAYS[loaded.recipe.cadence]
            changes = [_day("--change", day) for day in change or []]
            make = partial(Series, loaded, windows, bootstrap or math.ceil(own / length), seed, cache)
            found = _lived(make, gate, chosen, changes, timings)
        if out is not None:
            out.write_text(json.dumps(found, indent=1))
    except (SeriesError, InvalidPolicy, RecipeError, ContractRefused, FileNotFoundError, OSError) as error:
        typer.echo(f"bench trigger: {error}", err=True)
        raise typer.Exit(2) from None


def _lived(
    make: Callable[..., Series], gate: GatePolicy, policy: Policy, changes: list[date], timings: int
) -> dict[str, Any]:
    """Trains, compares and shows; ``make`` is told whom to tell how far it is."""
    began = time.monotonic()
    with _progress() as progress:
        series = make(_teller(progress))
        series.gate = gate
        series.train_all()
        found = compare(series, policy, changes, _teller(progress), timings)
    found["seconds"] = round(time.monotonic() - began, 1)
    _show(series, policy, found)
    return found


def compare(series: Series, policy: Any, changes: list[date], tell: Any = None, timings: int = 0) -> dict[str, Any]:
    """Every rule on one series, as plain data; with ``timings``, ours among so many drawn at random."""
    ours = live(series, "trimtab", decided(policy), tell)
    count, steps = len(ours.retrains), len(series.windows) - series.first - 1
    lives = [ours, live(series, "never", never)]
    if count:
        lives.append(live(series, f"every-{steps / count:.1f}", spread(count, steps), tell))
    for k in (1, 2, 4, 8):
        if k <= steps:
            lives.append(live(series, f"every-{k}", every(k), tell))
    lives.append(live(series, "adwin", adwin(), tell))
    lives.append(live(series, "psi>0.25", psi_above(0.25), tell))
    lives.append(_named(oracle(series, count), f"oracle of {count}"))
    lives.append(oracle(series, None))
    places = [next((at for at, each in enumerate(series.windows) if each.end > day), None) for day in changes]
    rows = [figures(series, life, policy, [place for place in places if place is not None]) for life in lives]
    means = {row["policy"]: row["mean_metric"] for row in rows}
    scale = means["never"], means["oracle"]
    placed = chance(series, ours, policy, timings, scale) if timings and count and scale[0] != scale[1] else None
    return {
        "recipe": series.loaded.reference,
        "metric": series.metric,
        "higher_is_better": series.sign > 0,
        "windows": len(series.windows),
        "bootstrap": series.bootstrap,
        "seed": series.seed,
        "gate": {"rule": series.gate.rule, "confidence": series.gate.confidence},
        "refit": series.refit,
        "policy": policy.to_plain(),
        "train_seconds": sum(series.train_seconds),
        "results": rows,
        "chance": placed,
        "decisions": [
            {"window": each.window, "verdict": each.verdict, "gain": each.expected_gain, "reasons": each.reasons}
            for each in ours.decisions
        ],
    }


def _named(life: Life, name: str) -> Life:
    return replace(life, name=name)


def _show(series: Series, policy: Any, found: dict[str, Any]) -> None:
    worked = len(series.windows) - series.first
    title = f"{found['recipe']}: {worked} windows from {series.windows[series.first]}, {found['seconds']:.0f} s"
    shown = table(title, found["results"], series.metric, policy.currency, series.sign > 0)
    Console().print(shown)
    if found["chance"] is not None:
        Console().print(sentence(found["chance"], policy.currency))


def _length(text: str) -> int:
    days = text.removesuffix("d")
    if not days.isdigit() or int(days) < 1:
        raise SeriesError(f"--window is {text!r}; it must be a number of days, like 7d")
    return int(days)


def _day(option: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise SeriesError(f"{option} is {text!r}; it must be a day, like 2013-01-01") from None


def _progress() -> Progress:
    columns = (TextColumn("{task.description:16}"), BarColumn(), TimeElapsedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _teller(progress: Progress) -> Any:
    tasks: dict[str, Any] = {}

    def tell(text: str, share: float) -> None:
        if text not in tasks:
            tasks[text] = progress.add_task(text, total=1.0)
        progress.update(tasks[text], completed=share)

    return tell
