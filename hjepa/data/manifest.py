"""What a store says about itself: the arrays, the episodes, and every file with its size and hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hjepa.errors import UserError

SCHEMA = 1
MANIFEST = "manifest.json"
WRITING = ".writing"  # folder of what only a writer needs; gone once the store is sealed
RESERVED = ("episode_start", "episode_length")

# A chunk is the unit that is decoded, so a light array has long chunks and a heavy one short ones.
LIGHT_CHUNK_BYTES = 32 * 2**10
HEAVY_STEP_BYTES = 64 * 2**10
SHARD_BYTES = 100 * 2**20
MOST_CHUNK_STEPS = 4096


@dataclass(frozen=True)
class ArraySpec:
    """One per-step array: ``shape`` is that of a single step, (64, 64, 3) for RGB frames (H, W, C)."""

    dtype: str
    shape: tuple[int, ...]
    units: str
    description: str = ""

    @property
    def step_bytes(self) -> int:
        return int(np.dtype(self.dtype).itemsize * math.prod(self.shape))


@dataclass(frozen=True)
class Episode:
    """An unbroken recording: ``length`` steps from absolute row ``start`` on; ``source`` is where it came from."""

    start: int
    length: int
    source: str
    attrs: dict[str, str | int | float] = field(default_factory=dict)

    @property
    def stop(self) -> int:
        return self.start + self.length


@dataclass(frozen=True)
class FileEntry:
    size: int  # bytes
    sha256: str


@dataclass(frozen=True)
class Layout:
    """How the rows of one array lie in its files: shards of ``shard`` rows, in chunks of ``chunk`` rows."""

    name: str
    spec: ArraySpec
    chunk: int
    shard: int
    compress: bool

    @property
    def chunks(self) -> int:
        return self.shard // self.chunk

    @property
    def chunk_bytes(self) -> int:
        return self.chunk * self.spec.step_bytes

    def key(self, shard: int) -> str:
        """The shard's file, relative to the store, as Zarr v3 names it."""
        return "/".join((self.name, "c", str(shard), *("0" for _ in self.spec.shape)))


@dataclass(frozen=True)
class Header:
    """What is fixed when a store is begun. All arrays share the rows of a shard."""

    rate_hz: float
    arrays: dict[str, ArraySpec]
    attrs: dict[str, Any]
    shard_steps: int
    chunk_steps: dict[str, int]
    compress: bool

    def layout(self, name: str) -> Layout:
        return Layout(name, self.arrays[name], self.chunk_steps[name], self.shard_steps, self.compress)

    def to_json(self) -> dict[str, Any]:
        return json.loads(json.dumps({"schema": SCHEMA, **asdict(self)}))

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Header:
        fields = {name: content[name] for name in cls.__dataclass_fields__}
        specs = {n: ArraySpec(**{**s, "shape": tuple(s["shape"])}) for n, s in content["arrays"].items()}
        return cls(**{**fields, "arrays": specs})


@dataclass(frozen=True)
class Manifest:
    header: Header
    episodes: list[Episode]
    files: dict[str, FileEntry]

    @property
    def steps(self) -> int:
        return self.episodes[-1].stop

    @property
    def digest(self) -> str:
        """sha256 of the manifest's content with sorted keys: names the data, whenever and however it was written."""
        text = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()

    def to_json(self) -> dict[str, Any]:
        files = {name: asdict(entry) for name, entry in sorted(self.files.items())}
        return {**self.header.to_json(), "episodes": [asdict(e) for e in self.episodes], "files": files}

    def write(self, path: Path) -> None:
        content = {**self.to_json(), "digest": self.digest}
        write_file(path, (json.dumps(content, indent=1) + "\n").encode())

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """UserError: not JSON, another schema version, or a content that its own digest contradicts."""
        try:
            content = json.loads(path.read_text())
            schema = content["schema"]
            if schema != SCHEMA:
                raise UserError(f"{path}: schema version {schema}, this hjepa reads {SCHEMA}: convert or ingest again")
            episodes = [Episode(**e) for e in content["episodes"]]
            manifest = cls(Header.from_json(content), episodes, _entries(content["files"]))
            digest = content["digest"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: damaged manifest ({type(error).__name__}: {error})") from error
        if digest != manifest.digest:
            raise UserError(f"{path}: was changed after the store was sealed (its digest does not fit): restore it")
        return manifest


def _entries(files: Mapping[str, Mapping[str, Any]]) -> dict[str, FileEntry]:
    return {name: FileEntry(**entry) for name, entry in files.items()}


def plan_header(
    rate_hz: float,
    arrays: Mapping[str, ArraySpec],
    attrs: Mapping[str, Any] | None,
    chunk_steps: int | None,
    shard_steps: int | None,
    compress: bool,
) -> Header:
    """Checks what the user asked for and chooses chunks and shards where nothing was asked.

    Raises:
        UserError: names, dtypes, rates, attributes or chunk and shard lengths that no store can have.
    """
    if not (math.isfinite(rate_hz) and rate_hz > 0):
        raise UserError(f"rate_hz must be above 0 steps a second, got {rate_hz}")
    if not arrays:
        raise UserError("a store needs at least one array")
    for name, spec in arrays.items():
        _check_array(name, spec)
    heaviest = max(spec.step_bytes for spec in arrays.values())
    base = chunk_steps or (8 if heaviest > HEAVY_STEP_BYTES else 16)
    shard = shard_steps or _default_shard(heaviest, base)
    if base < 1 or shard < 1 or shard % base:
        raise UserError(f"shard_steps must be a multiple of chunk_steps, got {shard} and {base}")
    chunks = {name: _chunk(spec.step_bytes, base, shard) for name, spec in sorted(arrays.items())}
    if chunk_steps:
        chunks |= {name: chunk_steps for name, spec in arrays.items() if spec.step_bytes == heaviest}
    return Header(float(rate_hz), dict(sorted(arrays.items())), _checked_attrs(attrs), shard, chunks, compress)


def _check_array(name: str, spec: ArraySpec) -> None:
    if not name.isidentifier() or name in RESERVED:
        raise UserError(f"array name {name!r}: must be an identifier other than {', '.join(RESERVED)}")
    try:
        dtype = np.dtype(spec.dtype)
    except TypeError as error:
        raise UserError(f"array {name!r}: dtype {spec.dtype!r} is no numpy dtype") from error
    if dtype.kind not in "biuf" or dtype.name != spec.dtype:
        raise UserError(f"array {name!r}: dtype must be a bool, integer or float by numpy's name, got {spec.dtype!r}")
    if any(n < 1 for n in spec.shape):
        raise UserError(f"array {name!r}: shape {spec.shape} of a step must be positive")


def _checked_attrs(attrs: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        return json.loads(json.dumps(dict(attrs or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise UserError(f"attrs must be plain JSON values: {error}") from error


def _default_shard(heaviest: int, base: int) -> int:
    doublings = max(0, int(math.log2(max(1, SHARD_BYTES // (heaviest * base)))))
    return base * int(2 ** min(doublings, 17))


def _chunk(step_bytes: int, base: int, shard: int) -> int:
    chunk = base
    while 2 * chunk * step_bytes <= LIGHT_CHUNK_BYTES and 2 * chunk <= MOST_CHUNK_STEPS and shard % (2 * chunk) == 0:
        chunk *= 2
    return chunk


class HashedFile:
    """A file that is being written, with its size and hash so far."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha = hashlib.sha256()
        self._size = 0

    def write(self, data: bytes) -> None:
        self._file.write(data)
        self._sha.update(data)
        self._size += len(data)

    def entry(self) -> FileEntry:
        return FileEntry(self._size, self._sha.hexdigest())


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[HashedFile]:
    """Writes beside ``path``, then moves there: after any crash the old content or the whole new one is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as file:
            yield HashedFile(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def write_file(path: Path, data: bytes) -> FileEntry:
    with atomic_file(path) as file:
        file.write(data)
    return file.entry()


def hash_file(path: Path) -> FileEntry:
    with path.open("rb") as file:
        return FileEntry(os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest())


def sync_folder(path: Path) -> None:
    """Makes renames in the folder survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
