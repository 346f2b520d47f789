"""Every piece of time arithmetic: strides, windows, periods, and which frames a crop reads.

Time is counted in environment steps (frames of the store). Level 1 reads frames; level l+1 reads states of level l.

* ``stride``: steps of the level below per step of this level.
* ``window``: how many consecutive states below one state here pools, the last of them at its own instant (causal).
* ``period``: environment steps per step of this level, the product of the strides up to it.

The clock counts back from *now*: every level's last state ends at the last frame, so that the present can be encoded
at every level while acting, and the instants of a level are a subset of the instants of the level below. Nothing
outside this file computes a time index.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Index = NDArray[np.int64]


@dataclass(frozen=True)
class LevelCrop:
    """The states of one level that a crop computes, oldest first.

    Attributes:
        instants: (N,) environment step of each state, relative to the crop's first frame.
        reads: (N, window) positions of the pooled items in the list of items below (frames, or states below).
        length: how many of the last states form the predictor's sequence, one period apart.
    """

    instants: Index
    reads: Index
    length: int


@dataclass(frozen=True)
class Crop:
    """What is read and computed for one clip of ``span`` frames, the last of which is *now*.

    Attributes:
        span: environment steps from the clip's first to its last frame, both included.
        frames: (F,) the frames that are read, as ascending offsets into the clip.
        levels: one entry a level, level 1 first.
    """

    span: int
    frames: Index
    levels: tuple[LevelCrop, ...]

    def reading(self, source: int) -> tuple[int, Index]:
        """(span, offsets) of what is read: frames (``source`` 0), or states of level ``source`` from the first on."""
        if source == 0:
            return self.span, self.frames
        instants = self.levels[source - 1].instants
        return self.span - int(instants[0]), instants - instants[0]


class Clock:
    """Strides and windows of every level, level 1 first.

    Raises:
        ValueError: no level, unequal lengths, or a stride or window below 1.
    """

    def __init__(self, strides: Sequence[int], windows: Sequence[int]) -> None:
        if not strides or len(strides) != len(windows):
            raise ValueError(f"a clock needs one stride and one window a level, got {strides} and {windows}")
        if min(*strides, *windows, 1) < 1:
            raise ValueError(f"strides and windows must be at least 1, got {strides} and {windows}")
        self.strides = tuple(strides)
        self.windows = tuple(windows)
        self.periods = tuple(int(p) for p in np.cumprod(self.strides))

    @property
    def depth(self) -> int:
        return len(self.strides)

    def reach(self, level: int) -> int:
        """Environment steps before its own instant that one state of ``level`` sees (level 0, a frame: none)."""
        below = (1, *self.periods)
        return sum((w - 1) * p for w, p in zip(self.windows[:level], below[:level], strict=True))

    def span(self, level: int, length: int) -> int:
        """Frames that ``length`` consecutive states of ``level`` need."""
        return self.reach(level) + (length - 1) * self.periods[level - 1] + 1

    def states_in(self, level: int, frames: int) -> int:
        """How many consecutive states of ``level`` fit into ``frames`` frames."""
        return max(0, (frames - 1 - self.reach(level)) // self.periods[level - 1] + 1)

    def crop(self, lengths: Sequence[int]) -> Crop:
        """The smallest clip with the last ``lengths[l-1]`` consecutive states of level l (0: only what others read).

        Raises:
            ValueError: more lengths than levels, or none above 0. Fewer lengths make a clip for the lower levels only.
        """
        if not 0 < len(lengths) <= self.depth or max(lengths) < 1:
            raise ValueError(f"a crop of {self.depth} levels needs 1 to {self.depth} lengths, got {list(lengths)}")
        ages = self._ages(lengths)  # ages[0]: of frames; ages[l]: of the states of level l, oldest first
        span = int(ages[0][0]) + 1
        below = (1, *self.periods)
        levels = tuple(
            LevelCrop(
                instants=span - 1 - ages[k],
                reads=np.searchsorted(-ages[k - 1], -self._pooled(ages[k], k, below[k - 1])),
                length=lengths[k - 1],
            )
            for k in range(1, len(lengths) + 1)
        )
        return Crop(span, span - 1 - ages[0], levels)

    def whole(self, frames: int, levels: int | None = None) -> Crop:
        """Every state of the lower ``levels`` levels (default: all) that a recording of ``frames`` frames holds.

        Levels that are too slow for the recording have no states. Offsets count from the recording's first frame.

        Raises:
            ValueError: not even level 1 has a state.
        """
        lengths = [self.states_in(k, frames) for k in range(1, (levels or self.depth) + 1)]
        if lengths[0] == 0:
            raise ValueError(f"level 1 needs {self.span(1, 1)} frames, the recording has {frames}")
        crop = self.crop(lengths)
        shift = frames - crop.span
        moved = tuple(LevelCrop(c.instants + shift, c.reads, c.length) for c in crop.levels)
        return Crop(frames, crop.frames + shift, moved)

    def dense(self, frames: int, levels: int | None = None) -> Crop:
        """Like `whole`, but with a state at every environment step that has one, not one a period.

        Raises:
            ValueError: the recording is too short for the highest of the levels.
        """
        levels = levels or self.depth
        if frames <= self.reach(levels):
            raise ValueError(f"level {levels} needs {self.span(levels, 1)} frames, the recording has {frames}")
        below = (1, *self.periods)
        crops, first = [], 0  # first: the earliest instant of the items below
        for level in range(1, levels + 1):
            instants = np.arange(self.reach(level), frames)
            reads = instants[:, None] - self._back(level, below[level - 1]) - first
            crops.append(LevelCrop(instants, reads, len(instants)))
            first = self.reach(level)
        return Crop(frames, np.arange(frames), tuple(crops))

    def past(self, level: int, length: int) -> Index:
        """(length,) steps before now of a level's last ``length`` states, oldest first."""
        return np.arange(length - 1, -1, -1) * self.periods[level - 1]

    def future(self, level: int, within: int) -> Index:
        """Steps after now of the states of ``level`` that lie up to ``within`` environment steps ahead."""
        return np.arange(1, within // self.periods[level - 1] + 1) * self.periods[level - 1]

    def acting(self, level: int, before: int, after: int) -> Index:
        """Steps relative to now whose actions make a level's last ``before`` transitions and its next ``after``."""
        period = self.periods[level - 1]
        return np.arange(-before * period, after * period)

    def action_steps(self, lengths: Sequence[int]) -> int:
        """How many of the last environment steps' actions the transitions of these sequences take."""
        return max((n - 1) * p for n, p in zip(lengths, self.periods[: len(lengths)], strict=True) if n)

    def group(self, level: int, steps: int) -> slice:
        """Of ``steps`` steps below, the newest that make whole steps of ``level``."""
        return slice(steps % self.strides[level - 1], steps)

    def _back(self, level: int, period_below: int) -> Index:
        """(window,) steps before a state's own instant of the items that it pools, oldest first."""
        return np.arange(self.windows[level - 1] - 1, -1, -1) * period_below

    def _pooled(self, ages: Index, level: int, period_below: int) -> Index:
        """(N, window) ages of the items below that states of these ages pool, oldest first."""
        return ages[:, None] + self._back(level, period_below)

    def _ages(self, lengths: Sequence[int]) -> list[Index]:
        """Ages (steps before now) of everything that is needed, frames first; each list descending."""
        below = (1, *self.periods)
        needed: list[Index] = []
        wanted = np.empty(0, np.int64)
        for level in range(len(lengths), 0, -1):
            own = np.arange(lengths[level - 1]) * self.periods[level - 1]
            ages = np.union1d(own, wanted)[::-1].astype(np.int64)
            needed.insert(0, ages)
            wanted = np.unique(self._pooled(ages, level, below[level - 1]))
        return [wanted[::-1].astype(np.int64), *needed]
