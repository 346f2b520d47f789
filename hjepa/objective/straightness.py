"""Temporal straightening (Henaff et al. 2019): paths in state space that turn little are easy to extrapolate."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from hjepa.objective.world import world_mean


def straightness(states: Tensor, valid: Tensor) -> Tensor:
    """Mean of 1 - cos(angle between successive changes) of states (b, n, d): 0 if straight, 1 for a right angle."""
    change = states[:, 1:] - states[:, :-1]
    turn = 1 - F.cosine_similarity(change[:, 1:], change[:, :-1], dim=-1)
    return world_mean(turn, valid[:, 2:] & valid[:, 1:-1] & valid[:, :-2])
