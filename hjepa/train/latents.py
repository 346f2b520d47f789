"""The latent store: states of a frozen level at every step, so that the next level trains without pixels."""

from __future__ import annotations

import hashlib
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Literal, TypedDict

import numpy as np
import torch

from hjepa.config import RunConfig
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.data.stream import augmented, episode_parts
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.train.world import ACTIONS, FRAMES, STATES

BLOCK = 1024  # states encoded at once


def cache_states(
    hierarchy: Hierarchy, number: int, source: Store, out: Path, config: RunConfig, tick: Callable[[int, int], None]
) -> Store:
    """Encode level ``number`` once at every step of the training part of ``source`` and keep it in a store.

    Args:
        source: frames for level 1, the latent store of level ``number - 1`` above.
        out: where the store goes; one that the same weights made is used as it is.
        tick: told (done, all) steps.

    Returns:
        A store with ``states`` (D,) float32, and the actions where there are any. Its episodes are the training parts
        of the source's, less the steps at the beginning that no state of this level ends at.

    Raises:
        UserError: no episode is long enough for one state of this level.
    """
    level = hierarchy.level(number)
    made_by = {"level": number, "weights": _digest(hierarchy, number), "source": source.digest}
    views = config.data.views if number == 1 else 1  # above, the views of level 1 are episodes of the source
    kept = _kept(out, made_by)
    if kept:
        return kept
    arrays = {STATES: ArraySpec("float32", (level.config.dim,), "1", f"states of level {number}")}
    if ACTIONS in source.arrays:
        arrays[ACTIONS] = source.arrays[ACTIONS]
    parts = episode_parts(source, **split(config, number - 1))
    lost = hierarchy.clock.reach(number) - hierarchy.clock.reach(number - 1)
    parts = parts[parts[:, 1] - parts[:, 0] > lost]
    if not len(parts):
        raise UserError(f"{source.path}: no episode has the {lost + 1} steps that a state of level {number} needs")
    done, every = 0, views * int((parts[:, 1] - parts[:, 0] - lost).sum())
    with StoreWriter(out, rate_hz=source.rate_hz, arrays=arrays, attrs={"made_by": made_by}) as writer:
        for view, (first, stop) in itertools.product(range(views), parts):
            with writer.episode(f"rows {first} to {stop} view {view}") as episode:
                for start in range(first + lost, stop, BLOCK):
                    rows = np.arange(start - lost, min(start + BLOCK, stop))
                    items = source.read(FRAMES if number == 1 else STATES, rows)
                    if views > 1:
                        rng = np.random.default_rng([config.seed, view, first])
                        items = augmented(items, rng, config.data.flip, config.data.shift)
                    blocks = {STATES: _states(hierarchy, number, items)}
                    if ACTIONS in arrays:
                        blocks[ACTIONS] = source.read(ACTIONS, rows[lost:])
                    episode.append(**blocks)
                    done += len(rows) - lost
                    tick(done, every)
        writer.finish()
    return Store.open(out)


@torch.inference_mode()
def _states(hierarchy: Hierarchy, number: int, items: np.ndarray) -> np.ndarray:
    """(M, D) states of level ``number`` at the last M of consecutive items below, all that they suffice for."""
    crop = hierarchy.clock.dense(len(items) + hierarchy.clock.reach(number - 1), number)
    below = torch.from_numpy(np.ascontiguousarray(items))[None].to(next(hierarchy.parameters()).device)
    return hierarchy.encode_clip(below, crop, source=number - 1)[0].states[0].cpu().numpy()


class Split(TypedDict, total=False):
    """How a stream leaves out what is held back."""

    part: Literal["train", "all"]
    held_back: float
    hold: Literal["tail", "episodes"]


def split(config: RunConfig, source: int) -> Split:
    """The part that trains: of frames (``source`` 0), or all of a latent store, which holds nothing else."""
    if source:
        return {"part": "all"}
    return {"part": "train", "held_back": config.data.held_back, "hold": config.data.hold}


def _kept(out: Path, made_by: dict) -> Store | None:
    """The store at ``out`` if it is whole and of these weights; anything else there is a cache gone stale and goes."""
    try:
        store = Store.open(out)
    except UserError:
        store = None
    if store and store.attrs.get("made_by") == made_by:
        return store
    shutil.rmtree(out, ignore_errors=True)
    return None


def _digest(hierarchy: Hierarchy, number: int) -> str:
    """Of the weights of this level and all below it."""
    sha = hashlib.sha256()
    for level in hierarchy.levels[:number]:
        for name, value in sorted(level.state_dict().items()):
            sha.update(name.encode())
            sha.update(value.detach().cpu().contiguous().numpy().tobytes())
    return sha.hexdigest()
