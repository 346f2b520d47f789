"""The command line: `hjepa ingest | info | train | query | horizon | report`.

Commands import what they need when they run, so that `hjepa --help` answers at once. A UserError becomes one line on
stderr and exit code 2.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import typer

from hjepa.cli import data, evaluate, query, train
from hjepa.errors import UserError

app = typer.Typer(
    help="Hierarchical world models: JEPAs stacked over time, trained on video, queried level by level.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.command("ingest")(data.ingest)
app.command("info")(data.info)
app.command("train")(train.train)
app.add_typer(query.app, name="query")
app.command("horizon")(evaluate.horizon)
app.command("report")(evaluate.report)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit: 0 done, 2 the user's mistake."""
    try:
        app(arguments, prog_name="hjepa")
    except UserError as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))


def _fail(message: str) -> None:
    if os.environ.get("LOCAL_RANK", "0") == "0":  # launched as several processes, all of them fail alike
        print(f"hjepa: {message}", file=sys.stderr)
    sys.exit(2)
