"""`hjepa ingest` and `hjepa info`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hjepa.cli.show import Json, amount, bars, print_json, seconds, table
from hjepa.errors import UserError, nearest

if TYPE_CHECKING:
    from hjepa.data.ingest import IngestReport
    from hjepa.data.store import Store

SHOWN = 20  # episodes listed


def ingest(
    videos: Annotated[list[Path], typer.Argument(help="Video files, or folders that hold some.", show_default=False)],
    out: Annotated[Path, typer.Option("--out", help="Folder of the new store.", show_default=False)],
    size: Annotated[str, typer.Option("--size", help="Pixels a side, or HEIGHTxWIDTH.")] = "64",
    rate: Annotated[float | None, typer.Option("--rate", help="Frames per second [default: the first file's]")] = None,
    crop: Annotated[
        str, typer.Option("--crop", help="center: the largest middle part of the asked shape; none: the whole frame.")
    ] = "center",
    json: Json = False,
) -> None:
    """Decode videos once into a Zarr store; a broken file costs that file only."""
    from hjepa.data.ingest import Progress
    from hjepa.data.ingest import ingest as write

    progress, tasks = bars(), dict[int, Any]()

    def show(now: Progress) -> None:
        if not tasks:  # a display that never starts prints nothing
            progress.start()
        if now.file not in tasks:
            tasks[now.file] = progress.add_task(now.source, total=max(now.expected, 1))
        progress.update(tasks[now.file], completed=now.frames, total=max(now.expected, now.frames))

    try:
        report = write(videos, out, size=_size(size), rate_hz=rate, crop=_crop(crop), on_progress=show)
    finally:
        if tasks:
            progress.stop()
    _print_ingested(report, json)


def _size(text: str) -> tuple[int, int]:
    numbers = text.lower().split("x")
    if len(numbers) > 2 or not all(n.isdigit() for n in numbers):
        raise UserError(f"--size {text}: legal: one number (64) or HEIGHTxWIDTH (120x160)")
    return int(numbers[0]), int(numbers[-1])


def _crop(name: str) -> Any:
    from typing import get_args

    from hjepa.data.video import Crop

    if name not in get_args(Crop):
        raise UserError(f"--crop {name}: {nearest(name, get_args(Crop))}")
    return name


def _print_ingested(report: IngestReport, json: bool) -> None:
    if json:
        print_json(
            {"store": report.path, "rate_hz": report.rate_hz, "frames": report.frames}
            | {"files": [asdict(file) for file in report.files]}
        )
    else:
        typer.echo(str(report))


def info(
    path: Annotated[Path, typer.Argument(metavar="STORE|RUN", help="A store or a run directory.", show_default=False)],
    sheet: Annotated[Path | None, typer.Option("--sheet", help="Write a contact sheet (PNG) of a store.")] = None,
    columns: Annotated[int, typer.Option("--columns", help="Pictures a row of the sheet.")] = 8,
    rows: Annotated[int, typer.Option("--rows", help="Rows of the sheet.")] = 5,
    verify: Annotated[bool, typer.Option("--verify", help="Read every byte of a store and compare hashes.")] = False,
    json: Json = False,
) -> None:
    """What a store or a run holds."""
    if (path / "config.yaml").is_file():
        if sheet:
            raise UserError(f"{path}: is a run; --sheet needs a store")
        return _run_info(path, json)
    from hjepa.data.store import Store

    store = Store.open(path, verify=verify)
    if sheet:
        from hjepa.data.sheet import contact_sheet

        sheet.parent.mkdir(parents=True, exist_ok=True)
        contact_sheet(store, columns, rows).save(sheet, "PNG")
    if json:
        return print_json(_store_facts(store))
    _print_store(store)
    if sheet:
        typer.echo(f"contact sheet: {sheet}")


def _store_facts(store: Store) -> dict[str, Any]:
    return {
        "path": store.path,
        "rate_hz": store.rate_hz,
        "steps": sum(e.length for e in store.episodes),
        "arrays": {name: asdict(spec) for name, spec in store.arrays.items()},
        "episodes": [asdict(episode) for episode in store.episodes],
        "attrs": store.attrs,
        "bytes": _bytes(store.path),
        "digest": store.digest,
    }


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def _print_store(store: Store) -> None:
    steps = sum(e.length for e in store.episodes)
    what = [f"{len(store.episodes)} episodes", f"{steps} steps", f"{store.rate_hz:g} Hz"]
    what += [seconds(steps / store.rate_hz), amount(_bytes(store.path), "B")]
    arrays = [(n, s.dtype, " x ".join(map(str, s.shape)), s.units, s.description) for n, s in store.arrays.items()]
    table(f"{store.path}: {', '.join(what)}", ("array", "type", "a step", "units", "what"), arrays)
    listed = [
        (e.source, e.length, seconds(e.length / store.rate_hz), e.attrs.get("decoder", "-"))
        for e in store.episodes[:SHOWN]
    ]
    left = len(store.episodes) - len(listed)
    note = f"and {left} more (--json lists all)" if left else ""
    table("episodes", ("source", "steps", "length", "decoder"), listed, note)


def _run_info(run: Path, json: bool) -> None:
    from hjepa.clock import Clock
    from hjepa.config import load
    from hjepa.hierarchy import WEIGHTS
    from hjepa.train.log import read_metrics

    config = load([run / "config.yaml"])
    metrics = read_metrics(run)
    last = metrics[-1] if metrics else {}
    if json:
        model = run / WEIGHTS if (run / WEIGHTS).is_file() else None
        return print_json({"path": run, "config": config.model_dump(mode="json"), "last": last, "model": model})
    rate = config.world.rate_hz if config.world else 1.0
    clock = Clock([c.stride for c in config.levels], [c.window for c in config.levels])
    rows = []
    for number, (level, period) in enumerate(zip(config.levels, clock.periods, strict=True), 1):
        now = last.get("levels", {}).get(str(number), {}).get("criteria", {})
        figures = [f"{now[key]:.2f}" if key in now else "-" for key in ("skill", "rank_y", "std_time", "nats")]
        rows.append((number, seconds(period / rate), f"{level.encoder.kind}, {level.dim} numbers", *figures))
    done = f"step {last['total']}, loss {last['loss']:.3f}" if last else "no step logged yet"
    columns = ("level", "period", "states", "skill", "rank", "std in time", "nats in z")
    table(f"{run}: {done}, {config.train.regime} on {config.data.store}", columns, rows)
    for text in last.get("warnings", []):
        typer.echo(f"warning: {text}")
