"""What the page says: every section gathered from the run, then written into one file."""

from __future__ import annotations

import os
import platform
import shlex
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

from jinja2 import Environment, PackageLoader, StrictUndefined

from hjepa.config import RunConfig, dump
from hjepa.data.store import Store
from hjepa.data.stream import episode_parts
from hjepa.errors import UserError
from hjepa.evaluate.horizon import HorizonCurve
from hjepa.evaluate.run import Run
from hjepa.query import Segment, Surprise, View, surprise
from hjepa.query import futures as ask_futures
from hjepa.query import nearest as ask_nearest
from hjepa.query import segments as ask_segments
from hjepa.report import figures, strips
from hjepa.report.strips import Strip
from hjepa.train.log import read_metrics

NEIGHBOURS, STEPS, SAMPLES, SEGMENTS, OVERVIEW = 6, 6, 1, 8, 12  # pictures in a row
MOMENTS = 2  # that neighbours are shown of

T = TypeVar("T")
Asked = ParamSpec("Asked")


@dataclass(frozen=True)
class LevelRow:
    """One line of the table of levels, ready to print."""

    level: int
    colour: str
    period: str
    sees: str
    pools: str
    encoder: str
    dim: int
    sequence: str
    parameters: str
    useful: str
    tested: str


def write_report(run: str | Path, out: str | Path | None = None, store: Store | None = None) -> Path:
    """Evaluate a run and write the page.

    Args:
        out: default: report.html in the run directory.
        store: what is looked at; default: the run's own.

    Raises:
        UserError: no run, no model, or a store that the model cannot read.
    """
    page = _Page(Run.open(run), store)
    path = Path(out) if out else page.run.path / "report.html"
    template = _environment().get_template("report.html")
    partial = path.with_name(f".{path.name}.partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(template.render(page.sections()), encoding="utf-8")
    os.replace(partial, path)
    return path


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("hjepa"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


class _Page:
    """Gathers the sections; what a source is too short for becomes a line of text instead."""

    def __init__(self, run: Run, store: Store | None) -> None:
        self.run, self.store, self.own = run, store or run.store(), store is None
        self.view = View(run.model, self.store)
        self.clock = run.model.clock
        self.levels = range(1, run.model.depth + 1)
        self.notes: list[str] = []
        self.longest = max(range(len(self.store.episodes)), key=lambda k: self.store.episodes[k].length)

    def sections(self) -> dict[str, Any]:
        curves = self._try(self.run.curves, None if self.own else self.store) or []
        metrics = read_metrics(self.run.path)
        config, rate = self.run.config, self.store.rate_hz
        lengths = [level.length for level in config.levels]
        weights = [level.objective.weights.model_dump() for level in config.levels]
        return {
            "name": self.run.path.resolve().name,
            "summary": self._summary(metrics),
            "levels": [self._row(level, curves) for level in self.levels],
            "timeline": figures.hierarchy(self.clock, lengths, rate),
            "overview": strips.overview(self.view, OVERVIEW),
            "horizons": figures.horizons(curves) if curves else None,
            "skills": figures.skills(curves) if curves else None,
            "within": self._within(curves),
            "neighbours": self._neighbours(),
            "futures": self._futures(),
            "events": self._events(),
            "training": figures.training(metrics, weights) if metrics else None,
            "criteria": figures.criteria(metrics, [c.dim for c in config.levels]) if metrics else None,
            "warnings": _warnings(metrics),
            "commands": _commands(self.run, self.store),
            "facts": _facts(self.run, self.store),
            "config": dump(config),
            "notes": self.notes,
        }  # the notes last: the sections above leave them

    def _try(self, ask: Callable[Asked, T], *args: Asked.args, **kwargs: Asked.kwargs) -> T | None:
        """None and a note where the source does not hold what a section needs."""
        try:
            return ask(*args, **kwargs)
        except UserError as error:
            self.notes.append(str(error))
            return None

    def _summary(self, metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
        """The tiles at the top: (figure, what it is)."""
        seconds = sum(line["seconds"] for line in metrics)
        steps = sum(e.length for e in self.store.episodes)
        return [
            (str(len(self.levels)), "levels"),
            (_amount(_parameters(self.run.model)), "parameters"),
            (_seconds(steps / self.store.rate_hz), f"of footage at {self.store.rate_hz:g} Hz"),
            (str(metrics[-1]["total"]) if metrics else "0", f"optimiser steps in {_seconds(seconds)}"),
        ]

    def _row(self, level: int, curves: list[HorizonCurve]) -> LevelRow:
        config, rate = self.run.config.levels[level - 1], self.store.rate_hz
        curve = next((c for c in curves if c.level == level), None)
        return LevelRow(
            level=level,
            colour=figures.colour(level),
            period=_seconds(self.clock.periods[level - 1] / rate),
            sees=_seconds(self.clock.span(level, 1) / rate),
            pools=_pools(level, config.window),
            encoder=config.encoder.kind,
            dim=config.dim,
            sequence=f"{config.length} = {_seconds(self.clock.span(level, config.length) / rate)}",
            parameters=_amount(_parameters(self.run.model.level(level))),
            useful=_seconds(curve.useful_s) if curve and curve.useful_s else "none",
            tested=_seconds(curve.longest_s) if curve else "-",
        )

    def _within(self, curves: list[HorizonCurve]) -> str:
        if not curves:
            return ""
        part = "the part held back from training" if self.own and self.run.config.data.held_back else "all of the store"
        stretches = max(n for c in curves for n in c.sequences)
        return f"Measured on {part}: predictions from {curves[0].starts} starts within up to {stretches} stretches."

    def _neighbours(self) -> list[tuple[Strip, list[Strip]]]:
        """Per moment: the moment, and what each level finds like it."""
        by_length = sorted(range(len(self.store.episodes)), key=lambda k: -self.store.episodes[k].length)
        found = []
        for episode in by_length[:MOMENTS]:
            time_s = self._moment_s(episode, 0.5)
            at = [self._try(self._near, k, episode, time_s) for k in self.levels]
            rows = [row for row in at if row]
            if rows:
                moment = self.view.find(1, episode, time_s)
                found.append((Strip("moment", [strips.of_moment(self.view, moment)]), rows))
        return found

    def _near(self, level: int, episode: int, time_s: float) -> Strip:
        found = ask_nearest(self.view, level, time_s, episode=episode, count=NEIGHBOURS)
        return strips.neighbours(self.view, found)

    def _futures(self) -> list[list[Strip]]:
        asked = [self._try(self._future, k) for k in self.levels]
        return [found for found in asked if found]

    def _future(self, level: int) -> list[Strip]:
        samples = SAMPLES if self.run.model.level(level).latent else 0
        time_s = self._moment_s(self.longest, 0.4)
        found = ask_futures(self.view, level, time_s, STEPS, episode=self.longest, samples=samples)
        return strips.futures(self.view, found)

    def _events(self) -> dict[str, Any] | None:
        """Surprise and segments over the longest episode."""
        tracks = [t for k in self.levels for t in self._try(self._surprise, k) or []]
        events = {t.level: self._segments(t.level) for t in tracks}
        if not tracks:
            return None
        start, cut = self._cut(self.longest)
        held = (cut - start) / self.store.rate_hz if cut is not None else None
        return {
            "episode": self.store.episodes[self.longest].source,
            "figure": figures.surprises(tracks, events, held),
            "strips": [strips.segments(self.view, found, SEGMENTS) for found in events.values() if found],
        }

    def _surprise(self, level: int) -> list[Surprise]:
        return [t for t in surprise(self.view, [level]) if t.episode == self.longest]

    def _segments(self, level: int) -> list[Segment]:
        return [s for s in ask_segments(self.view, level) if s.episode == self.longest]

    def _moment_s(self, episode: int, share: float) -> float:
        """A moment in the held-back part of an episode of the run's own store, in the whole of any other's."""
        start, cut = self._cut(episode)
        first, stop = cut if cut is not None else start, self.store.episodes[episode].stop
        earliest = start + self.clock.reach(self.clock.depth)
        now = max(int(first + share * (stop - first)), min(earliest, stop - 1))
        return (now - start) / self.store.rate_hz

    def _cut(self, episode: int) -> tuple[int, int | None]:
        """(first row, first held-back row or None) of an episode."""
        data, part = self.run.config.data, self.store.episodes[episode]
        if not (self.own and data.held_back):
            return part.start, None
        held = episode_parts(self.store, "held_back", data.held_back, data.hold)
        own = [int(first) for first, _ in held if part.start <= first < part.stop]
        return part.start, own[0] if own else None


def _warnings(metrics: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """(when, text) of every kind of warning, the last of its kind, and whether it lasted to the end."""
    last: dict[str, tuple[int, str]] = {}
    for line in metrics:
        for text in line["warnings"]:
            last[text.split(" (")[0]] = line["total"], text
    end = metrics[-1]["total"] if metrics else 0
    return [("at the end" if total == end else f"until step {total}", text) for total, text in last.values()]


def _commands(run: Run, store: Store) -> list[str]:
    """The command lines that lead here; the configuration file in the run stands for presets and overrides."""
    how = store.attrs.get("preprocessing", {})
    sources = " ".join(shlex.quote(e.source) for e in store.episodes[:3])
    more = " ..." if len(store.episodes) > 3 else ""
    path, at = shlex.quote(str(run.path)), shlex.quote(str(store.path))
    made = []
    if how:
        size = f"{how['height']}x{how['width']}"
        made.append(
            f"hjepa ingest {sources}{more} --out {at} --size {size} --rate {how['rate_hz']:g} --crop {how['crop']}"
        )
    return [
        *made,
        f"accelerate launch -m hjepa.train {path}/config.yaml",
        f"hjepa horizon {path}",
        f"hjepa report {path}",
    ]


def _facts(run: Run, store: Store) -> list[tuple[str, str]]:
    parts = [f"{name} {version(name)}" for name in ("hjepa", "torch", "accelerate", "zarr")]
    names = ", ".join(f"#{k} {e.source}" for k, e in enumerate(store.episodes[:12]))
    return [
        ("store", f"{store.path} (digest {store.digest[:16]})"),
        ("episodes", names + (f" and {len(store.episodes) - 12} more" if len(store.episodes) > 12 else "")),
        ("regime", _regime(run.config)),
        ("software", f"Python {platform.python_version()}, {', '.join(parts)}"),
    ]


def _regime(config: RunConfig) -> str:
    return (
        f"{config.train.regime}, batch {config.data.batch}, {config.data.held_back:.0%} held back ({config.data.hold})"
    )


def _pools(level: int, window: int) -> str:
    items = "frame" if level == 1 else "state"
    return f"{window} {items}{'s' * (window > 1)}" + (f" of level {level - 1}" if level > 1 else "")


def _parameters(module: Any) -> int:
    return sum(p.numel() for p in module.parameters())


def _seconds(value: float) -> str:
    if value < 1:
        return f"{1000 * value:.0f} ms"
    return f"{value:.3g} s" if value < 100 else f"{value // 60:.0f} min {value % 60:02.0f} s"


def _amount(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.0f} k"
