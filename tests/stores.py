"""Small stores for tests."""

from pathlib import Path

import numpy as np

from hjepa.data.store import ArraySpec, Store, StoreWriter
from tests.models import SIDE


def moving_square(path: Path, episodes=4, steps=40, actions=True, rate_hz=10.0, seed=0) -> Store:
    """A bright square walks over a static noise background; actions are its steps in px, ``xy`` its place."""
    rng = np.random.default_rng(seed)
    arrays = {"frames": ArraySpec("uint8", (SIDE, SIDE, 3), "rgb 0-255"), "xy": ArraySpec("float32", (2,), "px")}
    if actions:
        arrays["actions"] = ArraySpec("float32", (2,), "px/step")
    with StoreWriter(path, rate_hz=rate_hz, arrays=arrays) as writer:
        for number in range(episodes):
            moves = rng.integers(-2, 3, (steps, 2)).astype(np.float32)
            place = np.abs((rng.integers(0, 12, 2) + np.cumsum(moves, 0) - moves + 12) % 24 - 12)
            frames = np.repeat(rng.integers(0, 80, (1, SIDE, SIDE, 3), dtype=np.uint8), steps, 0)
            for frame, (x, y) in zip(frames, place.astype(int), strict=True):
                frame[y : y + 4, x : x + 4] = 255
            blocks = {"frames": frames, "xy": place.astype(np.float32)} | ({"actions": moves} if actions else {})
            with writer.episode(f"square {number}") as episode:
                episode.append(**blocks)
        writer.finish()
    return Store.open(path)
