"""Recordings of a store seen through a model: states of every level at every environment step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from hjepa.config import WorldConfig
from hjepa.data.store import Store
from hjepa.data.stream import Hold, episode_parts
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.train.world import ACTIONS, FRAMES

Part = Literal["train", "held_back", "all"]
BATCH = 512


@dataclass(frozen=True)
class Recording:
    """One stretch of consecutive steps and its states.

    Attributes:
        rows: (T,) absolute rows in the store.
        states: per level (T - reach, D): every step that has a state; empty where the recording is too short.
        reach: per level, the step of its first state.
        actions: (T, A) in the store's units, or None.
    """

    rows: np.ndarray
    states: list[Tensor]
    reach: list[int]
    actions: Tensor | None


@torch.inference_mode()
def recordings(
    model: Hierarchy, store: Store, part: Part = "all", held_back: float = 0.0, hold: Hold = "tail"
) -> list[Recording]:
    """Encode a part of a store densely, one entry an episode.

    Raises:
        UserError: frames of another size or rate than the model's, or no step in the part.
    """
    check_store(model.config.world, store)
    found = []
    for first, stop in episode_parts(store, part, held_back, hold):
        rows = np.arange(first, stop)
        actions = torch.from_numpy(store.read(ACTIONS, rows)).float() if model.config.world.action_dim else None
        states = dense_states(model, store, rows)
        found.append(Recording(rows, states, [model.clock.reach(k + 1) for k in range(model.depth)], actions))
    return found


def dense_states(model: Hierarchy, store: Store, rows: np.ndarray) -> list[Tensor]:
    """Per level (len(rows) - reach, D), on the CPU; level 1 is encoded in blocks, each frame read once."""
    clock, device = model.clock, next(model.parameters()).device
    fitting = [k for k in range(1, model.depth + 1) if clock.reach(k) < len(rows)]
    if not fitting:
        return [torch.empty(0, c.dim) for c in model.config.levels]
    blocks, lost = [], clock.reach(1)
    for start in range(lost, len(rows), BATCH):
        frames = torch.from_numpy(store.read(FRAMES, rows[start - lost : start + BATCH]))[None].to(device)
        blocks.append(model.encode_clip(frames, clock.dense(frames.shape[1], 1))[0].states)
    states = torch.cat(blocks, 1)
    upper = model.encode_clip(states, clock.dense(len(rows), fitting[-1]), source=1)
    found = [states[0].cpu(), *(s.states[0].cpu() for s in upper)]
    return found + [torch.empty(0, c.dim) for c in model.config.levels[len(found) :]]


def check_store(world: WorldConfig, store: Store) -> None:
    """Raise UserError where the model cannot read this store's frames."""
    if FRAMES not in store.arrays:
        raise UserError(f"{store.path}: no array {FRAMES!r}, this model reads pixels")
    size, rate = store.arrays[FRAMES].shape, store.rate_hz
    if size != (world.height, world.width, world.channels) or abs(rate - world.rate_hz) > 1e-3 * world.rate_hz:
        raise UserError(
            f"{store.path}: frames {size} at {rate:g} Hz; this model reads "
            f"({world.height}, {world.width}, {world.channels}) at {world.rate_hz:g} Hz"
        )
    if world.action_dim and ACTIONS not in store.arrays:
        raise UserError(f"{store.path}: no array {ACTIONS!r}, this model predicts under {world.action_dim} actions")
