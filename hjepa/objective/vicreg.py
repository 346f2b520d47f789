"""VICReg's terms (Bardes et al. 2021), over the batch and over time."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa.objective.world import moments, world_mean


def variance(samples: Tensor, mask: Tensor, std: float) -> Tensor:
    """Hinge that keeps the standard deviation of every component of (..., D) at ``std`` or more."""
    return torch.relu(std - moments(samples, mask).std).mean()


def covariance(samples: Tensor, mask: Tensor) -> Tensor:
    """Mean squared off-diagonal covariance per component of (..., D)."""
    c = moments(samples, mask).covariance
    return (c.square().sum() - c.diagonal().square().sum()) / len(c)


def centred_in_time(states: Tensor, valid: Tensor) -> Tensor:
    """States (b, n, d) less each sequence's own mean over its valid steps.

    What is constant within a sequence vanishes here, so the terms above applied to it see slow collapse, which
    statistics over the batch alone cannot.
    """
    m = valid[..., None].to(states.dtype)
    mean = (states * m).sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)
    return (states - mean) * m


def invariance(states: Tensor, valid: Tensor) -> Tensor:
    """Mean squared change between adjacent steps of (b, n, d): adjacent instants as two views of one scene."""
    return world_mean((states[:, 1:] - states[:, :-1]).square().mean(-1), valid[:, 1:] & valid[:, :-1])
