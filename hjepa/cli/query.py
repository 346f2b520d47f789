"""`hjepa query RUN states | nearest | surprise | segments | future | keeps SOURCE`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hjepa.cli.show import Json, print_json, seconds, table
from hjepa.errors import UserError

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL.Image import Image

    from hjepa.evaluate.probe import Kept
    from hjepa.query import View

PROBE_SHARE = 0.2  # held back to score on, for runs that held back nothing
Source = Annotated[Path, typer.Argument(help="A video file, or a store.", show_default=False)]
Levels = Annotated[list[int] | None, typer.Option("--level", help="A level, from 1; may be given again [default: all]")]
Episode = Annotated[int, typer.Option("--episode", help="Which recording of a store, from 0.")]
Time = Annotated[float | None, typer.Option("--time", help="Seconds into the episode [default: half-way]")]
Apart = Annotated[float | None, typer.Option("--apart", help="Least seconds between two of them.")]
Picture = Annotated[Path | None, typer.Option("--picture", help="Write what was found as a PNG.")]
LibraryOption = Annotated[
    Path | None, typer.Option("--library", help="Store or video to look in [default: the source itself]")
]

app = typer.Typer(help="Ask a trained run about a video or a store, level by level.", no_args_is_help=True)


@dataclass(frozen=True)
class Asked:
    """The run named before the question."""

    run: Path

    def view(self, source: Path) -> View:
        from hjepa.device import best_device
        from hjepa.hierarchy import Hierarchy
        from hjepa.query import View

        return View(Hierarchy.from_pretrained(self.run).to(best_device()), source)

    def views(self, source: Path, library: Path | None) -> tuple[View, View]:
        """The source and the library, one model for both."""
        from hjepa.query import View

        view = self.view(source)
        return view, View(view.model, library) if library else view


@app.callback()
def of_run(
    context: typer.Context,
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run directory.", show_default=False)],
) -> None:
    """Ask a trained run about a video or a store, level by level."""
    context.obj = Asked(run)


@app.command()
def states(
    context: typer.Context,
    source: Source,
    out: Annotated[Path | None, typer.Option("--out", help="Write the states to FILE.npz or FILE.zarr.")] = None,
    level: Levels = None,
    every_step: Annotated[bool, typer.Option("--every-step", help="A state a frame, not one a period.")] = False,
    json: Json = False,
) -> None:
    """The states of each level, with their times."""
    from hjepa.query import save_states
    from hjepa.query import states as ask

    tracks = ask(context.obj.view(source), level, every_step)
    if out:
        save_states(tracks, out)
    facts = [track.asdict() for track in tracks]
    if json:
        return print_json({"out": out, "tracks": facts})
    rows = [
        (f["level"], seconds(f["period_s"]), f["name"], f["states"], f["dim"], _span(f["first_s"], f["last_s"]))
        for f in facts
    ]
    table("states", ("level", "period", "episode", "states", "numbers each", "seconds"), rows, _written(out))


@app.command()
def nearest(
    context: typer.Context,
    source: Source,
    level: Levels = None,
    time: Time = None,
    episode: Episode = 0,
    count: Annotated[int, typer.Option("--count", help="How many.")] = 6,
    apart: Apart = None,
    library: LibraryOption = None,
    picture: Picture = None,
    json: Json = False,
) -> None:
    """The moments most like one moment, as each level sees it."""
    from hjepa.query import draw_nearest
    from hjepa.query import nearest as ask

    view, shelf = context.obj.views(source, library)
    found = [ask(view, k, time, episode=episode, count=count, apart_s=apart, library=shelf) for k in view.levels(level)]
    _save_picture(picture, [draw_nearest(f, view, shelf) for f in found] if picture else [])
    if json:
        return print_json([f.asdict() for f in found])
    rows = [
        (f.level, _where(f.query), f"{rank}.", _where(n.moment), f"{n.distance:.2f}")
        for f in found
        for rank, n in enumerate(f.found, 1)
    ]
    note = "Distance in standard deviations of the level: two unrelated moments are about 1.4 apart."
    table("nearest moments", ("level", "to", "", "is", "distance"), rows, _written(picture, note))


@app.command()
def surprise(context: typer.Context, source: Source, level: Levels = None, json: Json = False) -> None:
    """How badly each level saw coming what it then saw, over time."""
    from hjepa.query import surprise as ask

    found = ask(context.obj.view(source), level)
    if json:
        return print_json([track.asdict() for track in found])
    rows = []
    for track in found:
        highest = track.values.argmax()
        figures = f"{track.values.mean():.2f}", f"{track.values[highest]:.2f}", f"{track.times_s[highest]:.2f} s"
        rows.append((track.level, seconds(track.period_s), track.name, *figures))
    note = "1 is the mean surprise of expecting no change. The whole course: --json."
    table("surprise", ("level", "period", "episode", "mean", "highest", "at"), rows, note)


@app.command()
def segments(
    context: typer.Context,
    source: Source,
    level: Levels = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Robust standard deviations above the median.")] = 5.0,
    apart: Apart = None,
    picture: Picture = None,
    json: Json = False,
) -> None:
    """Events: where each level's prediction fails, a new one begins."""
    from hjepa.query import draw_segments
    from hjepa.query import segments as ask

    view = context.obj.view(source)
    found = [ask(view, k, threshold, apart) for k in view.levels(level)]
    _save_picture(picture, [draw_segments(own, view) for own in found] if picture else [])
    if json:
        return print_json([s.asdict() for own in found for s in own])
    rows = [
        (s.level, s.name, _span(s.start_s, s.stop_s), "" if s.surprise is None else f"{s.surprise:.2f}")
        for own in found
        for s in own
    ]
    table("segments", ("level", "episode", "seconds", "opened by surprise"), rows, _written(picture))


@app.command()
def future(
    context: typer.Context,
    source: Source,
    level: Levels = None,
    time: Time = None,
    episode: Episode = 0,
    steps: Annotated[int, typer.Option("--steps", help="Periods of the level to predict.")] = 4,
    samples: Annotated[int, typer.Option("--samples", help="Further futures with z drawn at random.")] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Of those draws.")] = 0,
    actions: Annotated[
        Path | None, typer.Option("--actions", help="A .npy (steps x period, A) to predict under [default: recorded]")
    ] = None,
    library: LibraryOption = None,
    picture: Picture = None,
    json: Json = False,
) -> None:
    """What each level expects to come, as the nearest real frames."""
    from hjepa.query import draw_futures, futures

    view, shelf = context.obj.views(source, library)
    given = _actions(actions)
    found = [
        futures(view, k, time, steps, episode=episode, actions=given, samples=samples, seed=seed, library=shelf)
        for k in view.levels(level)
    ]
    _save_picture(picture, [draw_futures(f, view, shelf) for f in found] if picture else [])
    if json:
        return print_json([f.asdict() for f in found])
    rows = []
    for f in found:
        for number, one in enumerate(f.futures):
            name = "expected" if number == 0 else f"sample {number}"
            for ahead, near, error in zip(f.ahead_s, one.nearest, one.error, strict=True):
                off = "-" if error is None else f"{error:.2f}"
                rows.append((f.level, _where(f.now), name, f"+{ahead:.2f} s", _where(near.moment), off))
    note = "Error: energy between the predicted and the true state; 1 is the mean change of the level in one period."
    table("futures", ("level", "from", "", "ahead", "looks like", "error"), rows, _written(picture, note))


@app.command()
def keeps(
    context: typer.Context,
    source: Annotated[Path, typer.Argument(metavar="STORE", help="A store with labels.", show_default=False)],
    array: Annotated[
        list[str] | None, typer.Option("--array", help="A label; may be given again [default: all]")
    ] = None,
    level: Levels = None,
    mlp: Annotated[bool, typer.Option("--mlp", help="Probe with an MLP too: slower.")] = False,
    json: Json = False,
) -> None:
    """What each level keeps of a store's labels: linear probes, scored on the part held back."""
    from hjepa.config import load
    from hjepa.data.store import Store
    from hjepa.evaluate.probe import keeps as ask
    from hjepa.hierarchy import Hierarchy

    data = load([context.obj.run / "config.yaml"]).data
    model, share = Hierarchy.from_pretrained(context.obj.run), data.held_back or PROBE_SHARE
    found = ask(model, Store.open(source), array, levels=level, held_back=share, hold=data.hold, mlp=mlp)
    if json:
        return print_json([k.asdict() for k in found])
    levels = sorted({k.level for k in found})
    rows = []
    for name in dict.fromkeys(k.array for k in found):
        own = {k.level: k for k in found if k.array == name}
        rows.append(
            (name, own[levels[0]].measure, f"{own[levels[0]].reference:.2f}", *(_score(own[k]) for k in levels))
        )
    columns = ("label", "measure", "blind", *(f"level {k}" if k else "8 x 8 pixels" for k in levels))
    note = "Ridge regression / MLP." if mlp else "Ridge regression."
    table("what each level keeps", columns, rows, f"{note} blind: what one who sees nothing scores.")


def _score(kept: Kept) -> str:
    return " / ".join("-" if v != v else f"{v:.2f}" for v in (kept.score, kept.mlp) if v is not None)


def _actions(path: Path | None) -> NDArray | None:
    if path is None:
        return None
    import numpy as np

    try:
        return np.load(path, allow_pickle=False)
    except ValueError as error:
        raise UserError(f"{path}: not a .npy file of numbers: {error}") from None


def _save_picture(path: Path | None, pictures: Sequence[Image]) -> None:
    """The pictures under one another, as one PNG."""
    if path is None:
        return
    from PIL import Image

    sheet = Image.new("RGB", (max(p.width for p in pictures), sum(p.height for p in pictures)), "white")
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.save(path, "PNG")


def _where(moment: Any) -> str:
    return f"{moment.name} {moment.time_s:.2f} s"


def _span(first: float, last: float) -> str:
    return f"{first:.2f} to {last:.2f}"


def _written(path: Path | None, note: str = "") -> str:
    return "\n".join([note] * bool(note) + [f"written: {path}"] * bool(path))
