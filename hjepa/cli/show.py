"""How results look: JSON for programs, tables for people."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else on stdout.")]


def print_json(value: Any) -> None:
    """Strict JSON: what is not a number becomes null, arrays become lists, paths text."""
    typer.echo(json.dumps(_plain(value), indent=1, allow_nan=False))


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if hasattr(value, "tolist"):  # numpy and torch
        return _plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], note: str = "") -> None:
    """Print a table on stdout; every column after the first is aligned right."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, column in enumerate(columns):
        grid.add_column(column, justify="right" if number else "left")
    for row in rows:
        grid.add_row(*(escape(str(cell)) for cell in row))
    console = _console()
    console.print(title, style="bold", markup=False, highlight=False)
    console.print(grid)
    if note:
        console.print(note, style="dim", markup=False, highlight=False)


def _console() -> Console:
    """A terminal's own width; 120 columns where the output goes to a file or a log."""
    from rich.console import Console

    console = Console()
    return console if console.is_terminal else Console(width=120)


def bars() -> Progress:
    """A progress display on stderr."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=Console(stderr=True))


def seconds(value: float) -> str:
    """'80 ms', '1.28 s', '3 min 20 s'."""
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 100:
        return f"{value:.3g} s"
    return f"{value // 60:.0f} min {value % 60:.0f} s"


def amount(value: float, unit: str = "") -> str:
    """'1.26 M', '22.8 G', with the unit behind the prefix."""
    for size, prefix in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g} {prefix}{unit}"
    return f"{value:.3g} {unit}".rstrip()


def signed(value: float) -> str:
    """'+0.43', '-' for what is not a number."""
    return f"{value:+.2f}" if math.isfinite(value) else "-"
