"""Surprise over time, and the events that it cuts a recording into."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from hjepa.errors import UserError
from hjepa.evaluate.dense import BATCH, Recording, contexts
from hjepa.objective.energy import distance
from hjepa.pictures import Cell, grid, wrapped
from hjepa.query.view import TINY, View

THRESHOLD = 5.0  # robust standard deviations above the median
APART_PERIODS = 4
MAD_TO_STD = 1.4826  # of a normal distribution
COLUMNS = 10


@dataclass(frozen=True)
class Surprise:
    """How badly one level saw each of its states coming, over one episode.

    Attributes:
        rows, times_s: (N,) the step at which the state was seen, absolute and in seconds from the episode's start.
        values: (N,) energy of the state seen under its prediction one period before (true actions, z at the prior's
            mean), over the level's mean persistence energy in this source: 1 is the mean surprise of one who expects
            no change, and 1 - the mean of ``values`` is the level's skill.
    """

    episode: int
    name: str
    level: int
    period_s: float
    rows: NDArray[np.int64]
    times_s: NDArray[np.float64]
    values: NDArray[np.float64]

    def asdict(self) -> dict[str, Any]:
        return {k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in vars(self).items()}


@dataclass(frozen=True)
class Segment:
    """One event of an episode, as a level sees it.

    Attributes:
        first_row, stop_row: absolute rows, the last excluded; start_s, stop_s: seconds from the episode's first frame.
        surprise: the highest of the burst that opens it (see `Surprise`); None for an episode's first.
        state: (D,) mean of the level's states in it.
    """

    episode: int
    name: str
    level: int
    first_row: int
    stop_row: int
    start_s: float
    stop_s: float
    surprise: float | None
    state: NDArray[np.float32]

    def asdict(self) -> dict[str, Any]:
        """Everything but the state."""
        return {k: v for k, v in vars(self).items() if k != "state"}


def surprise(view: View, levels: list[int] | None = None) -> list[Surprise]:
    """Surprise at every step that has a prediction, one entry a level and episode; episodes too short are left out.

    Raises:
        UserError: no such level, a level for which every episode is too short, or actions are needed and missing.
    """
    return [entry for level in view.levels(levels) for entry in _of_level(view, level)]


def persistence_energy(view: View, level: int) -> float:
    """Mean energy between states of a level one period apart over the whole source, the unit of surprise."""
    kind, period = view.model.level(level).config.objective.energy, view.period(level)
    changes = [
        distance(kind, r.states[level - 1][:-period], r.states[level - 1][period:])
        for r in view.recordings
        if len(r.states[level - 1]) > period
    ]
    if not changes:
        raise view.too_short(level, 2)
    return max(float(torch.cat(changes).double().mean()), TINY)


def _of_level(view: View, level: int) -> list[Surprise]:
    unit, period, found = persistence_energy(view, level), view.period(level), []
    for number, recording in enumerate(view.recordings):
        rows, episode = recording.rows_of(level)[period:], view.source.episodes[number]
        if len(rows):
            times = (rows - episode.start) / view.rate_hz
            values = _energies(view, level, recording) / unit
            found.append(Surprise(number, episode.source, level, period / view.rate_hz, rows, times, values))
    return found


@torch.inference_mode()
def _energies(view: View, level: int, recording: Recording) -> NDArray[np.float64]:
    """(N,) energy of every state that has one a period before it, given that one and its past."""
    states, period, one = recording.states[level - 1], view.period(level), view.model.level(level)
    now, found = np.arange(len(states) - period), []
    for start in range(0, len(now), BATCH):
        here = now[start : start + BATCH]
        seen = contexts(view.model, level, recording, here, 1)
        expected = one.rollout(seen.states, 1, seen.actions, valid=seen.valid)[:, 0].cpu()
        found.append(distance(one.config.objective.energy, expected, states[here + period]))
    return torch.cat(found).double().numpy()


def segments(view: View, level: int, threshold: float = THRESHOLD, apart_s: float | None = None) -> list[Segment]:
    """Cut every episode where a level's prediction fails: an event begins where surprise rises above a threshold.

    Args:
        threshold: in robust standard deviations (1.48 times the median absolute deviation) above the median, of the
            square root of surprise over the whole source.
        apart_s: seconds between two beginnings, the stronger wins; default: four periods of the level.

    Returns:
        Segments that cover each episode from its first frame to its last, in order; episodes too short are left out.

    Raises:
        UserError: as `surprise`, or an illegal threshold or distance.
    """
    if threshold < 0 or (apart_s is not None and apart_s < 0):
        raise UserError(f"threshold is {threshold}, apart_s {apart_s}; legal: neither below 0")
    found = surprise(view, [level])
    limit = _limit(np.concatenate([s.values for s in found]), threshold)
    apart = APART_PERIODS * view.period(level) if apart_s is None else max(1, round(apart_s * view.rate_hz))
    hump = view.model.clock.reach(level) + view.period(level)  # as long as one sudden change shows in the states
    return [part for track in found for part in _cut(view, track, _bursts(track.values, limit, apart, hump))]


def _limit(values: NDArray[np.float64], threshold: float) -> float:
    """The surprise that is ``threshold`` robust standard deviations above the usual, measured on its square root:
    energies are squares, with a long tail even where nothing happens; their roots are nearly normal."""
    roots = np.sqrt(np.maximum(values, 0))
    middle = float(np.median(roots))
    return (middle + threshold * MAD_TO_STD * float(np.median(np.abs(roots - middle)))) ** 2


def _bursts(values: NDArray[np.float64], limit: float, apart: int, hump: int) -> dict[int, float]:
    """Where surprise (N,) rises above the limit -> its height there, in order, none closer than ``apart`` steps."""
    above = values > limit
    rises = np.flatnonzero(above[1:] & ~above[:-1]) + 1
    heights = np.array([values[r : r + hump].max() for r in rises])
    found: dict[int, float] = {}
    for k in np.argsort(-heights, kind="stable"):  # of equals, the earliest first
        if all(abs(rises[k] - other) >= apart for other in found):
            found[int(rises[k])] = float(heights[k])
    return dict(sorted(found.items()))


def _cut(view: View, track: Surprise, bursts: dict[int, float]) -> list[Segment]:
    episode, recording = view.source.episodes[track.episode], view.recordings[track.episode]
    edges = [episode.start, *(int(track.rows[b]) for b in bursts), episode.stop]
    rows, found = recording.rows_of(track.level), []
    for first, stop, height in zip(edges, edges[1:], [None, *bursts.values()], strict=False):
        inside = recording.states[track.level - 1][torch.from_numpy((rows >= first) & (rows < stop))]
        start_s, stop_s = ((row - episode.start) / view.rate_hz for row in (first, stop))
        state = inside.mean(0).numpy()
        found.append(Segment(track.episode, track.name, track.level, first, stop, start_s, stop_s, height, state))
    return found


def draw_segments(found: list[Segment], view: View, columns: int = COLUMNS) -> Image.Image:
    """The middle frame of each segment, with its times and the surprise that opened it underneath."""
    frames = view.frames([(s.first_row + s.stop_row) // 2 for s in found])
    rows = []
    for episode in sorted({s.episode for s in found}):
        own = [(s, f) for s, f in zip(found, frames, strict=True) if s.episode == episode]
        cells = [Cell(frame, f"{s.start_s:.2f}-{s.stop_s:.2f} s\n{_opened(s)}") for s, frame in own]
        rows += wrapped(cells, columns, f"level {own[0][0].level}: {own[0][0].name}")
    return grid(rows)


def _opened(segment: Segment) -> str:
    return "" if segment.surprise is None else f"surprise {segment.surprise:.1f}"
