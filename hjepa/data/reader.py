"""Reads rows of a store's array from local files: mmap, a checked shard index, one decode a chunk.

Equal to zarr-python, which stays the reference and the way to read a store over a network, but several times faster on
the small random reads of training. One reader serves one thread; after a fork it opens its files again.
"""

from __future__ import annotations

import mmap
import os
from collections import OrderedDict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

import google_crc32c
import numpy as np
from numcodecs.zstd import Zstd
from numpy.typing import ArrayLike, NDArray

from hjepa.data.manifest import FileEntry, Layout
from hjepa.errors import UserError

Bytes = NDArray[np.uint8]

CACHE_BYTES = 16 * 2**20  # decoded chunks kept, an array and process
OPEN_SHARDS = 32  # mapped files kept, an array and process
CRC_BYTES = 4
ABSENT = 2**64 - 1  # what a shard's index says of a chunk that was never written


class Shard:
    """One mapped shard file: chunks one after another, then the index (offset, length) of each, then its crc32c.

    Raises:
        UserError: the file is missing, has another size than the manifest says, or its index is damaged.
    """

    def __init__(self, path: Path, layout: Layout, number: int, size: int) -> None:
        self.path = path
        self._layout = layout
        self._first_row = number * layout.shard
        self._map = self._open(size)
        self._index = self._read_index()
        self._checked: set[int] = set()

    def chunk(self, number: int) -> Bytes:
        """(chunk rows, bytes of a step): a new array where the store is compressed, else a view of the mapped file."""
        offset, length = self._index[number]
        if offset == ABSENT:
            raise self._damaged(number, "absent")
        raw = memoryview(self._map)[offset : offset + length]
        flat = self._decode(number, raw) if self._layout.compress else self._plain(number, raw)
        return flat.reshape(self._layout.chunk, self._layout.spec.step_bytes)

    def _open(self, size: int) -> mmap.mmap:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno()).st_size
                if found != size:
                    raise UserError(f"{self.path}: {found} bytes, the manifest says {size}: restore or ingest again")
                return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read ({error.strerror}): restore it or ingest again") from error

    def _read_index(self) -> list[tuple[int, int]]:
        size = 16 * self._layout.chunks
        tail = self._map[-(size + CRC_BYTES) :]
        if len(tail) != size + CRC_BYTES or not _crc_fits(tail):
            raise UserError(f"{self.path}: the shard's index is damaged: restore the file or ingest again")
        pairs = np.frombuffer(tail, "<u8", 2 * self._layout.chunks).reshape(-1, 2)
        return [(int(offset), int(length)) for offset, length in pairs]

    def _decode(self, number: int, raw: memoryview) -> Bytes:
        out = np.empty(self._layout.chunk_bytes, np.uint8)
        try:
            Zstd().decode(raw, out)  # checks the frame's own checksum of the content
        except (RuntimeError, ValueError) as error:
            raise self._damaged(number, str(error)) from error
        return out

    def _plain(self, number: int, raw: memoryview) -> Bytes:
        if number not in self._checked:
            if len(raw) != self._layout.chunk_bytes + CRC_BYTES or not _crc_fits(raw):
                raise self._damaged(number, "its checksum does not fit")
            self._checked.add(number)
        return np.frombuffer(raw, np.uint8, self._layout.chunk_bytes)

    def _damaged(self, number: int, why: str) -> UserError:
        first = self._first_row + number * self._layout.chunk
        rows = f"rows {first} to {first + self._layout.chunk - 1} of {self._layout.name!r}"
        return UserError(f"{self.path}: chunk {number} ({rows}) is damaged ({why}): restore the file or ingest again")


class ArrayReader:
    """Rows of one array, in any order.

    Args:
        root: the store's folder.
        steps: rows that exist.
        files: sizes by key, to notice a shard that was cut or replaced.
    """

    def __init__(self, root: Path, layout: Layout, steps: int, files: Mapping[str, FileEntry]) -> None:
        self._root = root
        self._layout = layout
        self._steps = steps
        self._files = files
        self._dtype = np.dtype(layout.spec.dtype)
        self._forget()

    def read(self, rows: ArrayLike) -> NDArray:
        """(len(rows), *step shape): a new array that the caller owns; rows in any order, repeats allowed.

        Raises:
            IndexError: a row below 0 or behind the last.
            UserError: a file is missing or damaged.
        """
        if os.getpid() != self._pid:
            self._forget()
        wanted = self._checked(rows)
        out = np.empty((len(wanted), self._layout.spec.step_bytes), np.uint8)
        chunk_of, within = np.divmod(wanted, self._layout.chunk)
        order = np.argsort(chunk_of, kind="stable")
        starts = np.flatnonzero(np.diff(chunk_of[order], prepend=-1)).tolist()
        for start, stop in pairwise((*starts, len(order))):
            places = order[start:stop]
            _gather(self._chunk(int(chunk_of[places[0]])), within[places], out, places)
        return out.view(self._dtype).reshape(len(wanted), *self._layout.spec.shape)

    def _checked(self, rows: ArrayLike) -> NDArray[np.int64]:
        wanted = np.asarray(rows)
        if wanted.ndim != 1 or (wanted.size and wanted.dtype.kind not in "iu"):
            raise TypeError(f"rows must be a list of integers, got {wanted.dtype} of shape {wanted.shape}")
        if wanted.size and (wanted.min() < 0 or wanted.max() >= self._steps):
            where = f"rows {wanted.min()} to {wanted.max()} of {self._layout.name!r}"
            raise IndexError(f"{where}: the store has the rows 0 to {self._steps - 1}")
        return wanted.astype(np.int64, copy=False)

    def _chunk(self, number: int) -> Bytes:
        found = self._chunks.get(number)
        if found is None:
            shard, inside = divmod(number, self._layout.chunks)
            found = self._shard(shard).chunk(inside)
            if not self._layout.compress:
                return found  # a view: cheap, and kept it would hold its file open
            self._chunks[number] = found
            _evict(self._chunks, max(1, CACHE_BYTES // self._layout.chunk_bytes))
        else:
            self._chunks.move_to_end(number)
        return found

    def _shard(self, number: int) -> Shard:
        found = self._shards.get(number)
        if found is None:
            key = self._layout.key(number)
            found = self._shards[number] = Shard(self._root / key, self._layout, number, self._files[key].size)
            _evict(self._shards, OPEN_SHARDS)
        else:
            self._shards.move_to_end(number)
        return found

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._shards: OrderedDict[int, Shard] = OrderedDict()
        self._chunks: OrderedDict[int, Bytes] = OrderedDict()

    def __getstate__(self) -> dict[str, object]:
        state = dict(self.__dict__)
        del state["_shards"], state["_chunks"]
        return state

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._forget()


def _gather(chunk: Bytes, within: NDArray[np.int64], out: Bytes, places: NDArray[np.int64]) -> None:
    first, last = int(places[0]), int(places[-1])
    if last - first + 1 == len(places):  # ascending, so neighbours: one copy instead of two
        np.take(chunk, within, axis=0, out=out[first : last + 1], mode="clip")
    else:
        out[places] = chunk[within]


def _evict(cache: OrderedDict, most: int) -> None:
    while len(cache) > most:
        cache.popitem(last=False)


def _crc_fits(data: bytes | memoryview) -> bool:
    body = np.frombuffer(data, np.uint8, len(data) - CRC_BYTES)  # no copy, which a memoryview would need
    return google_crc32c.value(body) == int.from_bytes(data[-CRC_BYTES:], "little")
