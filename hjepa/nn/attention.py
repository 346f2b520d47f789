"""Attention, one function over several backends that agree."""

from __future__ import annotations

import importlib
from functools import cache
from types import ModuleType
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Backend = Literal["sdpa", "matmul", "xformers"]
SHORT = 512  # tokens up to which plain matmul beats the fused kernel's backward on CPU in bf16


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, backend: Backend | None = None) -> Tensor:
    """softmax(q k^T / sqrt(d)) v, with the backend that is fastest for the device, type and length.

    Args:
        q, k, v: (B, H, N, D).
        mask: (B or 1, 1, N, N) bool, True where a query may look; every query must see at least one key.
        backend: force one; default: `choose`.

    Returns:
        (B, H, N, D).
    """
    backend = backend or choose(q)
    if backend == "sdpa":
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    if backend == "matmul":
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return scores.softmax(-1).to(v.dtype) @ v
    ops = _xformers()
    if ops is None:
        raise ValueError("backend 'xformers' asked for, but xformers.ops does not import; legal: sdpa, matmul")
    bias = None if mask is None else _bias(mask, q)
    return ops.memory_efficient_attention(*(x.transpose(1, 2) for x in (q, k, v)), attn_bias=bias).transpose(1, 2)


def choose(q: Tensor) -> Backend:
    """xformers on CUDA where it imports; plain matmul for short bf16 on CPU; the fused kernel otherwise."""
    if q.is_cuda:
        return "xformers" if _xformers() is not None else "sdpa"
    return "matmul" if q.dtype == torch.bfloat16 and q.shape[-2] <= SHORT else "sdpa"


def causal_mask(valid: Tensor) -> Tensor:
    """(B, 1, N, N) mask for `attend`: a step sees itself and earlier steps that are ``valid`` (B, N)."""
    n = valid.shape[1]
    here = torch.arange(n, device=valid.device)
    return ((here[:, None] >= here) & valid[:, None, None, :]) | (here[:, None] == here)


def _bias(mask: Tensor, q: Tensor) -> Tensor:
    bias = torch.zeros(mask.shape, dtype=q.dtype, device=q.device).masked_fill(~mask, -torch.inf)
    return bias.expand(q.shape[0], q.shape[1], -1, -1)


@cache
def _xformers() -> ModuleType | None:
    try:
        return importlib.import_module("xformers.ops")
    except ImportError:
        return None
