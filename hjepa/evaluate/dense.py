"""Recordings seen through a model: states of every level at every environment step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, cast

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from hjepa.config import WorldConfig
from hjepa.data.store import ArraySpec, Episode, Store
from hjepa.data.stream import Hold, episode_parts
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.train.world import ACTIONS, FRAMES

Part = Literal["train", "held_back", "all"]
BATCH = 512


class Source(Protocol):
    """What is read of a `Store`, so that a decoded video can stand in for one."""

    path: Path
    rate_hz: float
    arrays: dict[str, ArraySpec]
    episodes: list[Episode]

    def read(self, name: str, rows: ArrayLike) -> NDArray:
        """(len(rows), *shape of a step) of an array, absolute rows."""


@dataclass(frozen=True)
class Recording:
    """One stretch of consecutive steps and its states.

    Attributes:
        rows: (T,) absolute rows in the source.
        states: per level (T - reach, D): every step that has a state; empty where the recording is too short.
        reach: per level, the step of its first state.
        actions: (T, A) in the store's units, or None.
    """

    rows: NDArray[np.int64]
    states: list[Tensor]
    reach: list[int]
    actions: Tensor | None

    def rows_of(self, level: int) -> NDArray[np.int64]:
        """(T - reach,) the row of each state of ``level``."""
        return self.rows[self.reach[level - 1] :]


@dataclass(frozen=True)
class Context:
    """What a level has seen before some starts, ready for `Level.rollout`, on the model's device.

    Attributes:
        states: (N, n, D) the last n states, one period apart, the start's own last; valid: (N, n) bool.
        actions: (N, n - 1 + steps, a) of the transitions among them and ahead, or None.
    """

    states: Tensor
    valid: Tensor
    actions: Tensor | None


@torch.inference_mode()
def recordings(
    model: Hierarchy,
    source: Source,
    part: Part = "all",
    held_back: float = 0.0,
    hold: Hold = "tail",
    acting: bool = True,
) -> list[Recording]:
    """Encode a part of a source densely, one entry an episode.

    Args:
        acting: predictions will be asked for, so a model with actions needs them; False: states alone.

    Raises:
        UserError: frames of another size or rate than the model's, actions missing, or no step in the part.
    """
    world = model.config.world
    check_store(world, source, acting)
    found = []
    for first, stop in episode_parts(cast(Store, source), part, held_back, hold):  # needs no more than a Source
        rows = np.arange(first, stop)
        acts = world.action_dim and ACTIONS in source.arrays
        actions = torch.from_numpy(source.read(ACTIONS, rows)).float() if acts else None
        states = dense_states(model, source, rows)
        found.append(Recording(rows, states, [model.clock.reach(k + 1) for k in range(model.depth)], actions))
    return found


@torch.inference_mode()
def dense_states(model: Hierarchy, source: Source, rows: NDArray[np.int64]) -> list[Tensor]:
    """Per level (len(rows) - reach, D), on the CPU; level 1 is encoded in blocks, each frame read once or twice."""
    clock, device = model.clock, next(model.parameters()).device
    fitting = [k for k in range(1, model.depth + 1) if clock.reach(k) < len(rows)]
    if not fitting:
        return [torch.empty(0, c.dim) for c in model.config.levels]
    blocks, lost = [], clock.reach(1)
    for start in range(lost, len(rows), BATCH):
        frames = torch.from_numpy(source.read(FRAMES, rows[start - lost : start + BATCH]))[None].to(device)
        blocks.append(model.encode_clip(frames, clock.dense(frames.shape[1], 1))[0].states)
    states = torch.cat(blocks, 1)
    upper = model.encode_clip(states, clock.dense(len(rows), fitting[-1]), source=1)
    found = [states[0].cpu(), *(s.states[0].cpu() for s in upper)]
    return found + [torch.empty(0, c.dim) for c in model.config.levels[len(found) :]]


def contexts(model: Hierarchy, number: int, recording: Recording, now: NDArray[np.int64], steps: int) -> Context:
    """What level ``number`` knows at its states ``now`` (N,), as much as in training, to predict ``steps`` periods.

    Before the recording's first state the context is not valid; actions beyond its ends repeat the outermost, where
    only predictions of what the recording does not hold depend on them.

    Raises:
        UserError: the level predicts under actions and the recording has none.
    """
    states = recording.states[number - 1]
    device, length = next(model.parameters()).device, model.config.levels[number - 1].length - 1
    back = now[:, None] - model.clock.past(number, length)
    seen, valid = states[np.maximum(back, 0)], torch.from_numpy(back >= 0)
    if not model.level(number).action_dim:
        return Context(seen.to(device), valid.to(device), None)
    if recording.actions is None:
        raise UserError(f"level {number} predicts under actions and this recording has none; legal: a store with them")
    at = recording.reach[number - 1] + now[:, None] + model.clock.acting(number, length - 1, steps)
    taken = recording.actions[np.clip(at, 0, len(recording.actions) - 1)]
    return Context(seen.to(device), valid.to(device), model.embed_actions(taken.to(device))[number - 1])


def check_store(world: WorldConfig, source: Source, acting: bool = True) -> None:
    """Raise UserError where the model cannot read this source's frames or, ``acting``, its actions."""
    if FRAMES not in source.arrays:
        raise UserError(f"{source.path}: no array {FRAMES!r}, this model reads pixels")
    size, rate = source.arrays[FRAMES].shape, source.rate_hz
    if size != (world.height, world.width, world.channels) or abs(rate - world.rate_hz) > 1e-3 * world.rate_hz:
        raise UserError(
            f"{source.path}: frames {size} at {rate:g} Hz; this model reads "
            f"({world.height}, {world.width}, {world.channels}) at {world.rate_hz:g} Hz"
        )
    if acting and world.action_dim and ACTIONS not in source.arrays:
        raise UserError(f"{source.path}: no array {ACTIONS!r}, this model predicts under {world.action_dim} actions")
    wide = source.arrays[ACTIONS].shape if world.action_dim and ACTIONS in source.arrays else None
    if wide not in (None, (world.action_dim,)):
        raise UserError(f"{source.path}: actions are {wide} a step; this model reads ({world.action_dim},)")
