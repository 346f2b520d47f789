"""A level's objective: the weighted sum of its terms on one clip of its sequence."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from hjepa.latent import Inferred
from hjepa.level import Level
from hjepa.objective.criteria import Criteria, measure
from hjepa.objective.draws import Draws
from hjepa.objective.energy import distance
from hjepa.objective.sigreg import sigreg
from hjepa.objective.straightness import straightness
from hjepa.objective.vicreg import centred_in_time, covariance, invariance, variance
from hjepa.objective.world import world_mean


@dataclass(frozen=True)
class Sample:
    """What one level's objective sees of a global batch (this process's share).

    Attributes:
        states: (b, m, d) every state of the level that was computed; valid: (b, m) bool.
        targets: (b, m, d) what predictions are compared with: the same states, or a target encoder's.
        length: the last ``length`` states are the sequence, one period apart.
        actions: (b, length - 1, a) of the sequence's transitions, or None.
    """

    states: Tensor
    valid: Tensor
    targets: Tensor
    length: int
    actions: Tensor | None


@dataclass(frozen=True)
class Outcome:
    """Loss (scalar, with gradient), the unweighted value of each term that was computed, and the four criteria."""

    loss: Tensor
    terms: dict[str, Tensor]
    criteria: Criteria | None
    gaussianity: Tensor | None  # SIGReg's statistic: about 1 for a true Gaussian


def level_objective(level: Level, sample: Sample, draws: Draws, figures: bool = False) -> Outcome:
    """Compute every term of non-zero weight.

    Args:
        draws: randomness of this step.
        figures: measure the four criteria too.
    """
    objective = level.config.objective
    weights = objective.weights.model_dump()
    states, valid = sample.states[:, -sample.length :], sample.valid[:, -sample.length :]
    targets, pair = sample.targets[:, -sample.length :], valid[:, 1:] & valid[:, :-1]
    inferred = _infer(level, states, draws)
    context = draws.noisy(states, level.config.noise)
    centred = centred_in_time(states, valid)
    statistic: list[Tensor] = []

    def prediction() -> Tensor:
        z = inferred.z if inferred else None
        predicted = level.predict(context[:, :-1], sample.actions, z, valid[:, :-1])
        return world_mean(distance(objective.energy, predicted, targets[:, 1:]), pair)

    def rollout() -> Tensor:
        """Open loop from a random start with z at the prior's mean: what is asked of the level after training."""
        steps = min(objective.rollout_steps, sample.length - 1)
        start = draws.integer(1, sample.length - steps + 1)
        actions = None if sample.actions is None else sample.actions[:, : start - 1 + steps]
        predicted = level.rollout(context[:, :start], steps, actions, valid=valid[:, :start])
        true, counted = targets[:, start : start + steps], valid[:, start - 1 : start] & valid[:, start : start + steps]
        return world_mean(distance(objective.energy, predicted, true), counted)

    def gaussian() -> Tensor:
        directions = draws.shared(states.shape[-1], objective.directions).to(states.device)
        loss, value = sigreg(sample.states, sample.valid, directions / directions.norm(dim=0), objective.sigreg_over)
        statistic.append(value)
        return loss

    def inverse() -> Tensor:
        assert level.inverse is not None and sample.actions is not None  # the trainer has checked the store
        guess = level.inverse(torch.cat([states[:, :-1], states[:, 1:]], -1)).float()
        return world_mean((guess - sample.actions.detach()).square().mean(-1), pair)

    def information() -> Tensor:
        assert inferred is not None
        return torch.relu(world_mean(inferred.nats, pair) - level.config.latent.free_nats)

    computed: dict[str, Callable[[], Tensor]] = {
        "prediction": prediction,
        "rollout": rollout,
        "sigreg": gaussian,
        "variance": lambda: variance(sample.states, sample.valid, objective.std),
        "covariance": lambda: covariance(sample.states, sample.valid),
        "time_variance": lambda: variance(centred, valid, objective.time_std),
        "time_covariance": lambda: covariance(centred, valid),
        "invariance": lambda: invariance(states, valid),
        "inverse": inverse,
        "straightness": lambda: straightness(states, valid),
        "information": information,
    }
    absent = {"inverse"} if level.inverse is None else set()
    absent |= {"information"} if inferred is None else set()
    terms = {name: term() for name, term in computed.items() if weights[name] and name not in absent}
    loss = sum((weights[name] * value for name, value in terms.items()), states.new_zeros(()))
    criteria = _criteria(level, sample, inferred.nats if inferred else None) if figures else None
    return Outcome(loss, {k: v.detach() for k, v in terms.items()}, criteria, statistic[0] if statistic else None)


def _infer(level: Level, states: Tensor, draws: Draws) -> Inferred | None:
    if level.latent is None:
        return None
    noise = draws.mine(len(states), states.shape[1] - 1, level.latent.dim).to(states.device)
    return level.infer(states, noise)


@torch.no_grad()
def _criteria(level: Level, sample: Sample, nats: Tensor | None) -> Criteria:
    states, valid = sample.states[:, -sample.length :], sample.valid[:, -sample.length :]
    pair = valid[:, 1:] & valid[:, :-1]
    predicted = level.predict(states[:, :-1], sample.actions, None, valid[:, :-1])
    informed = states.new_zeros(()) if nats is None else world_mean(nats, pair)
    return measure(states, sample.targets[:, -sample.length :], predicted, valid, informed)
