"""Frames in rows, with captions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

GAP = 4  # pixels between cells
LINE = 12  # pixels a line of text
CHARACTER = 6  # pixels a character, about


@dataclass(frozen=True)
class Cell:
    """A frame (H, W, 3) uint8, or None for an empty place, and the lines under it."""

    frame: NDArray[np.uint8] | None
    caption: str = ""


@dataclass(frozen=True)
class Row:
    """Cells from left to right, and the title over them."""

    cells: Sequence[Cell]
    title: str = ""


def grid(rows: Sequence[Row], side: int = 128) -> Image.Image:
    """Rows of frames under one another, every frame enlarged to about ``side`` pixels or shrunk to them.

    Lines that do not fit are cut. All frames must have the same shape.

    Raises:
        ValueError: not a single frame.
    """
    frames = [cell.frame for row in rows for cell in row.cells if cell.frame is not None]
    if not frames:
        raise ValueError("a picture needs at least one frame")
    width, height = _shown(frames[0], side)
    lines = max(cell.caption.count("\n") + 1 if cell.caption else 0 for row in rows for cell in row.cells)
    tall = height + lines * LINE + 2 * GAP
    title = LINE + GAP if any(row.title for row in rows) else 0
    across = GAP + max(len(row.cells) for row in rows) * (width + GAP)
    sheet = Image.new("RGB", (across, GAP + len(rows) * (title + tall)), "white")
    for number, row in enumerate(rows):
        top = GAP + number * (title + tall)
        _write(sheet, GAP, top, row.title, across - 2 * GAP)
        for place, cell in enumerate(row.cells):
            _paste(sheet, GAP + place * (width + GAP), top + title, cell, (width, height))
    return sheet


def wrapped(cells: Sequence[Cell], columns: int, title: str = "") -> list[Row]:
    """Cells broken into rows of at most ``columns``; the title stands over the first."""
    parts = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    return [Row(part, title if number == 0 else "") for number, part in enumerate(parts)]


def _shown(frame: NDArray, side: int) -> tuple[int, int]:
    """(width, height) on the sheet: whole multiples, so that pixels stay square, or scaled down."""
    height, width = frame.shape[:2]
    scale = side / max(height, width)
    scale = max(1, int(scale)) if scale >= 1 else scale
    return max(1, round(width * scale)), max(1, round(height * scale))


def _paste(sheet: Image.Image, x: int, y: int, cell: Cell, size: tuple[int, int]) -> None:
    if cell.frame is not None:
        enlarging = size[1] >= cell.frame.shape[0]
        how = Image.Resampling.NEAREST if enlarging else Image.Resampling.BOX
        sheet.paste(Image.fromarray(np.ascontiguousarray(cell.frame)).resize(size, how), (x, y))
    for number, line in enumerate(cell.caption.split("\n")):
        _write(sheet, x, y + size[1] + 1 + number * LINE, line, size[0])


def _write(sheet: Image.Image, x: int, y: int, text: str, width: int) -> None:
    ImageDraw.Draw(sheet).text((x, y), text[: max(1, width // CHARACTER)], fill="black")
