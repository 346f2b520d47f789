"""Vision transformer over single observations (Dosovitskiy et al. 2020)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from hjepa.nn.transformer import Block


class ViT(nn.Module):
    """(M, C, H, W) -> (M, dim): patches, fixed 2-D sine positions, blocks, mean of the tokens."""

    def __init__(
        self, height: int, width: int, channels: int, dim: int, *, hidden: int, depth: int, heads: int, patch: int
    ) -> None:
        super().__init__()
        if height % patch or width % patch:
            raise ValueError(f"patch {patch} does not divide {height} x {width} px")
        self.patch = patch
        self.embed = nn.Linear(channels * patch * patch, hidden)
        self.register_buffer("positions", sine_positions(height // patch, width // patch, hidden), persistent=False)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(hidden)
        self.head = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        patches = rearrange(x, "m c (i p) (j q) -> m (i j) (p q c)", p=self.patch, q=self.patch)
        tokens = self.embed(patches) + self.positions
        for block in self.blocks:
            tokens = block(tokens)
        return self.head(self.norm(tokens).mean(1))


def sine_positions(rows: int, columns: int, width: int) -> Tensor:
    """(rows * columns, width) fixed embedding: sines and cosines of the row and of the column."""
    quarter = width // 4
    rates = 10_000.0 ** -(torch.arange(quarter) / max(quarter, 1))
    i, j = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [axis.reshape(-1, 1) * rates for axis in (i, j)]
    table = torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], -1)
    return torch.nn.functional.pad(table, (0, width - table.shape[1]))
