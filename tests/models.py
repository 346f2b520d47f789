"""Small models and clips for tests."""

import torch

from hjepa.config import HierarchyConfig, RunConfig, WorldConfig, validate
from hjepa.data.stream import Clip

SIDE = 16


def run_config(depth=3, actions=0, level=None, levels=None, **rest) -> RunConfig:
    """A tiny run: ``level`` is merged into every level, ``levels[k]`` into level k."""
    each = {"stride": 2, "window": 2, "length": 3, "dim": 6, "predictor": {"width": 16, "depth": 1, "heads": 2}}
    each |= {"latent": {"kind": "gaussian", "dim": 2}, **(level or {})}
    tree = {k: {"encoder": {"kind": "attention", "width": 16}} for k in range(2, depth + 1)}
    tree[1] = {"window": 1, "encoder": {"kind": "conv", "width": 16}}
    for k, extra in (levels or {}).items():
        tree[k] = {**tree[k], **extra}
    config = validate({"each_level": each, "levels": tree, **rest}, "test")
    return config.model_copy(update={"world": world(actions)})


def world(actions=0) -> WorldConfig:
    spread = {n: (v,) * actions for n, v in [("mean", 0.0), ("std", 1.0), ("low", -1.0), ("high", 1.0)]}
    return WorldConfig(height=SIDE, width=SIDE, rate_hz=10, **{f"action_{n}": v for n, v in spread.items()})


def hierarchy_config(**kwargs) -> HierarchyConfig:
    return run_config(**kwargs).hierarchy()


def random_clip(crop, steps=0, batch=4, actions=0, source=0, dim=6, seed=0) -> Clip:
    g = torch.Generator().manual_seed(seed)
    n = len(crop.reading(source)[1])
    if source:
        inputs = torch.randn(batch, n, dim, generator=g)
    else:
        inputs = torch.randint(0, 256, (batch, n, SIDE, SIDE, 3), generator=g, dtype=torch.uint8)
    taken = torch.randn(batch, steps, actions, generator=g) if actions else None
    present = torch.ones(batch, n, dtype=torch.bool)
    return Clip(inputs, present, taken, None, torch.arange(batch))


def awaken(model, seed=0):
    """Give zero-initialised layers random weights, so that every path carries a gradient."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=g))
    return model
