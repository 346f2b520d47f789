"""Writes a store so that a kill at any moment costs no sealed episode and leaves nothing half-written to be read.

Rows of the shard that is being filled lie uncompressed in ``.writing/<array>.raw``; a full shard is encoded from there
and moved into place once. ``.writing/journal.jsonl`` gets one line a full shard and one a sealed episode, each after
the bytes it speaks of are on disk. So many short episodes share a shard, each is safe as soon as it ends, memory stays
at one block, and every byte is written twice, once raw and once encoded. Opening again cuts back to the last sealed
episode; if that lies inside a shard that was already encoded, its rows are decoded back into the raw file.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from hjepa.data.encode import remove_strangers, write_metadata, write_shard, write_tables
from hjepa.data.manifest import (
    MANIFEST,
    SCHEMA,
    WRITING,
    ArraySpec,
    Episode,
    FileEntry,
    Header,
    Manifest,
    plan_header,
    write_file,
)
from hjepa.data.reader import ArrayReader
from hjepa.errors import UserError, nearest

JOURNAL = "journal.jsonl"


class EpisodeWriter:
    """Appends to the episode that is open; made by ``StoreWriter.episode``."""

    def __init__(self, writer: StoreWriter, source: str) -> None:
        self._writer = writer
        self._source = source
        self.steps = 0

    def append(self, **blocks: NDArray) -> None:
        """Appends the same number of steps to every array: one block (T, *shape of a step) by array name.

        Raises:
            UserError: a missing, unknown or misshapen block, another dtype, a NaN or infinity; or the disk is full.
        """
        checked, steps = self._writer._checked(blocks, self._source, self.steps)
        self._writer._write(checked, steps)
        self.steps += steps


class StoreWriter:
    """Appends episodes to a store; a context manager, one at a time per store.

    Opens an unfinished store of the same schema again and goes on after its last sealed episode.

    Args:
        rate_hz: steps per second.
        arrays: what every step consists of.
        attrs: facts about the whole store, plain JSON values.
        chunk_steps: rows decoded at once, of the heaviest array (default 16, or 8 above 64 KiB a step); lighter arrays
            take a multiple.
        shard_steps: rows a file, a multiple of ``chunk_steps`` (default: about 100 MiB of the heaviest array).
        compress: zstd with a checksum; else raw bytes with a crc32c.

    Raises:
        UserError: a sealed or foreign folder, another schema than the one begun there, another writer at work.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        rate_hz: float,
        arrays: Mapping[str, ArraySpec],
        attrs: Mapping[str, Any] | None = None,
        chunk_steps: int | None = None,
        shard_steps: int | None = None,
        compress: bool = True,
    ) -> None:
        self.path = Path(path)
        self._header = plan_header(rate_hz, arrays, attrs, chunk_steps, shard_steps, compress)
        self._layouts = {name: self._header.layout(name) for name in self._header.arrays}
        self._open_source: str | None = None
        self._files = contextlib.ExitStack()
        with self._guard(), contextlib.ExitStack() as opened:
            opened.enter_context(_claim(self.path))
            self._episodes, self._shards = _load(self.path, self._header)
            self._raw = {n: opened.enter_context(_open_raw(self._writing / f"{n}.raw")) for n in self._layouts}
            self._rewind()
            self._files = opened.pop_all()  # whatever failed before closes them, and lets go of the lock

    @property
    def _writing(self) -> Path:
        return self.path / WRITING

    @property
    def _sealed(self) -> int:
        return self._episodes[-1].stop if self._episodes else 0

    def __enter__(self) -> StoreWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Lets go of the files. What is sealed stays; the store is finished only by ``finish``."""
        with contextlib.suppress(OSError):  # an unsealed rest that does not fit on the disk is no loss
            self._journal.close()
        with contextlib.suppress(OSError):
            self._files.close()

    def sources(self) -> set[str]:
        """Sources of the episodes sealed so far: skip these when resuming."""
        return {episode.source for episode in self._episodes}

    @contextlib.contextmanager
    def episode(self, source: str, attrs: Mapping[str, str | int | float] | None = None) -> Iterator[EpisodeWriter]:
        """Opens an episode; leaving the block seals it on disk, leaving it by an exception drops its steps.

        Raises:
            UserError: the source is already in the store, nothing was appended, or the disk is full.
        """
        facts = _checked_facts(source, attrs)
        self._begin(source)
        writer = EpisodeWriter(self, source)
        try:
            yield writer
            with self._guard():
                self._seal(source, facts)
        except BaseException:
            self._dirty = True
            raise
        finally:
            self._open_source = None

    def finish(self) -> None:
        """Seals the store: the last shard, Zarr's metadata, the episode tables, and at the very end the manifest.

        Raises:
            UserError: no episode was sealed, or the disk is full (then the store stays unfinished and can go on).
        """
        if self._open_source is not None:
            raise UserError(f"{self.path}: finish() inside the open episode {self._open_source!r}")
        if not self._episodes:
            raise UserError(f"{self.path}: no episode was sealed, there is nothing to finish")
        with self._guard():
            self._clean()
            files = {key: entry for shard in (*self._shards, self._last_shard()) for key, entry in shard.items()}
            files |= write_tables(self.path, self._episodes)
            files |= write_metadata(self.path, self._header, self._episodes)
            remove_strangers(self.path, self._layouts, files)
            Manifest(self._header, self._episodes, files).write(self.path / MANIFEST)
            self.close()
            shutil.rmtree(self._writing)

    def _begin(self, source: str) -> None:
        if self._open_source is not None:
            raise UserError(f"{self.path}: episode {self._open_source!r} is still open")
        if source in self.sources():
            raise UserError(f"{self.path}: source {source!r} is already sealed: skip those of sources()")
        with self._guard():
            self._clean()
        self._open_source = source

    def _checked(self, blocks: Mapping[str, NDArray], source: str, done: int) -> tuple[dict[str, NDArray], int]:
        """The blocks as contiguous arrays, and their steps."""
        for name in (*self._layouts, *blocks):
            if name not in blocks:
                raise UserError(f"{source}: no block for array {name!r}, every append needs all of them")
            if name not in self._layouts:
                raise UserError(f"{source}: the store has no array {name!r}: {nearest(name, self._layouts)}")
        checked = {name: np.asarray(block) for name, block in blocks.items()}
        for name, block in checked.items():
            _check_block(name, block, self._header.arrays[name], source, done)
        lengths = {name: len(block) for name, block in checked.items()}
        if len(set(lengths.values())) > 1:
            raise UserError(f"{source}: blocks of unequal length: {lengths}")
        return checked, next(iter(lengths.values()))

    def _write(self, blocks: Mapping[str, NDArray], steps: int) -> None:
        with self._guard():
            done = 0
            while done < steps:
                at = self._rows % self._header.shard_steps
                count = min(self._header.shard_steps - at, steps - done)
                for name, block in blocks.items():
                    self._raw[name].seek(at * self._header.arrays[name].step_bytes)
                    self._raw[name].write(np.ascontiguousarray(block[done : done + count]).tobytes())
                self._rows += count
                done += count
                if at + count == self._header.shard_steps:
                    self._close_shard()

    def _close_shard(self) -> None:
        number = len(self._shards)
        entries = self._encode(number, self._header.shard_steps)
        self._log({"shard": {key: asdict(entry) for key, entry in entries.items()}})
        self._shards.append(entries)

    def _encode(self, number: int, rows: int) -> dict[str, FileEntry]:
        """Writes shard ``number`` of every array from the first ``rows`` rows of its raw file."""
        entries = {}
        for name, layout in self._layouts.items():
            self._raw[name].flush()
            shape = (rows, layout.spec.step_bytes)
            steps = np.memmap(self._raw[name].name, np.uint8, "r", shape=shape)
            entries[layout.key(number)] = write_shard(self.path / layout.key(number), layout, steps)
        return entries

    def _last_shard(self) -> dict[str, FileEntry]:
        rest = self._sealed % self._header.shard_steps
        return self._encode(len(self._shards), rest) if rest else {}

    def _seal(self, source: str, facts: dict[str, str | int | float]) -> None:
        if self._rows == self._sealed:
            raise UserError(f"{source}: an episode without steps cannot be sealed")
        for file in self._raw.values():
            file.flush()
            os.fsync(file.fileno())
        episode = Episode(self._sealed, self._rows - self._sealed, source, facts)
        self._log({"episode": asdict(episode)})
        self._episodes.append(episode)

    def _log(self, line: dict[str, Any]) -> None:
        self._journal.write(json.dumps(line).encode() + b"\n")
        self._journal.flush()
        os.fsync(self._journal.fileno())

    def _clean(self) -> None:
        if self._dirty:
            self._journal.close()
            self._rewind()

    def _rewind(self) -> None:
        """Drops every row after the last sealed episode; the journal then says only what is kept."""
        shard, rest = divmod(self._sealed, self._header.shard_steps)
        if rest and shard < len(self._shards):
            self._restore_raw(self._shards[shard], shard * self._header.shard_steps, rest)
        self._shards = self._shards[:shard]
        lines: list[dict[str, Any]] = [self._header.to_json()]
        lines += [{"shard": {k: asdict(entry) for k, entry in s.items()}} for s in self._shards]
        lines += [{"episode": asdict(episode)} for episode in self._episodes]
        write_file(self._writing / JOURNAL, b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        self._journal: BinaryIO = (self._writing / JOURNAL).open("ab")
        self._rows = self._sealed
        self._dirty = False

    def _restore_raw(self, entries: Mapping[str, FileEntry], first: int, rest: int) -> None:
        for name, layout in self._layouts.items():
            reader = ArrayReader(self.path, layout, first + layout.shard, entries)
            file = self._raw[name]
            for start in range(0, rest, layout.chunk):
                rows = np.arange(start, min(start + layout.chunk, rest))
                file.seek(start * layout.spec.step_bytes)
                file.write(reader.read(first + rows).tobytes())
            file.flush()
            os.fsync(file.fileno())

    @contextlib.contextmanager
    def _guard(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.path
            kept = "sealed episodes are safe; make room and run again with the same arguments"
            raise UserError(f"{where}: cannot be written ({error.strerror}): {kept}") from error


def sealed_in(root: Path) -> int:
    """How many episodes an unfinished store holds."""
    return sum("episode" in line for line in _journal_lines(root)[1:])


def _claim(root: Path) -> BinaryIO:
    """Makes the folder and locks it; the lock goes with the process, however it ends."""
    if (root / MANIFEST).exists():
        raise UserError(f"{root}: a sealed store: choose another path, or delete it to write it anew")
    if root.exists() and not (root / WRITING).is_dir() and (not root.is_dir() or any(root.iterdir())):
        raise UserError(f"{root}: exists and is no unfinished store: choose another path")
    (root / WRITING).mkdir(parents=True, exist_ok=True)
    lock = (root / WRITING / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(f"{root}: another process is writing this store") from error
    return lock


def _open_raw(path: Path) -> BinaryIO:
    return path.open("r+b" if path.exists() else "w+b")


def _journal_lines(root: Path) -> list[dict[str, Any]]:
    """The journal, but for a last line that was cut by a crash."""
    path = root / WRITING / JOURNAL
    text = path.read_bytes() if path.exists() else b""
    try:
        return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith(b"\n")]
    except ValueError as error:
        raise UserError(f"{path}: damaged ({error}): delete {root} and write it anew") from error


def _load(root: Path, header: Header) -> tuple[list[Episode], list[dict[str, FileEntry]]]:
    """Episodes and full shards of a store begun earlier; both empty for a new one."""
    lines = _journal_lines(root)
    if not lines:
        return [], []
    _check_same(root, lines[0], header.to_json())
    episodes = [Episode(**line["episode"]) for line in lines if "episode" in line]
    shards = [line["shard"] for line in lines if "shard" in line]
    return episodes, [{key: FileEntry(**entry) for key, entry in shard.items()} for shard in shards]


def _check_same(root: Path, begun: dict[str, Any], asked: dict[str, Any]) -> None:
    if begun.get("schema") != SCHEMA:
        raise UserError(f"{root}: begun with schema version {begun.get('schema')}, this hjepa writes {SCHEMA}")
    old, new = dict(_flat(begun)), dict(_flat(asked))
    for key in (*old, *new):
        if old.get(key) != new.get(key):
            values = f"{old.get(key, 'nothing')} there, {new.get(key, 'nothing')} now"
            raise UserError(f"{root}: begun with another schema: {key} is {values}: use the same, or another path")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in content.items():
        if isinstance(value, dict) and value:
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_block(name: str, block: NDArray, spec: ArraySpec, source: str, done: int) -> None:
    if block.dtype != spec.dtype or block.shape[1:] != spec.shape or not block.ndim:
        want = f"{spec.dtype} (T, {', '.join(map(str, spec.shape))})"
        raise UserError(f"{source}: array {name!r} must be {want}, got {block.dtype} {block.shape}")
    if block.dtype.kind == "f" and not np.isfinite(block).all():
        step = int(np.argwhere(~np.isfinite(block))[0, 0])
        raise UserError(f"{source}: array {name!r} is NaN or infinite at step {done + step}")


def _checked_facts(source: str, attrs: Mapping[str, Any] | None) -> dict[str, str | int | float]:
    facts = dict(attrs or {})
    for key, value in facts.items():
        if type(value) not in (str, int, float, bool) or value != value or value in (float("inf"), -float("inf")):
            raise UserError(f"{source}: attrs[{key!r}] must be a string or a finite plain number, got {value!r}")
    return facts
