"""Macro-actions: a few numbers that stand for the actions of one step of a level."""

from __future__ import annotations

import torch
from einops import repeat
from torch import Tensor, nn

from hjepa.nn.transformer import Block

WIDTH, HEADS = 64, 2


class MacroAction(nn.Module):
    """(M, stride, A) actions below, in order -> (M, dim): one transformer layer read out at a query token."""

    def __init__(self, below: int, dim: int) -> None:
        super().__init__()
        self.embed = nn.Linear(below, WIDTH)
        self.query = nn.Parameter(torch.randn(WIDTH) * 0.02)
        self.block = Block(WIDTH, HEADS, rotary=True)
        self.head = nn.Linear(WIDTH, dim)
        self.norm = nn.LayerNorm(dim, elementwise_affine=False)

    def forward(self, actions: Tensor) -> Tensor:
        query = repeat(self.query, "w -> m 1 w", m=len(actions))
        tokens = self.block(torch.cat([self.embed(actions), query], 1))
        return self.norm(self.head(tokens[:, -1]))
