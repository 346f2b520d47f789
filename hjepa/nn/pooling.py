"""Encoders of the upper levels: pool a causal window of states below, then a pointwise MLP."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn


class Pool(nn.Module):
    """(B, N, window, D) -> (B, N, dim).

    ``last`` keeps the newest state, ``mean`` averages, ``attention`` lets a learned query choose, ``convolution`` has a
    weight for every place of the window. ``depth``: hidden layers of the MLP behind it; 0 is a linear map.
    """

    def __init__(self, kind: str, window: int, below: int, dim: int, *, hidden: int, depth: int) -> None:
        super().__init__()
        self.kind = kind
        self.norm = nn.LayerNorm(below)
        if kind == "attention":
            self.query = nn.Parameter(torch.zeros(below))
            self.places = nn.Parameter(torch.zeros(window, below))
        wide = window * below if kind == "convolution" else below
        layers: list[nn.Module] = []
        for _ in range(depth):
            layers += [nn.Linear(wide, hidden), nn.GELU()]
            wide = hidden
        self.mlp = nn.Sequential(*layers, nn.Linear(wide, dim))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self._pool(self.norm(x)))

    def _pool(self, x: Tensor) -> Tensor:
        if self.kind == "last":
            return x[..., -1, :]
        if self.kind == "mean":
            return x.mean(-2)
        if self.kind == "convolution":
            return rearrange(x, "b n w d -> b n (w d)")
        scores = ((x + self.places) @ self.query) * x.shape[-1] ** -0.5
        return (scores.softmax(-1)[..., None] * x).sum(-2)
