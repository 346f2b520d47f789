"""What a model must know of the store it is trained on."""

from __future__ import annotations

import numpy as np

from hjepa.config import WorldConfig
from hjepa.data.store import Store
from hjepa.errors import UserError, nearest

FRAMES, ACTIONS, STATES = "frames", "actions", "states"


def world_of(store: Store) -> WorldConfig:
    """Size, rate and preprocessing of the frames; mean, spread and 1-99 % range of the actions.

    Raises:
        UserError: the store has no frames.
    """
    if FRAMES not in store.arrays:
        raise UserError(f"{store.path}: no array {FRAMES!r}; {nearest(FRAMES, store.arrays)}")
    height, width, channels = store.arrays[FRAMES].shape
    crop = store.attrs.get("preprocessing", {}).get("crop", "center")
    actions: dict[str, tuple[float, ...]] = {}
    if ACTIONS in store.arrays:
        every = np.concatenate([store.whole(ACTIONS, e) for e in store.episodes]).astype(np.float64)
        low, high = np.quantile(every, [0.01, 0.99], axis=0)
        std = np.maximum(every.std(0), 1e-6)
        named = {"action_mean": every.mean(0), "action_std": std, "action_low": low, "action_high": high}
        actions = {name: tuple(map(float, value)) for name, value in named.items()}
    return WorldConfig(height=height, width=width, channels=channels, rate_hz=store.rate_hz, crop=crop, **actions)
