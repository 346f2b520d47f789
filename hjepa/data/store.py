"""The store: recordings as per-step arrays in a Zarr v3 group, with a manifest of every file's size and hash.

On disk ``frames``, ``actions``, ... are regular sharded arrays of (all steps, *shape of a step) which plain
``zarr.open`` reads; ``episode_start`` and ``episode_length`` say where the recordings lie. ``manifest.json`` is
written last: a store without it is unfinished and refused. ``StoreWriter`` (hjepa/data/writer.py) writes one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hjepa.data.manifest import MANIFEST, WRITING, ArraySpec, Episode, FileEntry, Manifest, hash_file
from hjepa.data.reader import ArrayReader
from hjepa.data.writer import EpisodeWriter, StoreWriter, sealed_in
from hjepa.errors import UserError, nearest

__all__ = ["ArraySpec", "Episode", "EpisodeWriter", "Store", "StoreWriter"]


class Store:
    """A sealed store, open for reading. Files are opened at the first read, and again after a fork or a pickle.

    Attributes:
        path: its folder.
        rate_hz: steps per second, the same for every episode.
        arrays: what is recorded at each step.
        episodes: in the order of their rows, without gaps.
        attrs: what the writer noted about the whole store.
        digest: sha256 that names the content.
    """

    def __init__(self, path: Path, manifest: Manifest) -> None:
        header = manifest.header
        self.path = path
        self.rate_hz = header.rate_hz
        self.arrays = header.arrays
        self.episodes = manifest.episodes
        self.attrs: dict[str, Any] = header.attrs
        self.digest = manifest.digest
        self._readers = {
            name: ArrayReader(path, header.layout(name), manifest.steps, manifest.files) for name in self.arrays
        }

    @classmethod
    def open(cls, path: str | Path, verify: bool = False) -> Store:
        """Opens a sealed store; ``verify`` reads every byte once and compares the hashes.

        Raises:
            UserError: no store, unfinished, another schema, or a file that is missing, resized or (metadata always,
                data with ``verify``) changed.
        """
        root = Path(path)
        if not (root / MANIFEST).is_file():
            raise UserError(_no_manifest(root))
        manifest = Manifest.read(root / MANIFEST)
        for name, entry in manifest.files.items():
            _check_file(root / name, entry, verify or name.endswith("zarr.json"))
        return cls(root, manifest)

    def read(self, name: str, rows: ArrayLike) -> NDArray:
        """(len(rows), *shape of a step) of array ``name``: absolute rows in any order, repeats allowed.

        Raises:
            UserError: no such array; a file that is missing or damaged.
            IndexError: a row that does not exist.
        """
        if name not in self._readers:
            raise UserError(f"{self.path}: no array {name!r}: {nearest(name, self.arrays)}")
        return self._readers[name].read(rows)

    def whole(self, name: str, episode: Episode) -> NDArray:
        """(episode.length, *shape of a step): every step of one episode."""
        return self.read(name, np.arange(episode.start, episode.stop))

    def __repr__(self) -> str:
        steps = sum(e.length for e in self.episodes)
        return f"Store({self.path}, {len(self.episodes)} episodes, {steps} steps of {', '.join(self.arrays)})"


def _no_manifest(root: Path) -> str:
    if not root.exists():
        return f"{root}: no store there"
    if (root / WRITING).is_dir():
        done = f"unfinished store, {sealed_in(root)} episodes sealed"
        return f"{root}: {done}: run what wrote it again with the same arguments, it goes on from there"
    return f"{root}: not a store, it has no {MANIFEST}"


def _check_file(path: Path, entry: FileEntry, hashed: bool) -> None:
    try:
        size = path.stat().st_size
        found = hash_file(path) if hashed else FileEntry(size, entry.sha256)
    except OSError as error:
        raise UserError(f"{path}: missing or unreadable ({error.strerror}): restore it or ingest again") from error
    if size != entry.size:
        raise UserError(f"{path}: {size} bytes, the manifest says {entry.size}: restore it or ingest again")
    if found != entry:
        raise UserError(f"{path}: was changed after the store was sealed: restore it or ingest again")
