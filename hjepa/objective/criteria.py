"""LeCun's four training criteria (2022, section 4.5) as live figures, and what a collapse looks like in them.

1 information in s_x, 2 information in s_y: effective rank, and standard deviation over the batch and over time;
3 predictability: skill of the prediction against persistence; 4 information in z, in nats.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from hjepa.config import LevelConfig
from hjepa.objective.world import moments, world_mean, world_sum

DEAD_STD, FEW_DIMENSIONS, SLOW_SHARE, IDLE_NATS = 0.05, 0.1, 0.25, 0.01


@dataclass(frozen=True)
class Criteria:
    """Figures of one level on one global batch.

    rank_x, rank_y: effective rank (Roy & Vetterli 2007) of the states before and of the targets after, 1 to dim.
    std_batch: standard deviation between clips at the same instant, mean over components; std_time: within a clip.
    skill: 1 - E / E_persistence of one open-loop step, z at the prior's mean.
    retrieval: how often the predicted state is nearest to the true one among its clip's states, over chance.
    nats: information in z per step.
    """

    rank_x: float
    rank_y: float
    std_batch: float
    std_time: float
    skill: float
    retrieval: float
    nats: float

    def asdict(self) -> dict[str, float]:
        return asdict(self)


@torch.no_grad()
def measure(states: Tensor, targets: Tensor, predicted: Tensor, valid: Tensor, nats: Tensor) -> Criteria:
    """Criteria of a level's sequence.

    Args:
        states, targets: (b, n, d); valid: (b, n).
        predicted: (b, n-1, d), the open-loop prediction of targets[:, 1:].
        nats: scalar.
    """
    pair = valid[:, 1:] & valid[:, :-1]
    error = world_mean((predicted - targets[:, 1:]).square().mean(-1), pair)
    still = world_mean((targets[:, :-1] - targets[:, 1:]).square().mean(-1), pair)
    figures = (
        effective_rank(moments(states[:, :-1], pair).covariance),
        effective_rank(moments(targets[:, 1:], pair).covariance),
        _std_between(states, valid),
        _std_within(states, valid),
        1 - error / still.clamp(min=1e-12),
        retrieval_over_chance(predicted, targets, valid),
        nats,
    )
    return Criteria(*(float(f) for f in figures))


def effective_rank(covariance: Tensor) -> Tensor:
    """exp(entropy of the normalised eigenvalues) of (D, D): between 1 and D; NaN where the states are not finite."""
    if not torch.isfinite(covariance).all():
        return covariance.new_tensor(torch.nan)
    values = torch.linalg.eigvalsh(covariance.double()).clamp(min=0)
    share = values / values.sum().clamp(min=1e-30)
    return torch.special.entr(share).sum().exp()


def retrieval_over_chance(predicted: Tensor, targets: Tensor, valid: Tensor) -> Tensor:
    """Top-1 retrieval of targets[:, 1:] (b, n-1, d) by ``predicted`` among the valid targets of the same clip, times
    their number: 1 is chance; a latent that is constant in time stays there, however Gaussian over the batch."""
    apart = torch.cdist(predicted.float(), targets.float())
    apart = apart.masked_fill(~valid[:, None, :], torch.inf)
    own = torch.arange(1, targets.shape[1], device=targets.device)
    truth = apart.gather(2, own.expand(len(targets), -1)[..., None])
    ties = (apart <= truth).sum(-1)  # candidates at least as near as the true one, itself included
    hit = (apart < truth).sum(-1).eq(0) / ties.clamp(min=1)
    candidates = valid.sum(1, keepdim=True).to(targets.dtype)
    return world_mean(hit * candidates, valid[:, 1:] & valid[:, :-1])


def diagnose(number: int, level: LevelConfig, figures: Criteria) -> list[str]:
    """What has collapsed at a level, and what to change; empty where nothing has."""
    said = []
    key = f"levels.{number}.objective.weights"
    if figures.std_batch < DEAD_STD and figures.std_time < DEAD_STD:
        said.append(f"level {number}: full collapse (states are constant): raise {key}.sigreg or {key}.variance")
    elif figures.rank_y < max(1.5, FEW_DIMENSIONS * level.dim):
        said.append(
            f"level {number}: dimensional collapse (effective rank {figures.rank_y:.1f} of {level.dim}): "
            f"raise {key}.covariance or {key}.sigreg"
        )
    elif figures.std_time < SLOW_SHARE * figures.std_batch:
        said.append(
            f"level {number}: slow collapse (std over time {figures.std_time:.2f} against {figures.std_batch:.2f} over "
            f"the batch, retrieval within a clip {figures.retrieval:.1f}x chance): raise {key}.time_variance, or "
            f"{key}.inverse where the store has actions"
        )
    if level.latent.kind != "none" and figures.nats < IDLE_NATS:
        said.append(f"level {number}: z is idle ({figures.nats:.3f} nats): lower {key}.information")
    return said


def _std_between(states: Tensor, valid: Tensor) -> Tensor:
    m = valid[..., None].to(states.dtype)
    count = world_sum(m.sum(0)).clamp(min=1)  # (n, 1)
    mean = world_sum((states * m).sum(0)) / count
    variance = world_sum(((states - mean).square() * m).sum(0)) / (count - 1).clamp(min=1)
    return variance.mean(0).sqrt().mean()


def _std_within(states: Tensor, valid: Tensor) -> Tensor:
    m = valid[..., None].to(states.dtype)
    count = m.sum(1, keepdim=True)
    centred = (states - (states * m).sum(1, keepdim=True) / count.clamp(min=1)) * m
    variance = centred.square().sum(1) / (count[:, 0] - 1).clamp(min=1)
    enough = (count[:, 0] > 1).expand_as(variance)
    per_component = world_sum((variance * enough).sum(0)) / world_sum(enough.sum(0).to(states.dtype)).clamp(min=1)
    return per_component.sqrt().mean()
