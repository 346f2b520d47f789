"""The nearest moments to one moment, at a chosen level, across a library."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hjepa.errors import UserError
from hjepa.pictures import Cell, Row, grid
from hjepa.query.view import Moment, View

APART_S = 1.0  # the least default distance in time: nearer ones show the same thing


@dataclass(frozen=True)
class Near:
    """A moment and the distance of its state, in standard deviations of the level over the library: two unrelated
    moments are about 1.4 apart."""

    moment: Moment
    distance: float


@dataclass(frozen=True)
class Neighbours:
    """The moments most like ``query`` to a level, nearest first, each at least ``apart_s`` from it and each other."""

    level: int
    query: Moment
    apart_s: float
    found: list[Near]

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


def nearest(
    view: View,
    level: int,
    time_s: float | None = None,
    *,
    episode: int = 0,
    count: int = 6,
    apart_s: float | None = None,
    library: View | None = None,
) -> Neighbours:
    """The moments of a library (default: the view itself) whose states at ``level`` are nearest to that at ``time_s``.

    Args:
        time_s: seconds into ``episode``; default: half-way.
        count: how many; fewer where the library holds no more that are apart.
        apart_s: seconds between any two of one episode, the query included; default: a second, or as much as makes
            states share no frame. Without it the neighbours were the frames next to the query.

    Raises:
        UserError: no such level, episode or time; a library too short for the level; an illegal count or distance.
    """
    if count < 1 or (apart_s is not None and apart_s < 0):
        raise UserError(f"count is {count}, apart_s {apart_s}; legal: count at least 1, apart_s at least 0 s")
    library = library or view
    query, shelf = view.find(level, episode, time_s), library.library(level)
    own = view.library(level)
    state = own.states[np.searchsorted(own.rows, query.row)]
    if apart_s is None:
        apart_s = max(APART_S, (view.model.clock.reach(level) + view.period(level)) / view.rate_hz)
    left = shelf.distances(state[None])[0].double().numpy()
    apart = max(1, round(apart_s * view.rate_hz))
    if library.source.path.resolve() == view.source.path.resolve():
        _forbid(left, shelf.rows, library, query.row, apart)
    found: list[Near] = []
    while len(found) < count and np.isfinite(left).any():
        best = int(left.argmin())
        found.append(Near(library.moment(int(shelf.rows[best])), float(left[best])))
        _forbid(left, shelf.rows, library, int(shelf.rows[best]), apart)
    return Neighbours(level, query, apart_s, found)


def _forbid(left: NDArray, rows: NDArray[np.int64], library: View, row: int, apart: int) -> None:
    """Take what is less than ``apart`` steps from ``row`` in its episode out of the running, in place."""
    episode = library.source.episodes[library.moment(row).episode]
    near = (np.abs(rows - row) < apart) & (rows >= episode.start) & (rows < episode.stop)
    left[near] = np.inf


def draw_nearest(found: Neighbours, view: View, library: View | None = None) -> Image.Image:
    """The query's frame, and those of its neighbours with episode, time and distance underneath."""
    library = library or view
    cells = [Cell(view.frame(found.query), f"query\n{caption(found.query)}")]
    cells += [Cell(library.frame(n.moment), f"{n.distance:.2f} apart\n{caption(n.moment)}") for n in found.found]
    return grid([Row(cells, f"level {found.level}: nearest moments")])


def caption(moment: Moment) -> str:
    """Where and when, for the line under a frame."""
    return f"#{moment.episode}  {moment.time_s:.2f} s"
