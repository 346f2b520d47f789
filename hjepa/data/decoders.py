"""Two video decoders behind one small interface: decord (fast to random access) and PyAV (the reference).

Both give the pictures of a file's best video stream in display order, full size, upright, as uint8 RGB. Neither
resamples in time or space: that is for hjepa/data/video.py. A reader opens its file when it is iterated and closes it
when the iteration ends, so it can be made before a fork and used after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import av
import decord
import numpy as np
from av.sidedata.sidedata import Type as SideData
from numpy.typing import NDArray

# Both libraries write ffmpeg's remarks to the terminal, hundreds of lines for one damaged file. What matters of them is
# found by counting and comparing.
av.logging.set_level(None)
decord.logging.set_level(decord.logging.QUIET)

Image = NDArray[np.uint8]  # (H, W, 3) RGB

OPEN_S, READ_S = 30.0, 30.0  # longest wait for a file system, in seconds, before PyAV gives up


class NoVideoError(Exception):
    """The file opens but holds no moving pictures."""


class Reader(Protocol):
    """Sequential access to one file."""

    name: str
    errors: tuple[type[Exception], ...]  # what it raises where a file defeats it

    def frames(self) -> Iterator[Image]:
        """Every picture, (H, W, 3) uint8 RGB, in display order."""
        ...


class PyAVReader:
    """ffmpeg as PyAV binds it: right on every container tried, so it is the one that is believed."""

    name = "pyav"
    errors: tuple[type[Exception], ...] = (av.FFmpegError, ValueError)

    def __init__(self, path: Path) -> None:
        self.path = path
        self.faults: list[str] = []  # what ffmpeg could not decode, filled while iterating

    def frames(self) -> Iterator[Image]:
        return map(upright, self.pictures())

    def pictures(self) -> Iterator[av.VideoFrame]:
        """Every picture as decoded, not yet converted to RGB, which costs as much again.

        Damage is recorded in `faults` and decoding goes on behind it. Raises av.FFmpegError where the file does not
        open, NoVideoError where it holds none.
        """
        self.faults.clear()
        with _open(self.path) as container:
            stream = best_stream(container)
            stream.thread_type = "AUTO"
            for packet in self._packets(container.demux(stream)):
                try:
                    pictures = packet.decode()
                except av.FFmpegError as error:
                    self.faults.append(error.strerror or str(error))
                    continue
                yield from pictures

    def _packets(self, packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
        """The same, ending where the container is broken beyond going on."""
        while True:
            try:
                packet = next(packets)
            except StopIteration:
                return
            except av.FFmpegError as error:
                self.faults.append(error.strerror or str(error))
                return
            yield packet


def _open(path: Path) -> av.container.InputContainer:
    return av.open(str(path), "r", timeout=(OPEN_S, READ_S), metadata_errors="replace")


def best_stream(container: av.container.InputContainer) -> av.VideoStream:
    """The video stream ffmpeg would play; NoVideoError where there is none (a song's cover is none)."""
    stream = container.streams.best("video")
    if not isinstance(stream, av.VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
        raise NoVideoError
    return stream


@dataclass(frozen=True)
class Header:
    """What the container claims."""

    frames: int  # 0 where it does not say
    length_s: float  # of its longest stream, 0 where it does not say
    rates_hz: tuple[float, ...]  # best first; may be empty
    tick_s: float  # resolution of its timestamps
    pixel_aspect: str  # width to height of one pixel, "" where it does not say


def read_header(path: Path) -> Header:
    """Raises as PyAVReader.pictures does."""
    with _open(path) as container:
        stream = best_stream(container)
        rates = tuple(float(rate) for rate in (stream.average_rate, stream.guessed_rate) if rate)
        aspect = str(stream.sample_aspect_ratio or "")
        length_s = (container.duration or 0) / av.time_base
        return Header(stream.frames, length_s, rates, float(stream.time_base or 1e-3), aspect)


def upright(picture: av.VideoFrame) -> Image:
    """RGB with the file's display matrix applied: phones film sideways and say so; PyAV leaves that to its caller."""
    pixels = np.asarray(picture.to_ndarray(format="rgb24"), np.uint8)
    try:
        side = cast(Any, picture.side_data)[SideData.DISPLAYMATRIX]  # av's stub knows but one kind
    except KeyError:
        return pixels
    # ffmpeg's row-vector matrix, 16.16 fixed point: x' = a x + c y, y' = b x + d y.
    (a, b), (c, d) = np.frombuffer(bytes(side), np.int32).reshape(3, 3)[:2, :2].tolist()
    if abs(b) > abs(a):
        pixels, a, d = pixels.transpose(1, 0, 2), c, b
    return np.ascontiguousarray(pixels[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1])


class DecordReader:
    """decord2: as fast as PyAV in sequence and converting as it goes, but silently wrong on some containers."""

    name = "decord"
    errors: tuple[type[Exception], ...] = (decord.DECORDError, RuntimeError, AssertionError, IndexError)

    def __init__(self, path: Path) -> None:
        self.path = path

    def open(self) -> decord.VideoReader:
        return decord.VideoReader(str(self.path))

    def frames(self) -> Iterator[Image]:
        video = self.open()
        for _ in range(len(video)):
            yield video.next().asnumpy()
