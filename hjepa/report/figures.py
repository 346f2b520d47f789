"""The report's figures, as SVG. One colour a level everywhere, from the fastest to the slowest."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from hjepa.clock import Clock
from hjepa.evaluate.horizon import HorizonCurve
from hjepa.query import Segment, Surprise

COLOURS = ("#2563eb", "#d97706", "#059669", "#9333ea", "#dc2626", "#0891b2")
INK, FAINT, GRID = "#1f2937", "#9ca3af", "#e5e7eb"
STYLE: Any = {
    "font.size": 9,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.linewidth": 1.6,
    "svg.hashsalt": "hjepa",
}
WIDTH = 10.5  # inches
STATES_DRAWN = 24  # of the slowest level's window, at most, before the timeline gets crowded

Drawn = ParamSpec("Drawn")


def colour(level: int) -> str:
    return COLOURS[(level - 1) % len(COLOURS)]


def svg(draw: Callable[Drawn, Figure]) -> Callable[Drawn, str]:
    """Makes a function that draws a figure return it as a data URI."""

    @wraps(draw)
    def drawn(*args: Drawn.args, **kwargs: Drawn.kwargs) -> str:
        with matplotlib.rc_context(STYLE):
            buffer = io.BytesIO()
            draw(*args, **kwargs).savefig(buffer, format="svg", metadata={"Date": None})
        return "data:image/svg+xml;base64," + base64.b64encode(buffer.getvalue()).decode()

    return drawn


@svg
def hierarchy(clock: Clock, lengths: Sequence[int], rate_hz: float) -> Figure:
    """A training clip on a time axis that ends now: every state, and what the newest of each level is pooled from."""
    crop = clock.crop(lengths)
    figure, (axes,) = _panels(1, 0.55 * clock.depth + 1.15)
    items = crop.frames
    axes.plot((items - crop.span + 1) / rate_hz, np.zeros(len(items)), "|", color=FAINT, markersize=7)
    for number, level in enumerate(crop.levels, 1):
        times, below = (level.instants - crop.span + 1) / rate_hz, (items - crop.span + 1) / rate_hz
        first, last = below[level.reads[-1][0]], below[level.reads[-1][-1]]
        axes.fill([first, last, times[-1]], [number - 1, number - 1, number], color=colour(number), alpha=0.22, lw=0)
        sequence = times[len(times) - level.length :]
        axes.plot(sequence, np.full(len(sequence), number), "-", color=colour(number), lw=1, alpha=0.5)
        axes.plot(times, np.full(len(times), number), "o", color=colour(number), markersize=3.2 + number)
        items = level.instants
    names = [f"level {k}\n{_seconds(p / rate_hz)} a step" for k, p in enumerate(clock.periods, 1)]
    axes.set_yticks(range(clock.depth + 1), ["frames read", *names])
    axes.set_ylim(-0.4, clock.depth + 0.5)
    axes.set_xlabel("seconds before now")
    axes.grid(False, axis="y")
    return figure


@svg
def horizons(curves: Sequence[HorizonCurve]) -> Figure:
    """Error against horizon of every level, with its references; the useful horizon is shaded."""
    figure, panels = _panels(len(curves), 2.9, sharey=True)
    top = max(max(c.persistence) for c in curves)
    for axes, c in zip(panels, curves, strict=True):
        marker = "o" if len(c.seconds) < 12 else ""
        axes.plot(c.seconds, c.mean, ":", color=INK, lw=1.2, label="best constant")
        axes.plot(c.seconds, c.persistence, "--", color=FAINT, marker=marker, ms=3, label="persistence")
        axes.plot(c.seconds, c.error, color=colour(c.level), marker=marker, ms=3.5, label="prediction")
        if c.useful_s:
            axes.axvspan(c.seconds[0] / 1.15, c.useful_s, color=colour(c.level), alpha=0.10, lw=0)
        useful = f"useful to {_seconds(c.useful_s)}" if c.useful_s else "no useful horizon"
        axes.set_title(f"level {c.level}: {useful}", color=colour(c.level))
        _log_seconds(axes, [s for other in curves for s in other.seconds])
        axes.set_xlabel("horizon")
        axes.set_ylim(0, min(1.1 * top, 3.0))
    panels[0].set_ylabel("squared error / variance of the level")
    panels[-1].legend(loc="upper left")  # the slowest level's curve begins farthest right
    return figure


@svg
def skills(curves: Sequence[HorizonCurve]) -> Figure:
    """What the prediction saves of each reference's error, all levels on one axis of seconds."""
    figure, (left, right) = _panels(2, 2.7, sharey=True)
    for axes, name in ((left, "persistence"), (right, "best constant")):
        axes.axhline(0, color=INK, lw=0.8)
        for c in curves:
            reference = np.asarray(c.persistence if name == "persistence" else c.mean)
            with np.errstate(invalid="ignore", divide="ignore"):
                saved = np.clip(1 - np.asarray(c.error) / reference, -1.05, 1)
            axes.plot(c.seconds, saved, "o-", ms=3, color=colour(c.level), label=f"level {c.level}")
        axes.set_title(f"error saved against {name}")
        axes.set_ylim(-1, 1)
        axes.set_xlabel("horizon")
        _log_seconds(axes, [s for c in curves for s in c.seconds])
    left.legend(loc="lower left")
    return figure


@svg
def training(metrics: Sequence[dict[str, Any]], weights: Sequence[dict[str, float]]) -> Figure:
    """The loss, and what every term of every level adds to it; ``weights``: per level, of each term."""
    figure, panels = _panels(1 + len(weights), 2.7)
    panels[0].plot([line["total"] for line in metrics], [line["loss"] for line in metrics], color=INK)
    panels[0].set_title("loss")
    drawn: dict[str, Line2D] = {}  # one colour a term, whichever levels have it
    for level, (axes, weight) in enumerate(zip(panels[1:], weights, strict=True), 1):
        found = [(line["total"], line["levels"].get(str(level), {}).get("terms", {})) for line in metrics]
        for name in dict.fromkeys(name for _, terms in found for name in terms):
            at = [(total, weight[name] * terms[name]) for total, terms in found if name in terms]
            shade = drawn[name].get_color() if name in drawn else f"C{len(drawn)}"
            (drawn[name],) = axes.plot(*zip(*at, strict=True), lw=1.2, color=shade)
        axes.set_title(f"level {level}'s terms in it", color=colour(level))
    figure.legend(
        drawn.values(), [name.replace("_", " ") for name in drawn], loc="outside lower center", ncols=len(drawn) or 1
    )
    for axes in panels:
        axes.set_xlabel("optimiser step")
        axes.set_xlim(0, metrics[-1]["total"])
    return figure


@svg
def criteria(metrics: Sequence[dict[str, Any]], dims: Sequence[int]) -> Figure:
    """LeCun's four criteria over training, every level in its colour."""
    figure, panels = _panels(4, 2.7)
    titles = ("1, 2: rank / numbers", "1, 2: std of a number", "3: skill", "4: nats in z")
    for axes, title in zip(panels, titles, strict=True):
        axes.set_title(title)
        axes.set_xlabel("optimiser step")
    for level, dim in enumerate(dims, 1):
        found = [(line["total"], line["levels"].get(str(level), {}).get("criteria")) for line in metrics]
        at = [(total, figures) for total, figures in found if figures]
        lines = [(0, "rank_x", "-", dim), (0, "rank_y", "--", dim), (1, "std_time", "-", 1), (1, "std_batch", "--", 1)]
        for place, key, dashes, over in [*lines, (2, "skill", "-", 1), (3, "nats", "-", 1)]:
            steps, values = [total for total, _ in at], [figures[key] / over for _, figures in at]
            panels[place].plot(steps, values, dashes, color=colour(level), lw=1.3)
    styles = [Line2D([], [], color=FAINT, ls=how) for how in ("-", "--")]
    figure.legend(
        [*panels[2].lines, *styles],
        [*(f"level {k}" for k in range(1, len(dims) + 1)), "solid: s_x, over time", "dashed: s_y, over the batch"],
        loc="outside lower center",
        ncols=len(dims) + 2,
    )
    panels[2].axhline(0, color=INK, lw=0.8)
    panels[2].set_ylim(max(panels[2].get_ylim()[0], -1), 1)
    for axes in (panels[0], panels[1], panels[3]):
        axes.set_ylim(bottom=0)
    return figure


@svg
def surprises(tracks: Sequence[Surprise], events: dict[int, list[Segment]], held_back_s: float | None) -> Figure:
    """Surprise over one episode, a row a level, with the beginnings of its segments."""
    figure, panels = _panels(1, 1.25 * len(tracks) + 0.4, rows=len(tracks), sharex=True)
    for axes, track in zip(panels, tracks, strict=True):
        axes.plot(track.times_s, track.values, color=colour(track.level), lw=1)
        axes.fill_between(track.times_s, 0, track.values, color=colour(track.level), alpha=0.15, lw=0)
        for segment in events.get(track.level, []):
            if segment.surprise is not None:
                axes.axvline(segment.start_s, color=INK, lw=0.9, ls=(0, (4, 2)))
        axes.axhline(1, color=FAINT, lw=0.8)
        axes.set_ylabel(f"level {track.level}", color=colour(track.level), weight="bold")
        axes.set_ylim(0, max(1.2, 1.05 * float(track.values.max())))
        axes.set_xlim(0, max(float(t.times_s[-1]) for t in tracks))
        axes.yaxis.set_major_locator(MaxNLocator(3))
        if held_back_s is not None:
            axes.axvspan(held_back_s, axes.get_xlim()[1], color=FAINT, alpha=0.12, lw=0)
    panels[-1].set_xlabel("seconds into the episode" + (" (grey: held back from training)" if held_back_s else ""))
    return figure


def _panels(columns: int, height: float, *, rows: int = 1, **share: bool) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(WIDTH, height), layout=ConstrainedLayoutEngine(w_pad=0.09))
    return figure, list(np.atleast_1d(figure.subplots(rows, columns, **share)).flat)  # type: ignore[call-overload]


def _log_seconds(axes: Axes, values: Sequence[float]) -> None:
    """A logarithmic axis of seconds, marked in octaves that suit the range."""
    axes.set_xscale("log")
    low, high = min(values), max(values)
    axes.set_xlim(low / 1.15, high * 1.15)
    octaves = max(1, round(np.log2(high / low) / 4))
    axes.set_xticks([low * 2.0**k for k in range(0, round(np.log2(high / low)) + 1, octaves)])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _seconds(value)))
    axes.minorticks_off()


def _seconds(value: float) -> str:
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.3g} s"
