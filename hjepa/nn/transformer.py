"""A pre-norm transformer block, optionally conditioned by adaptive layer norm (Peebles & Xie 2022, section 3.2)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from hjepa.nn.attention import attend


class Block(nn.Module):
    """Self-attention and MLP. With ``cond_dim`` a per-token condition scales, shifts and gates both branches."""

    def __init__(self, width: int, heads: int, cond_dim: int = 0, rotary: bool = False) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width} is no multiple of {heads} heads")
        self.heads, self.rotary = heads, rotary
        self.norm1 = nn.LayerNorm(width, elementwise_affine=not cond_dim)
        self.norm2 = nn.LayerNorm(width, elementwise_affine=not cond_dim)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulate = nn.Linear(cond_dim, 6 * width) if cond_dim else None
        if self.modulate is not None:  # starts as a plain block: conditions speak up only where they help
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, x: Tensor, mask: Tensor | None = None, cond: Tensor | None = None) -> Tensor:
        """(B, N, W), mask as in `attend`, cond (B, N, C) -> (B, N, W)."""
        if self.modulate is None:
            x = x + self._attention(self.norm1(x), mask)
            return x + self.mlp(self.norm2(x))
        shift1, scale1, gate1, shift2, scale2, gate2 = self.modulate(cond).chunk(6, -1)
        x = x + (1 + gate1) * self._attention(self.norm1(x) * (1 + scale1) + shift1, mask)
        return x + (1 + gate2) * self.mlp(self.norm2(x) * (1 + scale2) + shift2)

    def _attention(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "b n (three h d) -> three b h n d", three=3, h=self.heads)
        if self.rotary:
            q, k = rotate(q), rotate(k)
        return self.out(rearrange(attend(q, k, v, mask), "b h n d -> b n (h d)"))


def rotate(x: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021) of (B, H, N, D), so that attention sees only time differences."""
    half = x.shape[-1] // 2
    rates = 100.0 ** -(torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * rates
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[..., :half], x[..., half : 2 * half]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[..., 2 * half :]], -1)
