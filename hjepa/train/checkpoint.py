"""Trainer state on disk: safetensors and JSON, complete or absent, never half.

``state/<n>/`` holds progress.json, trainee.safetensors (weights and target encoders) and optimizer.safetensors. It is
written under another name and renamed when everything is on the disk, so the newest one is always whole.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from hjepa.errors import UserError


@dataclass(frozen=True)
class Progress:
    """``step`` optimiser steps of phase number ``phase`` (from 0) are done; ``total`` counts over all phases."""

    phase: int = 0
    step: int = 0
    total: int = 0


def save(run: Path, progress: Progress, trainee: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Write the newest state and drop the one before it.

    Raises:
        UserError: it cannot be written (disk full, no permission); the state before it is kept.
    """
    final = run / "state" / f"{progress.total:09d}-{progress.phase}"
    partial = final.with_name(f".{final.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        save_file(_flat(trainee.state_dict()), partial / "trainee.safetensors")
        save_file(_moments(optimizer), partial / "optimizer.safetensors")
        (partial / "progress.json").write_text(json.dumps(asdict(progress)))
        for file in partial.iterdir():
            _sync(file)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(f"{final}: cannot be written ({error}); the state before it is kept") from None
    for old in sorted((run / "state").iterdir()):
        if old != final:
            shutil.rmtree(old)


def latest(run: Path) -> Path | None:
    """The newest whole state of a run, None where there is none."""
    whole = [p for p in (run / "state").glob("[0-9]*") if (p / "progress.json").is_file()]
    return max(whole, default=None)


def read_progress(state: Path) -> Progress:
    return Progress(**json.loads((state / "progress.json").read_text()))


def restore_weights(state: Path, trainee: nn.Module) -> None:
    """Raises UserError where the state belongs to another configuration."""
    try:
        trainee.load_state_dict(load_file(state / "trainee.safetensors"))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise UserError(f"{state}: not a state of this configuration: {' '.join(str(error).split())[:300]}") from None


def restore_model(state: Path, hierarchy: nn.Module) -> None:
    """The hierarchy's weights alone; target encoders start anew from them."""
    stored = load_file(state / "trainee.safetensors")
    hierarchy.load_state_dict(
        {k.removeprefix("hierarchy."): v for k, v in stored.items() if k.startswith("hierarchy.")}
    )


def restore_optimizer(state: Path, optimizer: torch.optim.Optimizer) -> None:
    """Put AdamW's moments back, by parameter position."""
    stored = load_file(state / "optimizer.safetensors")
    tree = optimizer.state_dict()
    for name, value in stored.items():
        index, key = name.split(".", 1)
        tree["state"].setdefault(int(index), {})[key] = value
    optimizer.load_state_dict(tree)


def _moments(optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    return _flat({f"{i}.{k}": v for i, entry in optimizer.state_dict()["state"].items() for k, v in entry.items()})


def _flat(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}


def _sync(file: Path) -> None:
    with file.open("rb") as f:
        os.fsync(f.fileno())
