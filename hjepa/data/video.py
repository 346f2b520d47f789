"""Video files to constant-rate blocks of RGB frames, checked: the only place in hjepa that trusts a decoder.

decord decodes by default. It is silently wrong on some files (MPEG-TS, edit lists, B-frames in avi), so every file is
first decoded once with PyAV, in order, without converting colours: that gives the number of frames that decode, the
time of each, and a few pictures to hold decord against. Where the two differ, PyAV decodes the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Literal, get_args

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image as Pillow

from hjepa.data import decoders
from hjepa.data.decoders import DecordReader, Header, Image, PyAVReader
from hjepa.errors import UserError, nearest

Crop = Literal["center", "none"]

SAMPLES = 8  # pictures compared between the decoders, besides the last one
SAMPLE_SIDE = 256  # at most this many rows and columns of each, taken without averaging
SAME_PICTURE = 1.0  # mean absolute difference in grey levels; one picture decoded twice differs by 0.0-0.2
MAX_GAP_S = 60.0  # a longer jump of the clock is taken for damage
ON_GRID = 0.25  # a constant rate shows every frame within this many frame intervals of its time
FALLBACK_HZ = 25.0  # of a file that neither declares a rate nor has two frames
# decord decodes ahead without limit where its caller is slower (dmlc/decord issues 157, 208): so much memory may fill.
DECORD_BYTES = 2**30
BLOCK_BYTES = 64 * 2**20  # a block is cut shorter than asked where its frames are large


@dataclass(frozen=True)
class VideoInfo:
    """What a video file really holds, as opposed to what its header says."""

    path: Path
    frames: int  # that decode
    rate_hz: float  # see _native_rate for files whose rate varies
    height: int  # pixels, as displayed (rotation applied)
    width: int
    duration_s: float  # from the first frame's time to the end of the last
    decoder: str  # "decord", or "pyav" where decord cannot be trusted with this file
    notes: tuple[str, ...]  # oddities, one line each


@dataclass(frozen=True, eq=False)
class _Scan:
    """A file decoded once from end to end by PyAV."""

    info: VideoInfo
    times_s: NDArray[np.float64]  # (frames,) increasing, from 0
    tick_s: float  # resolution of the container's clock
    constant: bool  # frame k is displayed at k / rate_hz
    damaged: bool
    samples: dict[int, Image]  # frame index -> thinned picture

    @property
    def path(self) -> Path:
        return self.info.path

    def agrees(self, index: int, frame: Image) -> bool:
        """Whether `frame` is the picture PyAV found at `index`; True where that one was not kept."""
        kept = self.samples.get(index)
        if kept is None:
            return True
        seen = _thin(frame)
        return kept.shape == seen.shape and bool(np.abs(kept.astype(np.int16) - seen).mean() <= SAME_PICTURE)


def probe(path: Path | str) -> VideoInfo:
    """Decode the file once and say what is in it. UserError where nothing decodes."""
    return _scan(path).info


def read_video(
    path: Path | str,
    *,
    rate_hz: float | None = None,
    size: tuple[int, int] | None = None,
    crop: Crop = "center",
    block: int = 256,
) -> Iterator[Image]:
    """Blocks (T, H, W, 3) uint8 RGB at a constant rate; T <= `block`, less where a block would exceed 64 MiB.

    Frame k is the one displayed k / `rate_hz` seconds after the first frame appeared. None keeps the file's own rate,
    so that a file of constant rate comes out frame for frame. `size` is (height, width), None the file's own; "center"
    cuts the largest centred rectangle of that shape before scaling down, "none" squeezes.
    UserError: illegal arguments (at once), nothing decodes (at once), the file fails later than it did at first.
    """
    check_preprocessing(rate_hz, size, crop)
    if block < 1:
        raise UserError(f"block is {block}; legal: at least 1 frame")
    scan = _scan(path)
    repeats = np.bincount(_shown(scan, rate_hz or scan.info.rate_hz), minlength=scan.info.frames)
    height, width = size or (scan.info.height, scan.info.width)
    block = max(1, min(block, BLOCK_BYTES // (height * width * 3)))
    return _blocks(scan, repeats, (height, width), crop, block)


def check_preprocessing(rate_hz: float | None, size: tuple[int, int] | None, crop: str) -> None:
    """UserError where one of them is illegal, see read_video."""
    if rate_hz is not None and not (math.isfinite(rate_hz) and rate_hz > 0):
        raise UserError(f"rate_hz is {rate_hz}; legal: a positive number of frames per second, or None")
    if size is not None and min(size) < 1:
        raise UserError(f"size is {size}; legal: (height, width), both at least 1 pixel")
    if crop not in get_args(Crop):
        raise UserError(f"crop is {crop!r}; {nearest(crop, get_args(Crop))}")


# ---- the scan: what is in the file, and who may decode it


def _scan(path: Path | str) -> _Scan:
    path = Path(path)
    if not path.is_file():  # also keeps ffmpeg from taking the name for a URL, a pipe or a device
        raise UserError(f"{path}: {'not a file' if path.exists() else 'no such file'}; legal: a video file")
    stat = path.stat()
    return _cached_scan(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=8)  # probe, then read_video: one scan. The arguments change when the file does.
def _cached_scan(path: Path, size: int, mtime_ns: int) -> _Scan:
    if size == 0:
        raise UserError(f"{path}: empty file (0 bytes); legal: a video file")
    scan = _scan_with_pyav(path)
    complaint = _why_not_decord(scan)
    if complaint is None:
        return scan
    notes = (*scan.info.notes, f"decoded by pyav: {complaint}")
    return replace(scan, info=replace(scan.info, decoder=PyAVReader.name, notes=notes))


def _scan_with_pyav(path: Path) -> _Scan:
    reader, pictures = PyAVReader(path), _Samples()
    stamps: list[tuple[int | None, int | None]] = []
    try:
        header = decoders.read_header(path)
        for picture in reader.pictures():
            stamps.append((picture.pts, picture.dts))
            pictures.add(picture)
    except decoders.NoVideoError:
        raise UserError(f"{path}: holds no video stream; legal: a file with moving pictures") from None
    except PyAVReader.errors as error:
        raise UserError(f"{path}: not readable as video ({_line(error)}); legal: any file ffmpeg decodes") from None
    if not stamps:
        why = reader.faults[0] if reader.faults else "it is cut short"
        raise UserError(f"{path}: no frame decodes ({why}); legal: a whole file of a codec ffmpeg decodes")
    stamps_s = _clock(np.array(stamps, np.float64)) * header.tick_s
    return _summary(path, header, stamps_s, pictures, reader.faults)


def _summary(path: Path, header: Header, stamps_s: NDArray[np.float64], pictures: _Samples, faults: list[str]) -> _Scan:
    times_s, guessed = _repair(stamps_s, header.rates_hz)
    rate_hz, constant = _native_rate(times_s, header.rates_hz)
    if constant:  # exact, where the container's clock rounded
        times_s = np.arange(len(times_s)) / rate_hz
    length_s = float(times_s[-1]) + 1 / rate_hz
    height, width, samples = pictures.finish()
    notes = list(_header_notes(header, len(times_s), length_s))
    if faults:
        notes.append(f"{len(faults)} damaged packets ({', '.join(sorted(set(faults)))})")
    if guessed:
        notes.append(f"{guessed} timestamps missing, repeated or over {MAX_GAP_S:.0f} s apart, guessed")
    if not constant:
        notes.append(f"the frame rate varies, {rate_hz:.6g} Hz is its usual one")
    info = VideoInfo(path, len(times_s), rate_hz, height, width, length_s, DecordReader.name, tuple(notes))
    return _Scan(info, times_s, header.tick_s, constant, bool(faults), samples)


def _header_notes(header: Header, frames: int, length_s: float) -> Iterator[str]:
    if header.frames not in (0, frames):
        yield f"the header says {header.frames} frames, {frames} decode"
    if not header.frames and header.length_s - length_s > max(1.0, 0.05 * length_s):  # sound may be a little longer
        yield f"the header says {header.length_s:.1f} s, the pictures end after {length_s:.1f} s"
    if header.pixel_aspect not in ("", "0", "1"):
        yield f"pixels are not square ({header.pixel_aspect}), taken as square"


class _Samples:
    """Up to SAMPLES pictures spread over a file of unknown length, and its last one."""

    def __init__(self) -> None:
        self._kept: dict[int, Image] = {}
        self._every = 1
        self._count = 0
        self._last: av.VideoFrame | None = None

    def add(self, picture: av.VideoFrame) -> None:
        if self._count % self._every == 0:
            self._kept[self._count] = _thin(decoders.upright(picture))
        if len(self._kept) > SAMPLES:
            self._every *= 2
            self._kept = {index: kept for index, kept in self._kept.items() if index % self._every == 0}
        self._last = picture
        self._count += 1

    def finish(self) -> tuple[int, int, dict[int, Image]]:
        """Height and width of the pictures, upright; index -> thinned picture, in order."""
        assert self._last is not None
        last = decoders.upright(self._last)
        return *last.shape[:2], {**self._kept, self._count - 1: _thin(last)}


def _thin(frame: Image) -> Image:
    """A grid of its pixels: averaging would hide the small difference between neighbouring frames."""
    down, across = (-(-side // SAMPLE_SIDE) for side in frame.shape[:2])
    return frame[::down, ::across].copy()


def _why_not_decord(scan: _Scan) -> str | None:
    """Why decord must not decode this file, or None where it agrees with PyAV."""
    if scan.damaged:
        return "the file is damaged"
    info = scan.info
    if info.frames * info.height * info.width * 3 > DECORD_BYTES:
        return "decord may hold all of a file's frames in memory, and these are too many"
    try:
        video = DecordReader(scan.path).open()
        if len(video) != info.frames:
            return f"decord counts {len(video)} frames, {info.frames} decode"
        stamps_s = video.get_frame_timestamp(np.arange(len(video)))[:, 0].astype(np.float64)
        if np.abs(stamps_s - stamps_s[0] - scan.times_s).max() > ON_GRID / info.rate_hz + scan.tick_s:
            return "decord's timestamps differ"
        wrong = [index for index in scan.samples if not scan.agrees(index, video[index].asnumpy())]
        return f"decord's frame {wrong[0]} is another picture" if wrong else None
    except DecordReader.errors as error:
        return f"decord fails ({_line(error)})"


def _line(error: BaseException) -> str:
    """The first line of a library's message, without its own sources' line numbers."""
    text = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), "") or type(error).__name__
    return re.sub(r"(\[[^]]*\]\s*)?\S+\.(cc|h):\d+:\s*", "", text)[:120]


# ---- time: which frame is displayed when


def _clock(stamps: NDArray[np.float64]) -> NDArray[np.float64]:
    """(frames,) ticks, NaN where unknown, of (frames, 2) presentation and decoding stamps.

    Presentation stamps, unless they go backwards more often than those of decoding: old avi files carry scrambled ones.
    """
    backward = (np.diff(stamps, axis=0) <= 0).sum(axis=0)
    return stamps[:, 1] if backward[0] > backward[1] else stamps[:, 0]


def _repair(stamps_s: NDArray[np.float64], declared_hz: Sequence[float]) -> tuple[NDArray[np.float64], int]:
    """Times that start at 0 and increase, and how many of them had to be guessed."""
    known = np.flatnonzero(np.isfinite(stamps_s))
    unknown = len(stamps_s) - len(known)
    if len(known):  # spread the unknown evenly between the known; those before and behind come out equal
        stamps_s = np.interp(np.arange(len(stamps_s)), known, stamps_s[known])
    gaps = np.diff(stamps_s)
    sound = (gaps > 0) & (gaps <= MAX_GAP_S)
    usual = float(np.median(gaps[sound])) if sound.any() else 1 / next(iter(declared_hz), FALLBACK_HZ)
    times_s = np.concatenate([[0.0], np.cumsum(np.where(sound, gaps, usual))])
    return times_s, max(unknown, int((~sound).sum()))


def _native_rate(times_s: NDArray[np.float64], declared_hz: Sequence[float]) -> tuple[float, bool]:
    """The file's own frames per second, and whether it keeps them throughout.

    A constant rate is the declared one where the timestamps bear it out, otherwise the measured average. Where the rate
    varies it is that of the median gap between frames, so that the usual motion keeps its speed per frame.
    """
    if len(times_s) == 1:
        return next(iter(declared_hz), FALLBACK_HZ), True
    order = np.arange(len(times_s))
    measured = order[-1] / times_s[-1]
    for rate in (*(rate for rate in declared_hz if _close(rate, measured, 0.02)), float(measured)):
        if np.abs(times_s * rate - order).max() <= ON_GRID:
            return rate, True
    usual = round(1 / float(np.median(np.diff(times_s))), 6)
    return next((rate for rate in declared_hz if _close(rate, usual, 0.05)), usual), False


def _close(one: float, other: float, share: float) -> bool:
    return abs(one - other) <= share * other


def _shown(scan: _Scan, rate_hz: float) -> NDArray[np.int64]:
    """(T,) the frame of the file displayed at each k / rate_hz, up to the end of its last frame."""
    if scan.constant and _close(rate_hz, scan.info.rate_hz, 1e-5):
        return np.arange(scan.info.frames)
    steps = max(1, math.ceil(scan.info.duration_s * rate_hz - 1e-6))
    # Half a tick, for the container rounded; but avi's tick is a whole frame, and is exact.
    tolerance = min(max(scan.tick_s / 2, 1e-6), 5e-4)
    return np.searchsorted(scan.times_s, np.arange(steps) / rate_hz + tolerance, side="right") - 1


# ---- pixels: decode, scale, block


def _blocks(scan: _Scan, repeats: NDArray[np.int64], size: tuple[int, int], crop: Crop, block: int) -> Iterator[Image]:
    """`repeats[i]` copies of frame i of the file, scaled, in blocks of at most `block`."""
    filled, out = 0, np.empty((block, *size, 3), np.uint8)
    for frame, copies in zip(_decode(scan), repeats, strict=True):
        fitted = fit(frame, size, crop) if copies else frame
        for _ in range(copies):
            out[filled] = fitted
            filled += 1
            if filled == block:
                yield out
                filled, out = 0, np.empty_like(out)
    if filled:
        yield out[:filled]


def _decode(scan: _Scan) -> Iterator[Image]:
    """Exactly the frames the scan counted, checked again as they pass."""
    done, total = 0, scan.info.frames
    try:
        if scan.info.decoder == DecordReader.name:
            for frame in _agreeing(scan):
                yield frame
                done += 1
    except DecordReader.errors:
        pass  # what came until here was right: PyAV goes on behind it
    try:
        for frame in islice(PyAVReader(scan.path).frames(), done, total) if done < total else ():
            yield frame
            done += 1
    except PyAVReader.errors as error:
        raise UserError(f"{scan.path}: frame {done} of {total} no longer decodes ({_line(error)})") from None
    if done < total:
        raise UserError(f"{scan.path}: {done} of {total} frames decode now; legal: a file nobody writes meanwhile")


def _agreeing(scan: _Scan) -> Iterator[Image]:
    for index, frame in enumerate(islice(DecordReader(scan.path).frames(), scan.info.frames)):
        if not scan.agrees(index, frame):
            raise UserError(f"{scan.path}: decord's frame {index} is not PyAV's; legal: convert the file to mp4 (h264)")
        yield frame


def fit(frame: Image, size: tuple[int, int], crop: Crop) -> Image:
    """One (H, W, 3) frame at `size` (height, width), antialiased. The same for every decoder and for live pictures."""
    height, width = size
    full_height, full_width = frame.shape[:2]
    if (full_height, full_width) == size:
        return frame
    cut_height, cut_width = float(full_height), float(full_width)
    if crop == "center":
        scale = min(full_height / height, full_width / width)
        cut_height, cut_width = min(height * scale, cut_height), min(width * scale, cut_width)
    left, top = (full_width - cut_width) / 2, (full_height - cut_height) / 2
    box = (left, top, left + cut_width, top + cut_height)
    # reducing_gap averages whole pixels down to twice the size first: as good as Lanczos alone, four times as fast.
    return np.asarray(Pillow.fromarray(frame).resize((width, height), Pillow.Resampling.LANCZOS, box, reducing_gap=2.0))
