"""A video or a store seen through a trained hierarchy: encoded once, asked many times."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hjepa.config import WorldConfig
from hjepa.data.store import ArraySpec, Episode, Store
from hjepa.data.video import Crop, read_video
from hjepa.errors import UserError, nearest
from hjepa.evaluate.dense import Recording, Source, check_store, recordings
from hjepa.hierarchy import Hierarchy
from hjepa.train.world import FRAMES

TINY = 1e-12  # a level that has collapsed has no scale: keep ratios finite


class Film:
    """A decoded video in memory that reads like a store of one episode.

    Args:
        frames: (T, H, W, 3) uint8.
    """

    def __init__(self, path: Path, frames: NDArray[np.uint8], rate_hz: float) -> None:
        self.path, self.rate_hz = path, rate_hz
        self.arrays = {FRAMES: ArraySpec("uint8", frames.shape[1:], "rgb 0-255")}
        self.episodes = [Episode(0, len(frames), path.name)]
        self._frames = frames

    def read(self, name: str, rows: ArrayLike) -> NDArray:
        if name not in self.arrays:
            raise UserError(f"{self.path}: a video has no array {name!r}: {nearest(name, self.arrays)}")
        return self._frames[np.asarray(rows)]


def open_source(path: str | Path, world: WorldConfig) -> Source:
    """A store (a folder), or a video file brought to the model's size and rate as its training videos were.

    Raises:
        UserError: nothing there, no sealed store, or no frame decodes.
    """
    path = Path(path)
    if path.is_dir():
        return Store.open(path)
    if not path.exists():
        raise UserError(f"{path}: no such file; legal: a store's folder or a video file")
    blocks = read_video(path, rate_hz=world.rate_hz, size=(world.height, world.width), crop=cast(Crop, world.crop))
    return Film(path, np.concatenate(list(blocks)), world.rate_hz)


@dataclass(frozen=True)
class Moment:
    """One step of a source: its episode (number and name), absolute row, and seconds from the episode's first frame."""

    episode: int
    name: str
    row: int
    time_s: float

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Library:
    """Every state of one level: states (N, D), the rows (N,) they end at, and the variance of a component."""

    states: Tensor
    rows: NDArray[np.int64]
    variance: float

    def distances(self, states: Tensor) -> Tensor:
        """(M, D) -> (M, N) root mean square difference over the level's standard deviation: 1.4 is unrelated."""
        apart = torch.cdist(states, self.states, compute_mode="donot_use_mm_for_euclid_dist")  # exact: 0 for the same
        return apart / (self.states.shape[1] * max(self.variance, TINY)) ** 0.5


class View:
    """A source and the model that looks at it; states are computed at the first question and kept.

    Args:
        source: a store or a `Film`, or the path of a store or a video file.

    Raises:
        UserError: nothing there, or frames that this model cannot read.
    """

    def __init__(self, model: Hierarchy, source: Source | str | Path) -> None:
        self.model = model
        self.source: Source = open_source(source, model.config.world) if isinstance(source, str | Path) else source
        check_store(model.config.world, self.source, acting=False)
        self._libraries: dict[int, Library] = {}

    @property
    def rate_hz(self) -> float:
        return self.source.rate_hz

    @cached_property
    def recordings(self) -> list[Recording]:
        """One an episode, in their order."""
        return recordings(self.model, self.source, acting=False)

    def levels(self, asked: list[int] | None) -> list[int]:
        """The levels asked for (default: all).

        Raises:
            UserError: one that the model does not have.
        """
        for number in asked or []:
            self.model.level(number)
        return asked or list(range(1, self.model.depth + 1))

    def period(self, level: int) -> int:
        """Steps between a level's states."""
        return self.model.clock.periods[level - 1]

    def library(self, level: int) -> Library:
        """Every state of a level, one a step.

        Raises:
            UserError: no such level, or no episode is long enough for one state of it.
        """
        self.model.level(level)
        if level not in self._libraries:
            states = torch.cat([r.states[level - 1] for r in self.recordings])
            if not len(states):
                raise self.too_short(level, 1)
            rows = np.concatenate([r.rows_of(level) for r in self.recordings])
            self._libraries[level] = Library(states, rows, float(states.var(0, correction=0).mean()))
        return self._libraries[level]

    def too_short(self, level: int, states: int) -> UserError:
        """The error that no episode has ``states`` states of a level."""
        needed = self.model.clock.span(level, states)
        longest = max(e.length for e in self.source.episodes)
        return UserError(
            f"{self.source.path}: {states} states of level {level} need {needed} frames "
            f"({needed / self.rate_hz:.3g} s), the longest recording has {longest} ({longest / self.rate_hz:.3g} s)"
        )

    def moment(self, row: int) -> Moment:
        """When and where a row is."""
        starts = [e.start for e in self.source.episodes]
        number = int(np.searchsorted(starts, row, side="right")) - 1
        episode = self.source.episodes[number]
        return Moment(number, episode.source, int(row), (int(row) - episode.start) / self.rate_hz)

    def find(self, level: int, episode: int = 0, time_s: float | None = None) -> Moment:
        """The moment ``time_s`` seconds into an episode (default: half-way), where the level must have a state.

        Raises:
            UserError: no such level or episode, a time outside it, or before the level's first state.
        """
        self.library(level)
        if not 0 <= episode < len(self.source.episodes):
            raise UserError(f"{self.source.path}: no episode {episode}; legal: 0 to {len(self.source.episodes) - 1}")
        part, reach = self.source.episodes[episode], self.model.clock.reach(level)
        if part.length <= reach:
            raise UserError(f"{self.source.path}: episode {episode} is too short for a state of level {level}")
        step = (reach + part.length) // 2 if time_s is None else round(time_s * self.rate_hz)
        if not reach <= step < part.length:
            first, last = reach / self.rate_hz, (part.length - 1) / self.rate_hz
            raise UserError(
                f"{self.source.path}: time {time_s:g} s of episode {episode}; "
                f"legal for level {level}: {first:.3f} to {last:.3f} s"
            )
        return self.moment(part.start + step)

    def frames(self, rows: ArrayLike) -> NDArray[np.uint8]:
        """(len(rows), H, W, C) uint8."""
        return self.source.read(FRAMES, np.asarray(rows, np.int64))

    def frame(self, moment: Moment) -> NDArray[np.uint8]:
        return self.frames([moment.row])[0]
