"""States of any level with their times, and the files they are saved in."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from hjepa.data.manifest import write_file
from hjepa.errors import UserError
from hjepa.query.view import View

SUFFIXES = (".npz", ".zarr")


@dataclass(frozen=True)
class LevelTrack:
    """States of one level over one episode, oldest first.

    Attributes:
        episode, name: which; level: from 1; period_s: seconds a step of the level.
        rows: (N,) absolute row of the newest frame that each state sees.
        times_s: (N,) the same in seconds from the episode's first frame.
        states: (N, D) float32.
    """

    episode: int
    name: str
    level: int
    period_s: float
    rows: NDArray[np.int64]
    times_s: NDArray[np.float64]
    states: NDArray[np.float32]

    def asdict(self) -> dict[str, Any]:
        """What there is, without the states themselves."""
        first, last = (float(self.times_s[i]) for i in (0, -1))
        return {
            "episode": self.episode, "name": self.name, "level": self.level, "period_s": self.period_s,
            "states": len(self.states), "dim": self.states.shape[1], "first_s": first, "last_s": last,
        }  # fmt: skip


def states(view: View, levels: list[int] | None = None, every_step: bool = False) -> list[LevelTrack]:
    """States of the levels (default: all), one track an episode and level; episodes too short for one are left out.

    Args:
        every_step: a state at every environment step; default: one a period, the last at the episode's last frame, as
            `Hierarchy.encode` gives them.

    Raises:
        UserError: no such level, or a level for which every episode is too short.
    """
    found = []
    for level in view.levels(levels):
        view.library(level)
        for number, recording in enumerate(view.recordings):
            if len(recording.states[level - 1]):
                found.append(_track(view, number, level, 1 if every_step else view.period(level)))
    return found


def _track(view: View, number: int, level: int, stride: int) -> LevelTrack:
    recording, episode = view.recordings[number], view.source.episodes[number]
    kept = slice((len(recording.states[level - 1]) - 1) % stride, None, stride)
    rows = recording.rows_of(level)[kept]
    return LevelTrack(
        episode=number,
        name=episode.source,
        level=level,
        period_s=view.period(level) / view.rate_hz,
        rows=rows,
        times_s=(rows - episode.start) / view.rate_hz,
        states=recording.states[level - 1][kept].numpy(),
    )


def save_states(tracks: Sequence[LevelTrack], path: str | Path) -> Path:
    """Write tracks to an .npz or a .zarr; either holds, for each level k, the tracks one after another:

    ``level_k/states`` (N, D) float32; ``level_k/times_s`` (N,) seconds from the episode's first frame; ``level_k/rows``
    (N,) absolute row in the source; ``level_k/episode`` (N,) number of the episode. The attributes (in an .npz the JSON
    text ``attrs``) give the units, each level's period in seconds, and the episodes' names.

    Raises:
        UserError: another suffix, something is there already, or it cannot be written; nothing is left half-written.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: suffix {path.suffix!r}; legal: {', '.join(SUFFIXES)}")
    if path.exists():
        raise UserError(f"{path}: already exists; legal: a new path")
    arrays, attrs = _arrays(tracks), _attrs(tracks)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        (_write_npz if path.suffix == ".npz" else _write_zarr)(path, arrays, attrs)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror})") from None
    return path


def _arrays(tracks: Sequence[LevelTrack]) -> dict[str, NDArray]:
    arrays: dict[str, NDArray] = {}
    for level in sorted({t.level for t in tracks}):
        own = [t for t in tracks if t.level == level]
        arrays |= {
            f"level_{level}/{n}": np.concatenate([getattr(t, n) for t in own]) for n in ("states", "times_s", "rows")
        }
        arrays[f"level_{level}/episode"] = np.repeat([t.episode for t in own], [len(t.rows) for t in own])
    return arrays


def _attrs(tracks: Sequence[LevelTrack]) -> dict[str, Any]:
    return {
        "episodes": {str(t.episode): t.name for t in tracks},
        "period_s": {f"level_{t.level}": t.period_s for t in tracks},
        "units": {"states": "1", "times_s": "s from the episode's first frame", "rows": "step of the source",
                  "episode": "number, see episodes"},
    }  # fmt: skip


def _write_npz(path: Path, arrays: dict[str, NDArray], attrs: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays, attrs=np.array(json.dumps(attrs)))
    write_file(path, buffer.getvalue())


def _write_zarr(path: Path, arrays: dict[str, NDArray], attrs: dict[str, Any]) -> None:
    beside = path.with_name(path.name + ".partial")
    shutil.rmtree(beside, ignore_errors=True)  # of a write that was killed
    try:
        group = zarr.open_group(beside, mode="w", attributes=attrs)
        for name, values in arrays.items():
            group.create_array(name, data=values)
        os.replace(beside, path)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
