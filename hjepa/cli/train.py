"""`hjepa train`, and the same arguments for `accelerate launch -m hjepa.train`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hjepa.cli.show import Json, amount, print_json, seconds, table

if TYPE_CHECKING:
    from hjepa.train.estimate import Estimate

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what it would cost and start nothing.")]
HELP = "Presets (tiny, ...) and YAML files, stacked in this order; dotted overrides such as train.steps=500."


def train(
    config: Annotated[list[str], typer.Argument(metavar="CONFIG... [KEY=VALUE]...", help=HELP, show_default=False)],
    dry_run: DryRun = False,
    json: Json = False,
) -> None:
    """Train a hierarchy; run again, it goes on from the newest checkpoint.

    For several processes: `accelerate launch ... -m hjepa.train CONFIG... [KEY=VALUE]...`
    """
    from hjepa.config import load

    overrides = [word for word in config if "=" in word]
    loaded = load([word for word in config if "=" not in word], overrides)
    if dry_run:
        from hjepa.train.estimate import estimate

        if not _speaks():
            return
        return _print_estimate(estimate(loaded, int(os.environ.get("WORLD_SIZE", "1"))), json)
    from hjepa.train.loop import train as run

    _print_done(run(loaded), json)


def _speaks() -> bool:
    """Of several processes, the first."""
    return os.environ.get("RANK", "0") == "0"


def _print_done(path: Path, json: bool) -> None:
    if not _speaks():
        return
    if json:
        from hjepa.train.log import read_metrics

        return print_json({"run": path, "last": read_metrics(path)[-1]})
    typer.echo(f"trained: {path}")


def _print_estimate(cost: Estimate, json: bool) -> None:
    if json:
        return print_json(cost.asdict())
    rows = []
    for e in cost.levels:
        period, sequence = f"{e.period_steps} = {seconds(e.period_s)}", f"{e.length} = {seconds(e.sequence_s)}"
        rows.append((e.level, e.stride, e.window, period, seconds(e.sees_s), e.dim, sequence, amount(e.parameters)))
    columns = ("level", "stride", "window", "period", "sees", "dim", "sequence", "parameters")
    table(f"{amount(cost.parameters)} parameters; period in steps of {seconds(1 / cost.rate_hz)}", columns, rows)
    phases = []
    for p in cost.phases:
        clip, reads = f"{p.clip_steps} = {seconds(p.clip_s)}", f"{p.reads} {'states' if p.source else 'frames'}"
        phases.append((p.name, p.steps, clip, reads, amount(p.flop, "FLOP"), amount(p.memory_bytes, "B")))
    note = (
        f"{amount(cost.flop, 'FLOP')} in all, processes: {cost.processes}. A step and its memory: per process, without "
        "what the libraries take."
    )
    table("phases", ("phase", "steps", "clip", "reads a clip", "a step", "memory"), phases, note)
