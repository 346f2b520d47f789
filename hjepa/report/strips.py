"""Rows of real frames with captions, as the template shows them."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hjepa.query import Futures, Moment, Near, Neighbours, Segment, View

SIDE, QUALITY = 144, 86  # pixels of the longer side, JPEG


@dataclass(frozen=True)
class Picture:
    """``image``: a data URI, empty for a gap; ``caption`` and ``note``: the two lines underneath."""

    image: str
    caption: str
    note: str = ""


@dataclass(frozen=True)
class Strip:
    """A row of pictures. ``level`` 0: not a level's."""

    title: str
    pictures: list[Picture]
    level: int = 0


def picture(frame: NDArray[np.uint8]) -> str:
    """(H, W, 3) -> a JPEG data URI of at most SIDE pixels."""
    image = Image.fromarray(np.ascontiguousarray(frame))
    scale = SIDE / max(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def of_moment(view: View, moment: Moment, note: str = "") -> Picture:
    return Picture(picture(view.frame(moment)), when(moment), note)


def when(moment: Moment) -> str:
    """'#2 38.40 s': the episode's number, and the seconds into it."""
    return f"#{moment.episode}  {moment.time_s:.2f} s"


def overview(view: View, count: int) -> Strip:
    """Frames spread evenly over the source."""
    rows = np.linspace(0, view.source.episodes[-1].stop - 1, count).astype(np.int64)
    return Strip("", [of_moment(view, view.moment(int(row))) for row in rows])


def neighbours(view: View, found: Neighbours) -> Strip:
    return Strip(f"level {found.level}", [_near(view, near) for near in found.found], found.level)


def futures(view: View, found: Futures) -> list[Strip]:
    """What happened, then what was expected, then samples of z."""
    true = [
        of_moment(view, moment, f"+{ahead:.2f} s") if moment else Picture("", "past the end", f"+{ahead:.2f} s")
        for moment, ahead in zip(found.true, found.ahead_s, strict=True)
    ]
    strips = [Strip("happened", [of_moment(view, found.now, "now"), *true], found.level)]
    for number, future in enumerate(found.futures):
        name = "with z drawn" if number else "expected"
        near = [_expected(view, n, e) for n, e in zip(future.nearest, future.error, strict=True)]
        strips.append(Strip(name, [Picture("", "", ""), *near], found.level))
    return strips


def segments(view: View, found: Sequence[Segment], most: int) -> Strip:
    """The middle frame of the segments that the strongest surprises opened, in order."""
    strongest = sorted(found, key=lambda s: -(s.surprise or 0))[:most]
    shown = sorted(strongest, key=lambda s: s.start_s)
    frames = view.frames([(s.first_row + s.stop_row) // 2 for s in shown])
    cells = [
        Picture(
            picture(frame), f"{s.start_s:.1f} to {s.stop_s:.1f} s", f"surprise {s.surprise:.1f}" if s.surprise else ""
        )
        for s, frame in zip(shown, frames, strict=True)
    ]
    count = f"{len(shown)} of {len(found)}" if len(shown) < len(found) else str(len(found))
    return Strip(f"level {found[0].level}: {count} segment{'s' * (len(found) > 1)}", cells, found[0].level)


def _near(view: View, near: Near) -> Picture:
    return of_moment(view, near.moment, f"distance {near.distance:.2f}")


def _expected(view: View, near: Near, error: float | None) -> Picture:
    return of_moment(view, near.moment, "" if error is None else f"error {error:.2f}")
