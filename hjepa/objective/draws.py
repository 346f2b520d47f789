"""The randomness of one training step: a pure function of its key, whatever the number of processes."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


class Draws:
    """Seeded by ``key`` (seed, phase, step, ...). ``rank`` of ``world`` processes shares the global batch evenly."""

    def __init__(self, *key: int | str, rank: int = 0, world: int = 1) -> None:
        digest = hashlib.sha256(repr(key).encode()).digest()
        self._generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        self._rank, self._world = rank, world

    def shared(self, *shape: int) -> Tensor:
        """Standard normal numbers, the same on every process."""
        return torch.randn(*shape, generator=self._generator)

    def mine(self, batch: int, *shape: int) -> Tensor:
        """Standard normal numbers (batch, *shape) for this process's share of the global batch."""
        return self.shared(self._world * batch, *shape)[self._rank * batch : (self._rank + 1) * batch]

    def integer(self, low: int, high: int) -> int:
        """low <= number < high, the same on every process."""
        return int(torch.randint(low, high, (), generator=self._generator))

    def noisy(self, x: Tensor, std: float) -> Tensor:
        """x (batch, ...) of this process's share, plus Gaussian noise; x itself where ``std`` is 0."""
        return x + std * self.mine(*x.shape).to(x) if std else x
