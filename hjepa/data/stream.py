"""Clips of a store in a global order that is a pure function of (store, seed, epoch, position).

Neither ranks nor workers nor an interruption change what the n-th global batch holds. A clip is named by the row of
its last frame, *now*; the clock says which frames before it are read, this file only adds those offsets to a row.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from hjepa.data.store import Store
from hjepa.errors import UserError, nearest

Rows = NDArray[np.int64]
Part = Literal["train", "held_back", "all"]
Hold = Literal["tail", "episodes"]

ACTIONS = "actions"
AUGMENT = 1  # keeps the draws of flips and shifts apart from those of the order


@dataclass(frozen=True)
class Clip:
    """What training and evaluation read: b clips of F items, on the CPU until moved.

    Attributes:
        inputs: (B, F, H, W, C) uint8 frames, or (B, F, D) float32 states of the level below.
        present: (B, F) bool: False where the episode (or its part) had not begun; there its first row is repeated.
        actions: (B, S, A) float32, the actions of the last S steps before now, or None.
        acted: (B, S) bool: False where the episode had not begun, or None.
        row: (B,) int64, absolute row of now.
    """

    inputs: Tensor
    present: Tensor
    actions: Tensor | None
    acted: Tensor | None
    row: Tensor

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Clip:
        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        actions, acted = (t if t is None else moved(t) for t in (self.actions, self.acted))
        return Clip(moved(self.inputs), moved(self.present), actions, acted, moved(self.row))

    def __len__(self) -> int:
        return len(self.row)


class Share(NamedTuple):
    """One rank's share of a global batch: the positions ``first`` to ``stop``, excluded, of an epoch's order."""

    epoch: int
    first: int
    stop: int


class ClipStream:
    """Clips of one array of a store, batched.

    Every episode part of E steps gives the anchors min(span, E)-1 .. E-1, counted from the part's first row, so each
    can be *now* at which a whole clip fits; a part shorter than a clip gives one, padded in front. Shuffled, an epoch
    is a permutation of all anchors, cut into batches; what is left over is dropped, so no batch mixes epochs. Fewer
    anchors than a batch: the permutation is repeated until it fills the epoch's one batch.

    Args:
        store: where from.
        array: "frames", or "states" of a latent store.
        span: steps from a clip's first to its last frame, both included (of ``crop.reading``).
        offsets: (F,) ascending steps into the clip that are read, the last of them now (of ``crop.reading``).
        action_steps: S, how many actions before now are read; 0 for none.
        batch: clips in a global batch, divisible by ``world``.
        seed: of the order, the flips and the shifts.
        part: "train", "held_back" or "all" of the store.
        held_back: fraction held back, at least 0 and below 1.
        hold: "tail": the last steps of every episode; "episodes": the last episodes, rounded up.
        shuffle: endless epochs, reshuffled by (seed, epoch); else one pass in the order of the rows.
        flip: mirror a clip's frames left to right, by a coin; only for stores without actions, which it would falsify.
        shift: move a clip's frames by up to so many pixels in both axes, repeating the edge.
        rank: which contiguous share of each global batch.
        world: number of ranks.
        workers: processes that read ahead; 0 reads in this one.

    Raises:
        UserError: an array that the store lacks, a batch that the ranks cannot share, a part without any step, or an
            augmentation that the store does not allow.
    """

    def __init__(
        self,
        store: Store,
        *,
        array: str,
        span: int,
        offsets: Rows,
        action_steps: int = 0,
        batch: int,
        seed: int = 0,
        part: Part = "all",
        held_back: float = 0.0,
        hold: Hold = "tail",
        shuffle: bool = True,
        flip: bool = False,
        shift: int = 0,
        rank: int = 0,
        world: int = 1,
        workers: int = 0,
    ) -> None:
        _check_arrays(store, array, action_steps, flip, shift)
        _check_sharing(batch, rank, world, seed)
        parts = episode_parts(store, part, held_back, hold)
        self._order = _Order(parts, span, seed, batch, shuffle)
        self._clips = _Clips(store, self._order, array, span, np.asarray(offsets, np.int64), action_steps, flip, shift)
        self._rank, self._world, self._workers = rank, world, workers

    def __len__(self) -> int:
        """Batches an epoch, the same for every rank."""
        return self._order.batches

    @property
    def anchors(self) -> int:
        """How many different clips the part holds."""
        return self._order.anchors

    def batches(self, start: int = 0) -> Iterator[Clip]:
        """This rank's clips from global step ``start`` on, endless if shuffled; what is skipped is not read.

        Not shuffled, the pass's last batch may be smaller; a rank may then get an empty clip, so that all ranks see
        equally many.

        Raises:
            UserError: a file of the store is missing or damaged; or a negative start.
        """
        if start < 0:
            raise UserError(f"a stream starts at step 0 or later, got {start}")
        shares = _Shares(self._order, self._rank, self._world, start)
        loader = DataLoader(
            self._clips,
            batch_size=None,
            sampler=shares,
            num_workers=self._workers,
            collate_fn=_as_is,
            generator=torch.Generator(),  # its own, or every call would advance torch's global one
        )
        with warnings.catch_warnings():
            # Workers are forked: they only read files and never touch the threads Python warns about.
            warnings.filterwarnings("ignore", message=".*multi-threaded, use of fork", category=DeprecationWarning)
            clips = iter(loader)
        for clip in clips:
            if isinstance(clip, UserError):
                raise clip
            yield clip


def episode_parts(store: Store, part: Part = "all", held_back: float = 0.0, hold: Hold = "tail") -> Rows:
    """(P, 2) first and stop row of every episode's share in the part, empty shares left out.

    "tail" keeps the first floor(length * (1 - held_back)) steps of every episode for training; "episodes" holds back
    the last ceil(held_back * number) episodes.

    Raises:
        UserError: nothing is left, or an unknown part, fraction or way to hold back.
    """
    _check_part(part, held_back, hold)
    rows = np.array([(e.start, e.stop) for e in store.episodes], np.int64)
    cut = _cuts(rows, held_back, hold)
    if part == "train":
        rows[:, 1] = cut
    elif part == "held_back":
        rows[:, 0] = cut
    kept = rows[rows[:, 1] > rows[:, 0]]
    if not len(kept):
        lengths = sorted({e.length for e in store.episodes})
        had = f"{len(store.episodes)} episodes of {lengths[0]} to {lengths[-1]} steps"
        raise UserError(f"{store.path}: no step in part {part!r} of {had}: held_back={held_back} by {hold} leaves none")
    return kept


def _cuts(rows: Rows, held_back: float, hold: Hold) -> Rows:
    """(E,) the first row of each episode that is held back; its stop where none is."""
    if hold == "tail":
        kept = np.floor(np.round((rows[:, 1] - rows[:, 0]) * (1 - held_back), 9))
        return rows[:, 0] + kept.astype(np.int64)
    last = len(rows) - math.ceil(round(held_back * len(rows), 9))
    return np.where(np.arange(len(rows)) < last, rows[:, 1], rows[:, 0])


class _Order:
    """Which anchor comes at which position of which epoch."""

    def __init__(self, parts: Rows, span: int, seed: int, batch: int, shuffle: bool) -> None:
        lengths = parts[:, 1] - parts[:, 0]
        self.starts = parts[:, 0]
        self.seed = seed
        self.batch = batch
        self.shuffle = shuffle
        self._firsts = self.starts + np.minimum(span, lengths) - 1
        self._ends = np.cumsum(parts[:, 1] - self._firsts)
        self._epoch: tuple[int, Rows] | None = None

    @property
    def anchors(self) -> int:
        return int(self._ends[-1])

    @property
    def batches(self) -> int:
        return max(1, self.anchors // self.batch) if self.shuffle else -(-self.anchors // self.batch)

    @property
    def length(self) -> int:
        """Positions of an epoch."""
        return self.batches * self.batch if self.shuffle else self.anchors

    def named(self, share: Share) -> tuple[Rows, Rows]:
        """(n,) row of now and (n,) first row of its part, for every position of the share."""
        picked = self._permutation(share.epoch)[share.first : share.stop]
        part = np.searchsorted(self._ends, picked, side="right")
        before = np.concatenate(([0], self._ends))[part]
        return self._firsts[part] + picked - before, self.starts[part]

    def _permutation(self, epoch: int) -> Rows:
        if not self.shuffle:
            return np.arange(self.anchors)
        if self._epoch is None or self._epoch[0] != epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.anchors)
            self._epoch = (epoch, np.resize(order, self.length))
        return self._epoch[1]


class _Shares(Sampler[Share]):
    """This rank's share of every global batch from step ``start`` on."""

    def __init__(self, order: _Order, rank: int, world: int, start: int) -> None:
        self._order, self._rank, self._world, self._start = order, rank, world, start

    def __iter__(self) -> Iterator[Share]:
        step = self._start
        while self._order.shuffle or step < self._order.batches:
            epoch, number = divmod(step, self._order.batches)
            first = number * self._order.batch
            count = min(self._order.batch, self._order.length - first)
            mine, next_one = (count * rank // self._world for rank in (self._rank, self._rank + 1))
            yield Share(epoch, first + mine, first + next_one)
            step += 1


class _Clips(Dataset[Clip | UserError]):
    """Reads the clips of a share, all of them in one call of the store.

    A user's error is returned: raised in a worker, it would reach the user inside a page of traceback.
    """

    def __init__(
        self,
        store: Store,
        order: _Order,
        array: str,
        span: int,
        offsets: Rows,
        action_steps: int,
        flip: bool,
        shift: int,
    ) -> None:
        self._store = store
        self._order = order
        self._array = array
        self._ages = offsets - (span - 1)  # at most 0: steps relative to now
        self._action_ages = np.arange(-action_steps, 0)
        self._flip = flip
        self._shift = shift

    def __getitem__(self, share: Share) -> Clip | UserError:
        try:
            return self._clip(share)
        except UserError as error:
            return error

    def _clip(self, share: Share) -> Clip:
        now, first = self._order.named(share)
        inputs, present = self._read(self._array, now, first, self._ages)
        if self._flip or self._shift:
            for clip, position in zip(inputs, range(share.first, share.stop), strict=True):
                rng = np.random.default_rng([self._order.seed, share.epoch, position, AUGMENT])
                clip[:] = augmented(clip, rng, self._flip, self._shift)
        actions = acted = None
        if len(self._action_ages):
            moves, took = self._read(ACTIONS, now, first, self._action_ages)
            actions, acted = torch.from_numpy(moves.astype(np.float32, copy=False)), torch.from_numpy(took)
        return Clip(torch.from_numpy(inputs), torch.from_numpy(present), actions, acted, torch.from_numpy(now))

    def _read(self, name: str, now: Rows, first: Rows, ages: Rows) -> tuple[NDArray, NDArray[np.bool_]]:
        """(n, ages, ...) values, and (n, ages) where the part had begun."""
        rows = now[:, None] + ages
        values = self._store.read(name, np.maximum(rows, first[:, None]).ravel())
        return values.reshape(*rows.shape, *values.shape[1:]), rows >= first[:, None]


def augmented(frames: NDArray, rng: np.random.Generator, flip: bool, shift: int) -> NDArray:
    """(F, H, W, C) frames, all mirrored and moved alike."""
    mirror = bool(rng.integers(2))
    down, right = rng.integers(-shift, shift + 1, size=2)
    if flip and mirror:
        frames = frames[:, :, ::-1]
    return _moved(_moved(frames, int(down), 1), int(right), 2)


def _moved(frames: NDArray, by: int, axis: int) -> NDArray:
    if by == 0:
        return frames
    size = frames.shape[axis]
    return frames.take(np.clip(np.arange(size) - by, 0, size - 1), axis=axis)


def _check_arrays(store: Store, array: str, action_steps: int, flip: bool, shift: int) -> None:
    wanted = [array, ACTIONS] if action_steps else [array]
    for name in wanted:
        if name not in store.arrays:
            raise UserError(f"{store.path}: no array {name!r} in this store: {nearest(name, store.arrays)}")
    shape = store.arrays[array].shape
    if (flip or shift) and len(shape) != 3:
        raise UserError(f"{store.path}: flip and shift need frames (H, W, C), a step of {array!r} has shape {shape}")
    if flip and ACTIONS in store.arrays:
        raise UserError(f"{store.path}: flip=True would mirror frames but not the store's actions: set flip to false")
    if not 0 <= shift < (min(shape[:2]) if shift else 1):
        raise UserError(f"shift must be at least 0 and below the frame's {min(shape[:2])} pixels, got {shift}")


def _check_sharing(batch: int, rank: int, world: int, seed: int) -> None:
    if batch < 1 or world < 1 or batch % world:
        raise UserError(f"batch must be a multiple of the number of ranks, got batch {batch} for {world} ranks")
    if not 0 <= rank < world:
        raise UserError(f"rank must be 0 to {world - 1}, got {rank}")
    if seed < 0:
        raise UserError(f"seed must be at least 0, got {seed}")


def _check_part(part: str, held_back: float, hold: str) -> None:
    if part not in ("train", "held_back", "all"):
        raise UserError(f"part {part!r}: {nearest(part, ('train', 'held_back', 'all'))}")
    if hold not in ("tail", "episodes"):
        raise UserError(f"hold {hold!r}: {nearest(hold, ('tail', 'episodes'))}")
    if not 0 <= held_back < 1:
        raise UserError(f"held_back must be at least 0 and below 1, got {held_back}")


def _as_is(clip: Any) -> Any:
    return clip
