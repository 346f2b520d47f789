"""What the trainer optimises: a hierarchy, its target encoders, and one forward pass from a clip to a loss."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hjepa.data.stream import Clip
from hjepa.hierarchy import Hierarchy, LevelStates
from hjepa.objective.draws import Draws
from hjepa.train.objective import Outcome, Sample, level_objective
from hjepa.train.phases import Phase


@dataclass(frozen=True)
class Step:
    """The loss of a step (scalar, with gradient) and the outcome of every trained level, by its number."""

    loss: Tensor
    outcomes: dict[int, Outcome]


class Trainee(nn.Module):
    """Forward goes through here, so that a distributed wrapper sees every parameter it must reduce."""

    def __init__(self, hierarchy: Hierarchy, phase: Phase, lengths: list[int]) -> None:
        super().__init__()
        self.hierarchy, self.phase, self.lengths = hierarchy, phase, lengths
        self.crop = hierarchy.clock.crop(lengths)
        averaged = any(c.objective.target == "ema" for c in hierarchy.config.levels)
        self.target = copy.deepcopy(hierarchy).requires_grad_(False) if averaged else None
        hierarchy.requires_grad_(False)
        for number in phase.levels:
            hierarchy.level(number).requires_grad_(True)

    def forward(self, clip: Clip, draws: Draws, figures: bool = False) -> Step:
        found = self._encode(self.hierarchy, clip, draws)
        targets = found
        if self.target is not None:
            with torch.no_grad():
                targets = self._encode(self.target, clip, None)
        actions = [] if clip.actions is None else self.hierarchy.embed_actions(clip.actions)
        outcomes = {}
        for number in self.phase.levels:
            taken = actions[number - 1][:, 1 - self.lengths[number - 1] :] if actions else None
            sample = self._sample(number, found, targets, taken)
            outcomes[number] = level_objective(self.hierarchy.level(number), sample, draws, figures)
        return Step(torch.stack([o.loss for o in outcomes.values()]).sum(), outcomes)

    @torch.no_grad()
    def follow(self) -> None:
        """Move every target encoder towards its level; called once after each optimiser step."""
        if self.target is None:
            return
        for number, config in enumerate(self.hierarchy.config.levels, 1):
            level, target = self.hierarchy.level(number), self.target.level(number)
            for here, there in zip(level.parameters(), target.parameters(), strict=True):
                there.lerp_(here, 1 - config.objective.ema)

    def _encode(self, model: Hierarchy, clip: Clip, draws: Draws | None) -> list[LevelStates]:
        def noisy(states: Tensor, number: int) -> Tensor:
            return draws.noisy(states, model.level(number).config.noise) if draws else states

        return model.encode_clip(clip.inputs, self.crop, clip.present, self.phase.source, noisy)

    def _sample(
        self, number: int, found: list[LevelStates], targets: list[LevelStates], actions: Tensor | None
    ) -> Sample:
        place = number - 1 - self.phase.source
        here, kind = found[place], self.hierarchy.level(number).config.objective.target
        aim = {"online": here.states, "stopgrad": here.states.detach(), "ema": targets[place].states}[kind]
        return Sample(here.states, here.valid, aim, self.lengths[number - 1], actions)
