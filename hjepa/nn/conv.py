"""A small convolutional encoder: the CPU's choice."""

from __future__ import annotations

import itertools
import math

from torch import Tensor, nn

SMALLEST = 4  # px: side of the last feature map


class ConvEncoder(nn.Module):
    """(M, C, H, W) -> (M, dim): stride-2 stages down to about 4 x 4, positions kept by flattening."""

    def __init__(self, height: int, width: int, channels: int, dim: int, *, hidden: int) -> None:
        super().__init__()
        stages = max(1, round(math.log2(min(height, width) / SMALLEST)))
        widths = [channels, *(max(16, hidden >> (stages - 1 - i)) for i in range(stages))]
        layers: list[nn.Module] = []
        for below, here in itertools.pairwise(widths):
            layers += [nn.Conv2d(below, here, 4, stride=2, padding=1), nn.GroupNorm(1, here), nn.GELU()]
        self.stages = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(SMALLEST), nn.Flatten())
        self.head = nn.Linear(widths[-1] * SMALLEST**2, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stages(x))
