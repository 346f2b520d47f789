"""The prediction energy D(s_y, prediction)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def distance(kind: str, prediction: Tensor, target: Tensor) -> Tensor:
    """Distance of (..., D) and (..., D), averaged over D: (...,). ``kind``: l2 (squared), l1 or cosine (1 - cos)."""
    if kind == "l2":
        return (prediction - target).square().mean(-1)
    if kind == "l1":
        return (prediction - target).abs().mean(-1)
    if kind == "cosine":
        return 1 - F.cosine_similarity(prediction, target, dim=-1)
    raise ValueError(f"energy {kind!r}; legal: l2, l1, cosine")
