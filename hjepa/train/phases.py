"""The regimes: which levels train, on what, in which order."""

from __future__ import annotations

from dataclasses import dataclass

from hjepa.clock import Clock, Crop
from hjepa.config import RunConfig


@dataclass(frozen=True)
class Phase:
    """One stretch of training. ``levels`` train on frames (``source`` 0) or on cached states of level ``source``."""

    name: str
    levels: tuple[int, ...]
    source: int

    def lengths(self, config: RunConfig) -> list[int]:
        """Sequence length a level, 0 for those that only feed the levels above them."""
        return [config.levels[k - 1].length if k in self.levels else 0 for k in range(1, self.levels[-1] + 1)]

    def crop(self, clock: Clock, config: RunConfig) -> Crop:
        return clock.crop(self.lengths(config))


def phases(config: RunConfig) -> list[Phase]:
    """joint: all levels at once, gradients end to end. levelwise: one after the other, each on the frozen states of
    the one below, pixels read by level 1 alone. staged: level-wise, then joint."""
    every = tuple(range(1, len(config.levels) + 1))
    joint = Phase("joint", every, 0)
    one_by_one = [Phase(f"level {k}", (k,), k - 1) for k in every]
    return {"joint": [joint], "levelwise": one_by_one, "staged": [*one_by_one, joint]}[config.train.regime]
