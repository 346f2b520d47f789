"""Statistics of the global batch: what ranks share, in one helper.

Every loss term is built on `world_sum`. Its gradient sums over ranks, and DistributedDataParallel then averages, so
one process with batch B and n processes with B / n have the same loss and the same gradients.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.distributed.nn.functional as dist_nn
from torch import Tensor


def world_sum(x: Tensor) -> Tensor:
    """Sum of x over all processes, differentiable; x itself where there is one process."""
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        return dist_nn.all_reduce(x)
    return x


def world_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of x (...,) over the True places of mask (...,) in the global batch: scalar, 0 where there are none."""
    total, count = world_sum(torch.stack([(x * mask).sum(), mask.sum().to(x.dtype)]))
    return total / count.clamp(min=1)


@dataclass(frozen=True)
class Moments:
    """count (scalar), mean (D,) and covariance (D, D) of the global batch's samples."""

    count: Tensor
    mean: Tensor
    covariance: Tensor

    @property
    def std(self) -> Tensor:
        """(D,), with a floor that keeps its gradient finite where a component is constant."""
        return (self.covariance.diagonal() + 1e-6).sqrt()


def moments(samples: Tensor, mask: Tensor) -> Moments:
    """Moments of samples (..., D) over the True places of mask (...,), in two passes for accuracy."""
    x, m = samples.reshape(-1, samples.shape[-1]), mask.reshape(-1, 1).to(samples.dtype)
    sums = world_sum(torch.cat([(x * m).sum(0), m.sum()[None]]))
    count = sums[-1].clamp(min=1)
    mean = sums[:-1] / count
    centred = (x - mean) * m
    return Moments(count, mean, world_sum(centred.T @ centred) / (count - 1).clamp(min=1))
