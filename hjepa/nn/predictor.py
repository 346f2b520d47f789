"""The predictor of one level: a causal transformer over its sequence, conditioned on action and z."""

from __future__ import annotations

from torch import Tensor, nn

from hjepa.nn.attention import causal_mask
from hjepa.nn.transformer import Block


class Predictor(nn.Module):
    """Next state of every step: (B, N, D), condition (B, N, C), valid (B, N) -> (B, N, D).

    The sum of a linear map, which starts as the identity, and a transformer, which starts at zero: training starts
    from persistence, and weight decay pulls towards the mean, so what little data says nothing about is forecast
    between the two.
    """

    def __init__(self, dim: int, cond_dim: int, *, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.blocks = nn.ModuleList(Block(width, heads, cond_dim, rotary=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.skip = nn.Linear(dim, dim)
        nn.init.eye_(self.skip.weight)
        nn.init.zeros_(self.skip.bias)

    def forward(self, states: Tensor, cond: Tensor | None, valid: Tensor) -> Tensor:
        mask = causal_mask(valid)
        x = self.embed(states)
        for block in self.blocks:
            x = block(x, mask, cond)
        return self.skip(states) + self.head(self.norm(x))
