"""Devices are found here, and named nowhere else."""

from __future__ import annotations

import os

import torch


def on_cpu() -> bool:
    """Whether no accelerator is there."""
    return not torch.accelerator.is_available()


def best_device() -> torch.device:
    """The current accelerator, or the CPU."""
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    return found or torch.device("cpu")


def set_threads(threads: int = 0, processes: int = 1) -> int:
    """Give this process its share of the cores (or ``threads``): oversubscribed, it is up to 30 times slower."""
    count = threads or max(1, len(os.sched_getaffinity(0)) // processes)
    torch.set_num_threads(count)
    return count
