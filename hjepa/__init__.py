"""hjepa: hierarchical, multi-timescale world models - JEPAs stacked over time."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads must sleep: spinning ones slow a step up to tenfold beside a busy neighbour. Read as torch loads.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__version__ = "0.1.0"
__all__ = ["Hierarchy", "UserError", "__version__"]

if TYPE_CHECKING:
    from hjepa.errors import UserError
    from hjepa.hierarchy import Hierarchy


def __getattr__(name: str) -> Any:
    """Import the public names when they are first asked for, so that ``import hjepa`` stays quick."""
    if name == "Hierarchy":
        from hjepa.hierarchy import Hierarchy

        return Hierarchy
    if name == "UserError":
        from hjepa.errors import UserError

        return UserError
    raise AttributeError(f"module 'hjepa' has no attribute {name!r}")
