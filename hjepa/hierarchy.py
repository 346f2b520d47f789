"""The hierarchy: levels stacked over time, and the clock that says which states each of them pools."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from hjepa.clock import Clock, Crop
from hjepa.config import HierarchyConfig
from hjepa.errors import UserError
from hjepa.level import Level

FORMAT = 1
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class LevelStates:
    """States of one level of a batch of clips, oldest first.

    Attributes:
        states: (B, N, D) float32.
        valid: (B, N) bool, False where the state would pool something before the episode's start.
        instants: (N,) environment step of each state, counted from the clip's first frame.
    """

    states: Tensor
    valid: Tensor
    instants: Tensor


class Hierarchy(nn.Module):
    """Any number of levels, from configuration alone; one level is a flat JEPA."""

    action_mean: Tensor
    action_std: Tensor

    def __init__(self, config: HierarchyConfig) -> None:
        super().__init__()
        self.config = config
        self.clock = Clock([c.stride for c in config.levels], [c.window for c in config.levels])
        levels: list[Level] = []
        for c in config.levels:
            action_below = levels[-1].action_dim if levels else config.world.action_dim
            levels.append(Level(c, levels[-1].config.dim if levels else config.world, action_below))
        self.levels = nn.ModuleList(levels)
        self.register_buffer("action_mean", torch.tensor(config.world.action_mean), persistent=False)
        self.register_buffer("action_std", torch.tensor(config.world.action_std), persistent=False)

    @property
    def depth(self) -> int:
        return len(self.levels)

    def level(self, number: int) -> Level:
        """Level ``number``, counted from 1.

        Raises:
            UserError: no such level.
        """
        if not 1 <= number <= self.depth:
            raise UserError(f"level {number} does not exist; legal: 1 to {self.depth}")
        level = self.levels[number - 1]
        assert isinstance(level, Level)
        return level

    def encode_clip(
        self,
        inputs: Tensor,
        crop: Crop,
        present: Tensor | None = None,
        source: int = 0,
        noisy: Callable[[Tensor, int], Tensor] | None = None,
    ) -> list[LevelStates]:
        """States of every level above ``source`` that the crop asks for.

        Args:
            inputs: what the crop reads (`Crop.reading`): (B, F, H, W, C) uint8 frames for source 0, otherwise
                (B, F, D) states of level ``source``.
            present: (B, F) bool; default: all.
            noisy: applied to the states that a level, whose number it is told, reads from the level below (training).

        Returns:
            One entry a level, the first for level ``source + 1``.
        """
        valid = present if present is not None else inputs.new_ones(inputs.shape[:2], dtype=torch.bool)
        below, found = inputs, []
        for number in range(source + 1, len(crop.levels) + 1):
            part = crop.levels[number - 1]
            reads = torch.as_tensor(part.reads, device=inputs.device)
            if noisy is not None and number > 1:
                below = noisy(below, number)
            below, valid = self.level(number).encode(below[:, reads]), valid[:, reads].all(-1)
            found.append(LevelStates(below, valid, torch.as_tensor(part.instants)))
        return found

    def embed_actions(self, actions: Tensor) -> list[Tensor]:
        """Actions (B, S, A), in the store's units, of the last S environment steps -> per level (B, M, a)."""
        below, found = (actions - self.action_mean) / self.action_std, []
        for number in range(1, self.depth + 1):
            whole = below[:, self.clock.group(number, below.shape[1])]
            if not whole.shape[1]:
                break
            grouped = rearrange(whole, "b (n k) a -> b n k a", k=self.clock.strides[number - 1])
            below = self.level(number).embed_actions(grouped)
            found.append(below)
        return found

    @torch.no_grad()
    def encode(self, frames: Tensor | np.ndarray, level: int | None = None, batch: int = 256) -> list[LevelStates]:
        """Every state of one recording, level by level.

        Args:
            frames: (T, H, W, C) uint8 at the rate and size of ``config.world``.
            level: the highest level wanted; default: all.
            batch: level-1 states encoded at once.

        Returns:
            One entry a level with B = 1; ``instants`` count frames from the recording's first. Levels too slow for the
            recording have no states.

        Raises:
            UserError: no such level, frames of another size or type, or fewer than one state of level 1 needs.
        """
        self.level(level or self.depth)
        video = self._checked(frames)
        crop = self.clock.whole(len(video), level)
        first = crop.levels[0]
        device = next(self.parameters()).device
        windows = [
            video[crop.frames[rows]].to(device) for rows in np.array_split(first.reads, -(-len(first.reads) // batch))
        ]
        states = torch.cat([self.level(1).encode(w[None]) for w in windows], 1)
        valid = torch.ones(states.shape[:2], dtype=torch.bool, device=device)
        found = [LevelStates(states, valid, torch.as_tensor(first.instants))]
        return found + self.encode_clip(states, crop, source=1)

    def predict(
        self,
        found: Sequence[LevelStates],
        level: int,
        steps: int,
        actions: Tensor | None = None,
        z: Tensor | None = None,
    ) -> Tensor:
        """The next ``steps`` states of a level, open loop from the last ones that `encode` found: (B, steps, D).

        Args:
            actions: (B, N - 1 + steps, a) of that level (`embed_actions`), from its first state on.
            z: (B, N - 1 + steps, k); default: the prior's mean.

        Raises:
            UserError: no such level, or it has no state to start from.
        """
        here = self._states(found, level)
        return self.level(level).rollout(here.states, steps, actions, z, here.valid)

    def energy(
        self, found: Sequence[LevelStates], level: int, actions: Tensor | None = None, z: Tensor | None = None
    ) -> Tensor:
        """Energy of every transition of a level that `encode` found: (B, N - 1), low where what happened was expected.

        Args:
            actions: (B, N - 1, a) of that level; z: (B, N - 1, k), default: the prior's mean.

        Raises:
            UserError: no such level, or it has no state.
        """
        states = self._states(found, level).states
        return self.level(level).energy(states[:, :-1], states[:, 1:], actions, z)

    def save_pretrained(self, run: str | Path) -> Path:
        """Write weights and everything needed to use them into ``run``/model.safetensors, atomically."""
        run = Path(run)
        run.mkdir(parents=True, exist_ok=True)
        path, partial = run / WEIGHTS, run / f".{WEIGHTS}.partial"
        facts = {"format": str(FORMAT), "hierarchy": self.config.model_dump_json()}
        try:
            save_file({k: v.detach().cpu().contiguous() for k, v in self.state_dict().items()}, partial, metadata=facts)
            os.replace(partial, path)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise UserError(f"{path}: cannot be written ({error.strerror}); what was there is kept") from None
        return path

    @classmethod
    def from_pretrained(cls, run: str | Path) -> Hierarchy:
        """The model of a run directory (or of a .safetensors file), on CPU, in evaluation mode.

        Raises:
            UserError: no model there, another format, or weights that do not fit the configuration in the file.
        """
        path = Path(run) / WEIGHTS if Path(run).is_dir() else Path(run)
        config = read_config(path)
        model = cls(config)
        try:
            model.load_state_dict(load_file(path))
        except (SafetensorError, RuntimeError) as error:
            raise UserError(f"{path}: weights do not fit the configuration in the file: {_one_line(error)}") from None
        return model.eval()

    def _states(self, found: Sequence[LevelStates], level: int) -> LevelStates:
        self.level(level)
        if level > len(found) or not found[level - 1].states.shape[1]:
            need = self.clock.span(level, 1)
            raise UserError(f"level {level} has no state here: it needs a recording of at least {need} frames")
        return found[level - 1]

    def _checked(self, frames: Tensor | np.ndarray) -> Tensor:
        video, w = torch.as_tensor(frames), self.config.world
        if video.dtype != torch.uint8 or video.shape[1:] != (w.height, w.width, w.channels):
            raise UserError(
                f"frames are {video.dtype} {tuple(video.shape)}; legal: uint8 (T, {w.height}, {w.width}, {w.channels})"
            )
        if len(video) < self.clock.span(1, 1):
            raise UserError(f"the recording has {len(video)} frames; level 1 needs at least {self.clock.span(1, 1)}")
        return video


def read_config(path: str | Path) -> HierarchyConfig:
    """The configuration inside a model file.

    Raises:
        UserError: no such file, not a model, or another format.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: no such model; legal: a run directory with {WEIGHTS}, or that file")
    try:
        with safe_open(path, "pt") as file:
            facts = file.metadata() or {}
    except SafetensorError as error:
        raise UserError(f"{path}: not a safetensors file: {_one_line(error)}") from None
    if facts.get("format") != str(FORMAT):
        raise UserError(f"{path}: model format {facts.get('format')!r}; legal: {str(FORMAT)!r}")
    try:
        return HierarchyConfig.model_validate(json.loads(facts["hierarchy"]))
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: its configuration cannot be read: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
