"""A picture of a store: frames spread evenly over it, with where and when they are from."""

from __future__ import annotations

from pathlib import PurePath

import numpy as np
from PIL import Image, ImageDraw

from hjepa.data.store import Store
from hjepa.errors import UserError

CELL = 128  # pixels a frame is shown with, at least
CAPTION = 28  # pixels underneath for two lines
GAP = 4
CHARACTERS = 20  # of the source's name that fit under the smallest cell


def contact_sheet(store: Store, columns: int, rows: int, array: str = "frames") -> Image.Image:
    """columns x rows frames, evenly spread over the store's steps, each with its source and time underneath.

    Raises:
        UserError: the array does not hold pictures, or there is nothing to show.
    """
    if columns < 1 or rows < 1:
        raise UserError(f"a contact sheet needs at least one column and row, got {columns} and {rows}")
    last = store.episodes[-1].stop - 1
    shown = np.linspace(0, last, min(columns * rows, last + 1)).astype(np.int64)
    frames = store.read(array, shown)
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8:
        raise UserError(f"{store.path}: array {array!r} holds no RGB pictures")
    scale = max(1, -(-CELL // min(frames.shape[1:3])))
    height, width = (scale * n for n in frames.shape[1:3])
    sheet = Image.new("RGB", (columns * (width + GAP) + GAP, rows * (height + CAPTION) + GAP), "white")
    for number, (frame, row) in enumerate(zip(frames, shown.tolist(), strict=True)):
        x, y = GAP + number % columns * (width + GAP), GAP + number // columns * (height + CAPTION)
        sheet.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.NEAREST), (x, y))
        ImageDraw.Draw(sheet).multiline_text((x, y + height + 1), _caption(store, row), fill="black", spacing=1)
    return sheet


def _caption(store: Store, row: int) -> str:
    episode = next(e for e in store.episodes if row < e.stop)
    return f"{PurePath(episode.source).name[-CHARACTERS:]}\n{(row - episode.start) / store.rate_hz:.1f} s"
