"""The latent variable z of a level: what the past and the action do not determine, behind an information bottleneck.

On video without actions z plays the part of the action: it is inferred from the states before and after
(`posterior`), its information is limited (the KL to the prior, in nats), and open-loop prediction sets it to the
prior's mean (`null`) or samples it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hjepa.config import LatentConfig

MOST_LOG_STD = 3.0


@dataclass(frozen=True)
class Inferred:
    """z (..., K) drawn from the posterior, and the nats (...,) by which it differs from the prior."""

    z: Tensor
    nats: Tensor


class GaussianLatent(nn.Module):
    """Diagonal Gaussian posterior q(z | s_t, s_t+1) against the prior N(0, I) (Kingma & Welling 2013)."""

    def __init__(self, config: LatentConfig, state_dim: int) -> None:
        super().__init__()
        self.dim = config.dim
        hidden = max(64, 2 * state_dim)
        self.posterior_net = nn.Sequential(
            nn.LayerNorm(2 * state_dim), nn.Linear(2 * state_dim, hidden), nn.GELU(), nn.Linear(hidden, 2 * config.dim)
        )

    def posterior(self, before: Tensor, after: Tensor, noise: Tensor | None = None) -> Inferred:
        """States (..., D) before and after -> z (..., K). ``noise`` (..., K): standard normal; default: none."""
        parameters = self.posterior_net(torch.cat([before, after - before], -1)).float()
        mean, log_std = parameters.chunk(2, -1)
        log_std = MOST_LOG_STD * torch.tanh(log_std / MOST_LOG_STD)
        nats = (0.5 * (mean**2 + (2 * log_std).exp() - 1) - log_std).sum(-1)
        return Inferred(mean if noise is None else mean + log_std.exp() * noise, nats)

    def null(self, like: Tensor) -> Tensor:
        """The prior's mean for states (..., D): (..., K) zeros."""
        return like.new_zeros(*like.shape[:-1], self.dim)

    def sample(self, like: Tensor, generator: torch.Generator) -> Tensor:
        """A draw from the prior for states (..., D): (..., K)."""
        noise = torch.randn(*like.shape[:-1], self.dim, generator=generator, device=generator.device)
        return noise.to(like)


def build_latent(config: LatentConfig, state_dim: int) -> GaussianLatent | None:
    """The latent that the configuration names; None where the level has none."""
    return GaussianLatent(config, state_dim) if config.kind == "gaussian" else None
