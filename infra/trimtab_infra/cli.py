"""The `trimtab` command: the local stack, the main job, lineage and replay.

Exit codes: 0 done, 1 something failed, 2 what was asked cannot be done as asked, 130 interrupted by Ctrl-C.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from trimtab_blocks.settings import read as read_settings
from trimtab_infra import operating
from trimtab_infra.act import commands as act
from trimtab_infra.data_cli import app as data
from trimtab_infra.errors import TrimtabError, UserError
from trimtab_infra.stack.stack import Stack

__all__ = ["app", "main"]

app = typer.Typer(
    name="trimtab",
    help="System-aware ML pipelines on Prefect and MLflow.",
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(act.automations, name="automations")
app.add_typer(act.policy, name="policy")
app.command("webhook")(act.webhook)
app.add_typer(data, name="data")
out = Console(highlight=False, emoji=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, emoji=False, soft_wrap=True)

#: Exit code after Ctrl-C.
INTERRUPTED = 130

FLIGHTS = "trimtab_flows.recipes.flights:flights"

StateOption = Annotated[
    Path | None, typer.Option("--state", envvar="TRIMTAB_STATE", help="Folder that holds all state [.trimtab].")
]
ProjectOption = Annotated[Path, typer.Option("--project", help="Folder with prefect.yaml and your recipes.")]
Port = Annotated[int | None, typer.Option(min=1, max=65535, help="Listen here; otherwise a free port is picked.")]
PROJECT = Path()


@app.command()
def up(
    state: StateOption = None,
    project: ProjectOption = PROJECT,
    prefect_port: Port = None,
    mlflow_port: Port = None,
) -> None:
    """Start Prefect, MLflow and a worker, and deploy what prefect.yaml declares."""
    stack = _stack(state, project)
    _start(stack, {"prefect": prefect_port, "mlflow": mlflow_port})
    out.print(f"[bold]Up.[/] Tell your shell: {_told(stack)}\nStop it with: trimtab down")


@app.command()
def down(
    state: StateOption = None,
    wipe: Annotated[bool, typer.Option(help="Remove the state folder too: models, metrics, data.")] = False,
) -> None:
    """Stop everything that `up` or `demo` started."""
    stack = _stack(state)
    with out.status("Stopping ..."):
        stopped = stack.down(wipe=wipe)
    out.print("Stopped." if stopped else "Nothing was running.")


@app.command()
def status(state: StateOption = None) -> None:
    """Show each part of the stack. Exit code 1 if one of them is not ready."""
    stack = _stack(state)
    table = Table("part", "state", "url", "pid", "since", "log")
    parts = stack.status()
    for part in parts:
        style = {"ready": "green", "starting": "yellow"}.get(part.state, "red")
        since = f"{datetime.fromtimestamp(part.since, UTC).astimezone():%Y-%m-%d %H:%M:%S}" if part.since else ""
        log = os.path.relpath(part.log, stack.folder.path) if part.log else ""
        table.add_row(part.title, f"[{style}]{part.state}[/]", part.url or "", str(part.pid or ""), since, escape(log))
    # A pipe has no width to keep to, and what is in the table is there to be copied.
    Console(highlight=False, emoji=False, width=None if out.is_terminal else 200).print(table)
    out.print(f"State folder {escape(str(stack.folder.path))}")
    if any(part.state != "ready" for part in parts):
        raise typer.Exit(1)


@app.command()
def demo(
    state: StateOption = None,
    project: ProjectOption = PROJECT,
    recipe: Annotated[str, typer.Option(help="Recipe to run, as module:attribute.")] = FLIGHTS,
    deployment: Annotated[str, typer.Option(help="Name of the deployments in prefect.yaml.")] = "flights",
    through: Annotated[str, typer.Option(help="Last window to take the model through.")] = "2013-12",
    keep: Annotated[bool, typer.Option(help="Leave the stack up afterwards.")] = False,
    fresh: Annotated[bool, typer.Option(help="Start from an empty state folder.")] = False,
) -> None:
    """Run the main job: a year of a model's life, window by window, on the local stack."""
    stack = _stack(state, project)
    stack.check_project()
    # As the worker does: recipes are looked for in the project.
    os.chdir(stack.project)
    _check_request(recipe, through)
    if fresh:
        stack.down(wipe=True)
    try:
        _start(stack, {})
        os.environ.update(stack.environment())
        # Imported here: these read Prefect's settings, which are only known now, and take seconds to import.
        from trimtab_infra.demo import Story, tell
        from trimtab_infra.report import Links

        urls = stack.urls()
        links = Links(urls["prefect"], urls["mlflow"], str(stack.folder.path))
        report = tell(Story(recipe, deployment, through, stack.folder.path / "report.html", links), out)
    finally:
        if not keep:
            stack.down()
    out.print(f"\nReport      {report}")
    again = "" if keep else "   (trimtab up starts them again)"
    out.print(f"Prefect UI  {urls['prefect']}{again}\nMLflow UI   {urls['mlflow']}{again}")
    if keep:
        out.print(f"Tell your shell: {_told(stack)}")
    out.print("Stop them with: trimtab down" if keep else "Everything is stopped; the state is kept.")


@app.command()
def init(
    recipe: Annotated[str, typer.Argument(help="Your recipe, as module:attribute.")],
    project: ProjectOption = PROJECT,
) -> None:
    """Write a prefect.yaml for your recipe: every deployment of its lifecycle, and the automation that retrains it."""
    os.chdir(project)
    from trimtab_flows.loading import load_recipe
    from trimtab_infra.init import write

    name = load_recipe(recipe).recipe.name
    file = write(Path.cwd(), recipe, name)
    out.print(f"Wrote {file}. Next: trimtab up, or trimtab demo --recipe {recipe} --deployment {name} --through WINDOW")


@app.command(hidden=True)
def check(recipe: str, window: Annotated[str, typer.Option()]) -> None:
    """Load a recipe and read a window, and say what is wrong with them."""
    from trimtab_flows.loading import load_recipe
    from trimtab_flows.windows import Window

    Window.parse(window)
    load_recipe(recipe)


@app.command()
def lineage(
    version: Annotated[str, typer.Argument(metavar="MODEL_VERSION", help="flights/3, or 3 for flights/3.")],
    state: StateOption = None,
) -> None:
    """Show what a model version was made from, and what was made with it."""
    _become_client(state)
    from trimtab_flows import runtime
    from trimtab_flows.snapshots.lineage import render
    from trimtab_flows.tracking import model_version

    name, _, number = version.rpartition("/")
    found = model_version(name or "flights", number)
    node = f"model:{found.name}/{found.version}"
    records = runtime.lineage()
    out.print("[bold]Made from[/]")
    out.print(escape(render(records.ancestors(node))))
    out.print("\n[bold]Made with it[/]")
    out.print(escape(render(records.descendants(node))))


@app.command()
def fleet(
    pool: Annotated[str, typer.Argument(help="Work pool of type gpu-process, on the server of PREFECT_API_URL.")],
    watch: Annotated[bool, typer.Option("--watch", help="Show it live, until Ctrl-C.")] = False,
) -> None:
    """Show the nodes that the workers of a pool advertise, and what of them is free."""
    import asyncio

    from rich.live import Live

    from trimtab_infra.fleet import read_fleet

    view = asyncio.run(read_fleet(pool))
    if not watch:
        out.print(view.shown())
        return
    with Live(view.shown(), console=out, auto_refresh=False) as screen:
        while True:
            time.sleep(2)
            screen.update(asyncio.run(read_fleet(pool)).shown(), refresh=True)


@app.command()
def why(
    run: Annotated[
        str,
        typer.Argument(help="Id or name of a flow run, or a deployment (FLOW/NAME), on the server of PREFECT_API_URL."),
    ],
) -> None:
    """Say in full why a run waits, and what it waits for."""
    import asyncio

    from trimtab_infra.fleet import why as explain

    out.print(escape(asyncio.run(explain(run))))


@app.command()
def diagnose(
    log: Annotated[str, typer.Argument(metavar="LOGFILE", help="What a program wrote; - for standard input.")],
    exit_code: Annotated[
        int | None, typer.Option("--exit-code", min=-64, max=255, help="Its exit code; -9 is a signal.")
    ] = None,
    signal: Annotated[str | None, typer.Option("--signal", help="The signal that ended it, like SIGKILL.")] = None,
    json: Annotated[bool, typer.Option("--json", help="One line of JSON; the cause is null if it is unknown.")] = False,
) -> None:
    """Say why a program ended, which line says so, how sure that is, and what is done next. Needs no server."""
    from trimtab_infra.diagnose import diagnosed

    typer.echo(diagnosed(log, exit_code, signal, json))


@app.command()
def runs(
    gpu: Annotated[str, typer.Option(help="UUID of a GPU or MIG slice, or how it begins, like GPU-5c1f.")] = "",
    node: Annotated[str, typer.Option(help="Name of a node.")] = "",
    since: Annotated[str, typer.Option(help="So long ago (30m, 12h, 7d, 2w), or a time.")] = "7d",
) -> None:
    """List which runs had a GPU or a node, and when, each attempt of them: for one that has turned out bad."""
    import asyncio
    from datetime import UTC

    from trimtab_infra.device_history import read_since, runs_with, shown

    if not gpu and not node:
        raise UserError("say which: --gpu UUID, --node NAME, or both")
    start = read_since(since, datetime.now(UTC))
    found = asyncio.run(runs_with(gpu, node, start))
    Console(highlight=False, emoji=False, width=None if out.is_terminal else 250).print(shown(found))
    asked = " and ".join([f"GPU {gpu}"] * bool(gpu) + [f"node {node}"] * bool(node))
    out.print(f"{len(found)} attempts on {escape(asked)} since {start:%Y-%m-%d %H:%M:%S %Z}")


@app.command()
def replay(
    run: Annotated[str, typer.Argument(help="MLflow run id, Prefect flow-run id, or model/version (flights/3).")],
    state: StateOption = None,
) -> None:
    """Train again from a run's manifest, and say what differs. Exit code 1 if the result does."""
    _become_client(state)
    # What went wrong is said in one line; the traceback is with the run, in Prefect.
    os.environ["PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL"] = "CRITICAL"
    from trimtab_flows.replay import describe, find_training
    from trimtab_flows.replay import replay as replay_flow

    if "'" in run:
        raise UserError(
            f"{run!r} is no run: give an MLflow run id, a Prefect flow-run id, or model/version (flights/3)"
        )
    find_training(run)
    replayed = replay_flow(run)
    out.print(escape(describe(replayed)))
    if not replayed.same:
        raise typer.Exit(1)


def _stack(state: Path | None, project: Path = PROJECT) -> Stack:
    stack = Stack(state or read_settings().state, project)
    # For whatever runs in this process, and for where a crash is written down.
    os.environ["TRIMTAB_STATE"] = str(stack.folder.path)
    return stack


def _told(stack: Stack) -> str:
    """Without it `prefect` speaks to another server, or starts one of its own."""
    return f"export PREFECT_API_URL={stack.urls()['prefect']}/api"


def _become_client(state: Path | None) -> None:
    """Speak to the stack that the settings name: the embedded one, or that of PREFECT_API_URL."""
    if read_settings().stack == "embedded":
        os.environ.update(_stack(state).environment())


def _start(stack: Stack, asked: dict[str, int | None]) -> None:
    doing = "Starting Prefect, MLflow and a worker ..."
    if not out.is_terminal:
        out.print(doing)
    began = time.monotonic()
    with out.status(doing):
        stack.up(lambda line: out.print(f"  {escape(line)}"), {part: port for part, port in asked.items() if port})
    out.print(f"  ready after {time.monotonic() - began:.1f} s")


def _check_request(recipe: str, window: str) -> None:
    """What can be refused is refused before anything is started or wiped.

    In a process of its own: a recipe may import Prefect, which would then keep the settings it finds before the start.
    """
    done = subprocess.run([sys.executable, "-m", "trimtab_infra", "check", recipe, "--window", window], check=False)
    if done.returncode:
        raise typer.Exit(done.returncode)


operating.mount(app)


def _mount_bench() -> None:
    """`trimtab bench`, where its package is installed."""
    if importlib.util.find_spec("trimtab_infra.bench"):
        app.add_typer(importlib.import_module("trimtab_infra.bench").app, name="bench")


def _crash_log() -> Path:
    """Where a traceback goes: the logs of the state folder, if there is one."""
    state = Path(os.environ.get("TRIMTAB_STATE", ".trimtab"))
    folder = state / "logs" if (state / "stack.json").is_file() and (state / "logs").is_dir() else tempfile.gettempdir()
    return Path(folder) / f"crash-{datetime.now(UTC).astimezone():%Y%m%d-%H%M%S}-{os.getpid()}.txt"


def main() -> None:
    """Run the command line: every error is one line, and an exit code that stays the same."""
    # A shell that starts us in the background makes us ignore Ctrl-C, and every process we start would too.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    sys.exit(_run(sys.argv[1:] or ["--help"]))


def _run(arguments: Sequence[str]) -> int:
    try:
        # Looked for only where it shows: it brings the scheduler's packages along.
        if arguments[0] in ("bench", "--help"):
            _mount_bench()
        # Typer turns Ctrl-C into this exit code by itself.
        code = app(list(arguments), standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    except typer.TyperException as error:
        said = getattr(error, "format_message", error.__str__)()
        err.print(f"trimtab: {escape(said)} (trimtab --help shows what there is)")
        return 2
    except TrimtabError as error:
        err.print(f"trimtab: {escape(str(error))}")
        return 2 if isinstance(error, UserError) else 1
    except Exception as error:  # noqa: BLE001 - the last line of defence: a person never sees a traceback
        return _explain(error)
    if code == INTERRUPTED:
        err.print("trimtab: interrupted; everything this command started is stopped")
    return code if isinstance(code, int) else 0


def _explain(error: Exception) -> int:
    """Errors of the flows and of things nobody thought of, in one line."""
    known = (ValueError, LookupError)
    module = type(error).__module__
    if isinstance(error, known) and module.startswith(("trimtab_flows", "trimtab_blocks")):
        err.print(f"trimtab: {escape(str(error))}")
        return 2
    if module.startswith("trimtab"):
        err.print(f"trimtab: {escape(str(error))}")
        return 1
    log = _crash_log()
    log.write_text(traceback.format_exc())
    err.print(f"trimtab: {type(error).__name__}: {escape(str(error))} (this should not happen; details in {log})")
    return 1


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt
