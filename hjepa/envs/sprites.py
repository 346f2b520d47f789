"""A small generated world: a slow sprite that obeys the actions and a fast one that does not, on a textured ground.

Positions are fractions of the picture's side, x to the right, y downwards. What is slow can be predicted for long and
steered; what is fast is gone within a few steps: the two belong to different levels of a hierarchy.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hjepa.data.store import ArraySpec, StoreWriter

Array = NDArray[np.float64]

RATE_HZ = 10.0
SLOW_SPEED = 0.012  # sides a step at full action: crossing the picture takes about 80 steps
FAST_SPEED = 0.04  # standard deviation of the fast sprite's velocity, sides a step
FAST_MEMORY = 0.8  # how much of its velocity the fast sprite keeps
JUMP_CHANCE = 0.03  # that the fast sprite jumps to anywhere, a step
SLOW_RADIUS, FAST_RADIUS = 0.12, 0.07
SLOW_COLOUR, FAST_COLOUR = (240, 70, 50), (60, 220, 240)
ACTION_MEMORY = 0.95  # of the exploring policy
TEXTURES = 2**31
WAVES = 6  # gratings that make a texture
BLOCK = 256  # pictures drawn at once


class Sprites:
    """``count`` independent worlds, stepped together; everything follows from the seed.

    Attributes:
        slow_xy: (count, 2) centre of the slow sprite, fraction of the side.
        fast_xy: (count, 2) centre of the fast sprite, fraction of the side.
        background: (count,) the texture's number.
    """

    def __init__(self, count: int, seed: int | Sequence[int]) -> None:
        self._rng = np.random.default_rng(seed)
        self.slow_xy: Array = self._rng.uniform(SLOW_RADIUS, 1 - SLOW_RADIUS, (count, 2))
        self.fast_xy: Array = self._rng.uniform(FAST_RADIUS, 1 - FAST_RADIUS, (count, 2))
        self.background = self._rng.integers(TEXTURES, size=count)
        self._velocity: Array = FAST_SPEED * self._rng.standard_normal((count, 2))
        self._explored: Array = 0.6 * self._rng.standard_normal((count, 2))

    def explore(self) -> Array:
        """(count, 2) actions of a smooth random policy, each within -1 and 1; it goes on from call to call."""
        fresh = 0.6 * np.sqrt(1 - ACTION_MEMORY**2) * self._rng.standard_normal(self._explored.shape)
        self._explored = ACTION_MEMORY * self._explored + fresh
        return np.clip(self._explored, -1, 1)

    def step(self, actions: NDArray) -> None:
        """Moves on by one step. ``actions``: (count, 2), clipped to -1 and 1, the slow sprite's velocity."""
        moved = self.slow_xy + SLOW_SPEED * np.clip(actions, -1, 1)
        self.slow_xy = np.clip(moved, SLOW_RADIUS, 1 - SLOW_RADIUS)
        fresh = FAST_SPEED * np.sqrt(1 - FAST_MEMORY**2) * self._rng.standard_normal(self.fast_xy.shape)
        self._velocity = FAST_MEMORY * self._velocity + fresh
        self.fast_xy, bounced = _bounce(self.fast_xy + self._velocity, FAST_RADIUS)
        self._velocity = np.where(bounced, -self._velocity, self._velocity)
        jumps = self._rng.random(len(self.fast_xy)) < JUMP_CHANCE
        anywhere = self._rng.uniform(FAST_RADIUS, 1 - FAST_RADIUS, self.fast_xy.shape)
        self.fast_xy = np.where(jumps[:, None], anywhere, self.fast_xy)

    def frames(self, size: int) -> NDArray[np.uint8]:
        """(count, size, size, 3) RGB pictures of the present states, at any resolution."""
        return draw(self.slow_xy, self.fast_xy, self.background, size)


def draw(slow_xy: Array, fast_xy: Array, background: NDArray[np.int64], size: int) -> NDArray[np.uint8]:
    """(n, size, size, 3) RGB pictures of n states: a square that is fast over a disc that is slow."""
    numbers, place = np.unique(background, return_inverse=True)
    pictures = np.stack([texture(int(number), size) for number in numbers])[place]
    x, y = _away(slow_xy, size)
    pictures = _painted(pictures, SLOW_RADIUS - np.hypot(x, y), SLOW_COLOUR)
    x, y = _away(fast_xy, size)
    pictures = _painted(pictures, FAST_RADIUS - np.maximum(np.abs(x), np.abs(y)), FAST_COLOUR)
    return np.round(pictures).astype(np.uint8)


def texture(number: int, size: int) -> Array:
    """(size, size, 3) the ground of this number, a sum of coloured gratings, values 30 to 190."""
    rng = np.random.default_rng(number)
    waves = rng.normal(0, 3, (WAVES, 2))  # periods a side
    phases, colours = rng.uniform(0, 2 * np.pi, WAVES), rng.uniform(-1, 1, (WAVES, 3))
    at = (np.arange(size) + 0.5) / size
    angle = 2 * np.pi * (waves[:, :1, None] * at[:, None] + waves[:, 1:, None] * at) + phases[:, None, None]
    return 110 + 80 * np.tanh(np.einsum("khw,kc->hwc", np.sin(angle), colours) / 2)


def record(path: str | Path, episodes: int, steps: int, size: int = 64, seed: int = 0) -> None:
    """Writes a store of exploring episodes: frames, actions and the true states. The same seed gives the same bytes.

    An interrupted recording goes on when called again.

    Raises:
        UserError: the path is taken, or the disk is full.
    """
    arrays = {
        "frames": ArraySpec("uint8", (size, size, 3), "rgb 0-255"),
        "actions": ArraySpec("float32", (2,), "1", f"slow sprite's velocity x y, 1 is {SLOW_SPEED} sides a step"),
        "slow_xy": ArraySpec("float32", (2,), "side", "centre of the slow sprite"),
        "fast_xy": ArraySpec("float32", (2,), "side", "centre of the fast sprite"),
        "background": ArraySpec("int64", (1,), "1", "number of the ground's texture"),
    }
    with StoreWriter(path, rate_hz=RATE_HZ, arrays=arrays, attrs={"world": "sprites", "seed": seed}) as writer:
        done = writer.sources()
        for number in range(episodes):
            source = f"sprites/seed{seed}/{number:05d}"
            if source in done:
                continue
            log = _played(Sprites(1, (seed, number)), steps)
            with writer.episode(source) as episode:
                for part in (slice(start, start + BLOCK) for start in range(0, steps, BLOCK)):
                    states = (log["slow_xy"][part], log["fast_xy"][part], log["background"][part, 0])
                    labels = {name: log[name][part].astype(arrays[name].dtype) for name in log}
                    episode.append(frames=draw(*states, size), **labels)
        writer.finish()


def _played(world: Sprites, steps: int) -> dict[str, NDArray]:
    """(steps, ...) of each label of a single world: the state, then the action taken in it."""
    log: dict[str, list[NDArray]] = {"slow_xy": [], "fast_xy": [], "background": [], "actions": []}
    for _ in range(steps):
        actions = world.explore()
        for name, value in zip(log, (world.slow_xy[0], world.fast_xy[0], world.background, actions[0]), strict=True):
            log[name].append(value)
        world.step(actions)
    return {name: np.stack(values) for name, values in log.items()}


def _bounce(xy: Array, margin: float) -> tuple[Array, NDArray[np.bool_]]:
    """Positions folded back at the walls, and which coordinates hit one."""
    folded = np.where(xy < margin, 2 * margin - xy, np.where(xy > 1 - margin, 2 * (1 - margin) - xy, xy))
    return np.clip(folded, margin, 1 - margin), (xy < margin) | (xy > 1 - margin)


def _away(xy: Array, size: int) -> tuple[Array, Array]:
    """(n, 1, size) and (n, size, 1) distance of every pixel's centre from the sprite's, in x and y."""
    at = (np.arange(size) + 0.5) / size
    return at[None, None, :] - xy[:, 0, None, None], at[None, :, None] - xy[:, 1, None, None]


def _painted(pictures: Array, inside: Array, colour: Sequence[int]) -> Array:
    """Pictures with a sprite over them; ``inside``: (n, size, size) how far within its edge, its rim one pixel soft."""
    cover = np.clip(inside * pictures.shape[1] + 0.5, 0, 1)[..., None]
    return pictures + cover * (np.asarray(colour) - pictures)
