"""Video files into one store: decoded once, scaled and resampled on the way, so that training never decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isclose
from pathlib import Path, PurePath

import numpy as np
from numpy.typing import NDArray

from hjepa.data.store import ArraySpec, Episode, Store, StoreWriter
from hjepa.data.video import Crop, VideoInfo, check_preprocessing, probe, read_video
from hjepa.errors import UserError

# What a folder is searched for; a file named outright may end in anything.
SUFFIXES = tuple(
    f".{ending}"
    for ending in (
        *("3gp", "avi", "flv", "gif", "m2ts", "m4v", "mkv", "mov", "mp4"),
        *("mpeg", "mpg", "mts", "ogv", "ts", "vob", "webm", "wmv"),
    )
)


@dataclass(frozen=True)
class FileReport:
    """What became of one file."""

    source: str  # its name in the store
    ok: bool
    error: str = ""  # one line; the store holds nothing of this file
    decoder: str = ""
    frames_in: int = 0  # that decode
    frames_out: int = 0  # steps in the store, after resampling
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class IngestReport:
    """What became of every file, in the order given."""

    path: Path  # of the store
    rate_hz: float
    files: tuple[FileReport, ...]

    @property
    def failed(self) -> tuple[FileReport, ...]:
        return tuple(file for file in self.files if not file.ok)

    @property
    def frames(self) -> int:
        """Steps in the store."""
        return sum(file.frames_out for file in self.files)

    def __str__(self) -> str:
        done = len(self.files) - len(self.failed)
        return "\n".join(
            [
                *map(_text, self.files),
                f"{done} of {len(self.files)} files, {self.frames} frames at {self.rate_hz:.6g} Hz in {self.path}",
            ]
        )


@dataclass(frozen=True)
class Progress:
    """Given to `on_progress` after every block."""

    source: str
    file: int  # from 0
    files: int
    frames: int  # of this file, written so far
    expected: int


def ingest(
    videos: Sequence[Path],
    out: Path,
    *,
    size: int | tuple[int, int] = 64,
    rate_hz: float | None = None,
    crop: Crop = "center",
    on_progress: Callable[[Progress], None] | None = None,
) -> IngestReport:
    """Write every video as one episode of a new store at `out`, array `frames` (H, W, 3) uint8 RGB.

    Folders stand for the videos below them. `size` is (height, width), or one number for a square; `rate_hz` None takes
    the first readable file's own rate for all. A file that does not decode is reported and left out. Run again after an
    interruption, it goes on behind the last whole file.
    `attrs["preprocessing"]` of the store holds height, width, crop and rate_hz: what a model needs to treat another
    video alike.
    UserError: illegal arguments, no such file, no file decodes, `out` is taken or full.
    """
    size = (size, size) if isinstance(size, int) else size
    check_preprocessing(rate_hz, size, crop)
    files = named(videos)
    rate_hz = _store_rate(files, rate_hz)
    errors: dict[str, str] = {}
    with _writer(out, size, rate_hz, crop) as writer:
        for number, (source, path) in enumerate(files.items()):
            if source in writer.sources():
                continue
            try:
                for written, info in _add(writer, source, path, size, rate_hz, crop):
                    if on_progress:
                        expected = round(info.duration_s * rate_hz)
                        on_progress(Progress(source, number, len(files), written, expected))
            except _ReadError as error:
                errors[source] = str(error)
        if not writer.sources():
            raise _none_readable(errors.values())
        writer.finish()
    return _report(Store.open(out), files, errors)


class _ReadError(Exception):
    """This one file cannot be read; a UserError of the store's (disk full) must not be taken for that."""


def _writer(out: Path, size: tuple[int, int], rate_hz: float, crop: Crop) -> StoreWriter:
    height, width = size
    preprocessing = {"height": height, "width": width, "crop": crop, "rate_hz": rate_hz}
    frames = ArraySpec("uint8", (height, width, 3), "rgb 0-255", "video frames, upright")
    return StoreWriter(out, rate_hz=rate_hz, arrays={"frames": frames}, attrs={"preprocessing": preprocessing})


def _store_rate(files: dict[str, Path], rate_hz: float | None) -> float:
    """The store's rate; finds out before anything is written whether any file can be read at all."""
    errors = []
    for path in files.values():
        try:
            info = probe(path)
        except UserError as error:
            errors.append(str(error))
        else:
            return rate_hz or info.rate_hz
    raise _none_readable(errors)


def _none_readable(errors: Iterable[str]) -> UserError:
    return UserError("none of the videos can be read:\n" + "\n".join(f"  {line}" for line in errors))


def _add(
    writer: StoreWriter, source: str, path: Path, size: tuple[int, int], rate_hz: float, crop: Crop
) -> Iterator[tuple[int, VideoInfo]]:
    """Write one episode; yields the steps written so far after every block."""
    try:
        info = probe(path)
    except UserError as error:
        raise _ReadError(error) from None
    with writer.episode(source, _facts(info, rate_hz)) as episode:
        for block in _read(path, size, rate_hz, crop):
            episode.append(frames=block)
            yield episode.steps, info


def _read(path: Path, size: tuple[int, int], rate_hz: float, crop: Crop) -> Iterator[NDArray[np.uint8]]:
    try:
        yield from read_video(path, rate_hz=rate_hz, size=size, crop=crop)
    except UserError as error:
        raise _ReadError(error) from None


def _facts(info: VideoInfo, rate_hz: float) -> dict[str, str | int | float]:
    notes = info.notes
    if not isclose(info.rate_hz, rate_hz, rel_tol=1e-5):
        notes = (*notes, f"resampled from {info.rate_hz:.6g} to {rate_hz:.6g} Hz")
    return {
        "decoder": info.decoder,
        "frames_in": info.frames,
        "file_rate_hz": info.rate_hz,
        "file_height": info.height,
        "file_width": info.width,
        "notes": "\n".join(notes),
    }


def _report(store: Store, files: dict[str, Path], errors: dict[str, str]) -> IngestReport:
    """Told from the sealed store, so that it also speaks of files an earlier, interrupted run wrote."""
    episodes = {episode.source: episode for episode in store.episodes}
    reports = [
        FileReport(source, False, errors[source]) if source in errors else _ok(episodes[source]) for source in files
    ]
    return IngestReport(store.path, store.rate_hz, tuple(reports))


def _ok(episode: Episode) -> FileReport:
    notes = tuple(str(episode.attrs["notes"]).splitlines())
    decoder, frames_in = str(episode.attrs["decoder"]), int(episode.attrs["frames_in"])
    return FileReport(episode.source, True, "", decoder, frames_in, episode.length, notes)


def _text(file: FileReport) -> str:
    if not file.ok:
        return f"{file.source}: left out: {file.error}"
    notes = "".join(f"\n    {note}" for note in file.notes)
    return f"{file.source}: {file.frames_in} frames read ({file.decoder}), {file.frames_out} written{notes}"


# ---- names


def named(videos: Sequence[Path]) -> dict[str, Path]:
    """Source name -> file, in the order given, folders expanded and sorted, each file once.

    A name is the path below the folder given, or the file's own; where two files would share it, as many of the folders
    above are put in front as tell them apart. UserError: nothing given, no such file, a folder without videos.
    """
    if not videos:
        raise UserError("no videos given; legal: video files, or folders that hold some")
    parts: dict[Path, int] = {}  # absolute path -> how many of its last parts make its name
    seen: set[Path] = set()
    for path, depth in (found for video in videos for found in _expand(Path(video))):
        if path.resolve() not in seen:
            seen.add(path.resolve())
            parts[path.absolute()] = depth
    return _told_apart(parts)


def _expand(video: Path) -> list[tuple[Path, int]]:
    if not video.exists():
        raise UserError(f"{video}: no such file or folder; legal: video files, or folders that hold some")
    if not video.is_dir():
        return [(video, 1)]
    below = [path.relative_to(video) for path in video.rglob("*") if _is_video(path)]
    if not below:
        raise UserError(f"{video}: no videos in this folder; legal endings: {', '.join(SUFFIXES)}")
    return [(video / path, len(path.parts)) for path in sorted(below, key=PurePath.as_posix)]


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _told_apart(parts: dict[Path, int]) -> dict[str, Path]:
    while True:
        names: dict[str, list[Path]] = {}
        for path, depth in parts.items():
            names.setdefault("/".join(path.parts[1:][-depth:]), []).append(path)
        clashing = [path for same in names.values() if len(same) > 1 for path in same]
        if not clashing:
            return {name: path for name, (path,) in names.items()}
        parts = {path: depth + (path in clashing) for path, depth in parts.items()}
