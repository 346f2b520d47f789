"""`hjepa horizon` and `hjepa report`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hjepa.cli.show import Json, print_json, seconds, signed, table
from hjepa.errors import UserError, nearest

if TYPE_CHECKING:
    from hjepa.evaluate.horizon import HorizonCurve

RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)]
PARTS = ("train", "held_back", "all")


def horizon(
    run: RunArgument,
    store: Annotated[Path | None, typer.Argument(help="Default: the run's own.", show_default=False)] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", help="train, held_back or all [default: held_back of the run's own store, else all]"),
    ] = None,
    within: Annotated[float | None, typer.Option("--within", help="Seconds to predict [default: from the run]")] = None,
    starts: Annotated[int, typer.Option("--starts", help="About how many predictions begin.")] = 512,
    json: Json = False,
) -> None:
    """How far ahead each level predicts better than persistence and than the best constant."""
    if part not in (None, *PARTS):
        raise UserError(f"--part {part}: {nearest(str(part), PARTS)}")
    from hjepa.data.store import Store
    from hjepa.evaluate.run import Run

    opened = Run.open(run)
    curves = opened.curves(Store.open(store) if store else None, _part(part), within, starts)
    if json:
        return print_json([curve.asdict() for curve in curves])
    _print_curves(curves)


def _part(name: str | None) -> Any:
    return name


def _print_curves(curves: list[HorizonCurve]) -> None:
    shown, rate = _horizons(curves), curves[0].steps[0] / curves[0].seconds[0]
    rows = []
    for curve in curves:
        useful = seconds(curve.useful_s) if curve.useful_steps else "none"
        figures = (seconds(curve.period_steps / rate), useful, seconds(curve.longest_s))
        rows.append((curve.level, *figures, *(_cell(curve, steps) for steps in shown)))
    columns = ("level", "period", "useful horizon", "tested to", *(f"at {seconds(steps / rate)}" for steps in shown))
    note = (
        "At each horizon: share of the squared error of persistence / of the best constant that the prediction saves.\n"
        "Useful horizon: up to there both savings are above 0, their 95 % intervals included."
    )
    table("prediction horizon, level by level", columns, rows, note)


def _horizons(curves: list[HorizonCurve]) -> list[int]:
    """Every level's period, its double for the slowest, and the farthest horizon, in steps: where levels compare."""
    return sorted({c.steps[0] for c in curves} | {2 * curves[-1].steps[0], max(c.steps[-1] for c in curves)})


def _cell(curve: HorizonCurve, steps: int) -> str:
    if steps not in curve.steps:
        return ""
    at = curve.steps.index(steps)
    return f"{signed(curve.skill[at])}/{signed(1 - curve.error[at] / curve.mean[at])}"


def report(
    run: RunArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="The HTML file [default: report.html in the run]", show_default=False)
    ] = None,
    store: Annotated[
        Path | None, typer.Option("--store", help="What to look at [default: the run's own]", show_default=False)
    ] = None,
    json: Json = False,
) -> None:
    """One self-contained HTML page with everything about a run, in pictures."""
    from hjepa.data.store import Store
    from hjepa.report import write_report

    path = write_report(run, out, Store.open(store) if store else None)
    if json:
        return print_json({"report": path, "bytes": path.stat().st_size})
    typer.echo(f"report: {path} ({path.stat().st_size / 1e6:.1f} MB)")
