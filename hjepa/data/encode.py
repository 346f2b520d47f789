"""Makes the files of a Zarr v3 group: shards of encoded chunks, and the metadata that lets zarr-python read them.

The shards are written here because zarr-python can neither put them on disk durably nor say their hash; a test reads
them back through it. The metadata is zarr-python's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import google_crc32c
import numpy as np
import zarr
from numcodecs.zstd import Zstd
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec, ZstdCodec
from zarr.errors import ZarrUserWarning
from zarr.storage import MemoryStore

from hjepa.data.manifest import ArraySpec, Episode, FileEntry, Header, Layout, atomic_file, write_file
from hjepa.data.reader import ABSENT

ZSTD_LEVEL = 3


def write_shard(path: Path, layout: Layout, rows: NDArray[np.uint8]) -> FileEntry:
    """Writes a shard file of (at most ``layout.shard``, bytes of a step) rows; zeros fill the last partial chunk."""
    index = np.full((layout.chunks, 2), ABSENT, "<u8")
    offset = 0
    with atomic_file(path) as file:
        for number, start in enumerate(range(0, len(rows), layout.chunk)):
            chunk = np.zeros((layout.chunk, layout.spec.step_bytes), np.uint8)
            chunk[: len(rows) - start] = rows[start : start + layout.chunk]
            data = _encode_chunk(chunk, layout.compress)
            file.write(data)
            index[number] = offset, len(data)
            offset += len(data)
        file.write(_with_crc(index.tobytes()))
    return file.entry()


def write_tables(root: Path, episodes: list[Episode]) -> dict[str, FileEntry]:
    """episode_start and episode_length, for those who read the store without this package."""
    files = {}
    for name in ("start", "length"):
        layout = _table(f"episode_{name}", len(episodes))
        values = np.array([getattr(episode, name) for episode in episodes], "<i8")
        rows = values.view(np.uint8).reshape(len(episodes), -1)
        files[layout.key(0)] = write_shard(root / layout.key(0), layout, rows)
    return files


def write_metadata(root: Path, header: Header, episodes: list[Episode]) -> dict[str, FileEntry]:
    """Every zarr.json, as zarr-python itself writes it; consolidated, else listing the group trips on the manifest."""
    made: dict[str, Any] = {}
    store = MemoryStore(made)
    group = zarr.create_group(store, attributes={**header.attrs, "rate_hz": header.rate_hz})
    for name in header.arrays:
        _create(group, header.layout(name), episodes[-1].stop)
    for name in ("episode_start", "episode_length"):
        _create(group, _table(name, len(episodes)), len(episodes))
    with warnings.catch_warnings(category=ZarrUserWarning, action="ignore"):  # not part of the specification yet
        zarr.consolidate_metadata(store)
    return {key: write_file(root / key, data.to_bytes()) for key, data in made.items()}


def remove_strangers(root: Path, arrays: Iterable[str], files: Mapping[str, FileEntry]) -> None:
    """Shards of an episode that was dropped, half-written files of a killed writer."""
    for name in arrays:
        for path in sorted((root / name).rglob("*")):
            if path.is_file() and path.relative_to(root).as_posix() not in files:
                path.unlink()


def _encode_chunk(chunk: NDArray[np.uint8], compress: bool) -> bytes:
    return Zstd(level=ZSTD_LEVEL, checksum=True).encode(chunk) if compress else _with_crc(chunk.tobytes())


def _with_crc(data: bytes) -> bytes:
    return data + int(google_crc32c.value(data)).to_bytes(4, "little")


def _table(name: str, count: int) -> Layout:
    return Layout(name, ArraySpec("int64", (), "step"), count, count, True)


def _create(group: zarr.Group, layout: Layout, rows: int) -> None:
    step = layout.spec.shape
    group.create_array(
        layout.name,
        shape=(rows, *step),
        dtype=layout.spec.dtype,
        chunks=(layout.chunk, *step),
        shards=(layout.shard, *step),
        filters=None,
        compressors=[ZstdCodec(level=ZSTD_LEVEL, checksum=True) if layout.compress else Crc32cCodec()],
        fill_value=0,
        attributes={"units": layout.spec.units, "description": layout.spec.description},
    )
