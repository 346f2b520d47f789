"""SIGReg: hold the states at an isotropic Gaussian by testing random one-dimensional projections (LeJEPA, 2025)."""

from __future__ import annotations

import torch
from torch import Tensor

from hjepa.objective.world import world_sum

KNOTS, WIDEST = 17, 3.0


def sigreg(states: Tensor, valid: Tensor, directions: Tensor, over: str) -> tuple[Tensor, Tensor]:
    """Epps-Pulley distance of projected states from N(0, 1), integrated over the characteristic function.

    Args:
        states: (b, n, d); valid: (b, n) bool.
        directions: (d, r) unit vectors, the same on every process.
        over: ``step`` tests each time index over the batch, ``clip`` pools the whole batch and all times.

    Returns:
        loss: mean squared deviation of the characteristic function; does not grow with the batch.
        statistic: the same times the number of samples, about 1 for a true Gaussian (logged, never trained on).
    """
    if over == "clip":
        states, valid = states.reshape(-1, 1, states.shape[-1]), valid.reshape(-1, 1)
    knots = torch.linspace(0, WIDEST, KNOTS, device=states.device)
    gauss = (-0.5 * knots**2).exp()
    weights = gauss * torch.full_like(knots, 2 * WIDEST / (KNOTS - 1))  # both signs of the frequency, by symmetry
    weights[0] /= 2
    weights[-1] /= 2
    angle = (states @ directions)[..., None] * knots  # (b, n, r, knots)
    m = valid[..., None, None].to(states.dtype)
    sums = world_sum(torch.stack([(angle.cos() * m).sum(0), (angle.sin() * m).sum(0)]))
    count = world_sum(valid.sum(0).to(states.dtype)).detach()  # (n,)
    real, imaginary = sums / count.clamp(min=1)[:, None, None]
    deviation = ((real - gauss).square() + imaginary.square()) @ weights  # (n, r)
    enough = (count > 1).to(states.dtype)
    per_step = deviation.mean(-1) * enough
    loss = per_step.sum() / enough.sum().clamp(min=1)
    statistic = (per_step * count).sum() / enough.sum().clamp(min=1)
    return loss, statistic.detach()
