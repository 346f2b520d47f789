"""What each level keeps: probes of its states for any labelled array of a store.

A probe is a ridge regression on standardised states (closed form; Hoerl & Kennard 1970), with an MLP beside it where
it is asked for. Both are fitted on training recordings, choose on a part of them that they do not fit, and are scored
on held-back ones. An array of integers or truth values is a class, anything else a quantity.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import nn

from hjepa.data.store import ArraySpec, Store
from hjepa.data.stream import Hold
from hjepa.errors import UserError, nearest
from hjepa.evaluate.dense import BATCH, Part, Recording, recordings
from hjepa.hierarchy import Hierarchy
from hjepa.train.world import ACTIONS, FRAMES

Array = NDArray[np.float64]

Probe = Callable[[Array], Array]  # (N, D) states -> (N, C) predictions

PIXELS = 0  # "level 0": the frame itself, averaged down to THUMB x THUMB
THUMB = 8
MOST_SAMPLES = 20_000  # steps a probe is fitted or scored on, evenly spread
MOST_COMPONENTS = 64  # numbers a step of a label; more is a picture, not a label
MOST_CLASSES = 512  # a whole number with more values than that is a quantity
VALIDATION = 0.2  # of the training recordings, to choose by
PENALTIES = tuple(10.0**k for k in range(-6, 4))  # over the mean square of a standardised input, which is 1
WIDTH, STEPS, MINIBATCH, RATE, CHECK = 512, 600, 256, 1e-3, 50  # of the MLP
SEED = 0
CONSTANT = 1e-16  # variance over mean square: less is rounding


@dataclass(frozen=True)
class Kept:
    """How much of one labelled array can be read from one level (0: from pixels averaged down to 8 x 8).

    Attributes:
        measure: "r2" (averaged over components; 1 perfect, 0 the best constant) or "accuracy".
        score: the ridge's on held-back steps; mlp: the MLP's, where asked for. NaN where the label does not vary there.
        reference: what one who sees nothing scores: 0 for r2, the share of the most frequent class for accuracy.
        fitted, scored: number of steps.
    """

    array: str
    level: int
    measure: Literal["r2", "accuracy"]
    score: float
    mlp: float | None
    reference: float
    fitted: int
    scored: int

    def asdict(self) -> dict[str, Any]:
        return {k: None if v != v else v for k, v in asdict(self).items()}  # NaN is not JSON


def keeps(
    model: Hierarchy,
    store: Store,
    arrays: Sequence[str] | None = None,
    *,
    levels: Sequence[int] | None = None,
    held_back: float = 0.2,
    hold: Hold = "tail",
    mlp: bool = False,
) -> list[Kept]:
    """Probe every level, and the pixels, for labelled per-step arrays of a store.

    Args:
        arrays: names; default: everything but frames and actions with at most 64 numbers a step.
        levels: default: all. All are probed at the same steps, those that have a state of the highest.
        held_back, hold: what the probes are scored on, as in training (`hjepa.data.stream.episode_parts`).
        mlp: fit a 512-wide MLP too; seconds to minutes each.

    Returns:
        One entry an array and level, pixels first.

    Raises:
        UserError: an unknown array or one too wide for a label, none there, no such level, or recordings too short.
    """
    names = _labels(store, arrays)
    asked = sorted(levels or range(1, model.depth + 1))
    for level in asked:
        model.level(level)
    fit, score = (_steps(model, store, part, held_back, hold, asked) for part in ("train", "held_back"))
    found = []
    for name in names:
        y, y_new = (_values(store, name, s.rows) for s in (fit, score))
        for level in (PIXELS, *asked):
            data = _Data(fit.inputs[level], y, score.inputs[level], y_new, fit.validating)
            found.append(_kept(name, level, store.arrays[name], data, mlp))
    return found


def fit_ridge(x: Array, y: Array, validating: NDArray[np.bool_]) -> Probe:
    """Ridge regression of y (N, C) on x (N, D), refitted with the penalty that did best on ``validating`` (N,)."""
    errors = [((p(x[validating]) - y[validating]) ** 2).mean() for p in _ridges(x[~validating], y[~validating])]
    return _ridges(x, y)[int(np.argmin(errors))]


def fit_mlp(x: Array, y: Array, validating: NDArray[np.bool_]) -> Probe:
    """A 512-wide MLP of two hidden layers for y (N, C) on x (N, D): the weights that did best on ``validating``."""
    scale_x, scale_y = _Scale.of(x[~validating]), _Scale.of(y[~validating])
    xs, ys = (torch.from_numpy(s.to(v)).float() for s, v in ((scale_x, x), (scale_y, y)))
    held = torch.from_numpy(validating)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        net = _trained(xs[~held], ys[~held], xs[held], ys[held])

    def predict(new: Array) -> Array:
        with torch.inference_mode():
            return scale_y.back(net(torch.from_numpy(scale_x.to(new)).float()).double().numpy())

    return predict


def r2(predicted: Array, true: Array) -> float:
    """1 - squared error over that of the best constant, averaged over the components (N, C) that vary; NaN: none do."""
    spread = ((true - true.mean(0)) ** 2).sum(0)
    varies = spread > CONSTANT * (true**2).sum(0)
    error = ((predicted - true) ** 2).sum(0)
    return float((1 - error[varies] / spread[varies]).mean()) if varies.any() else float("nan")


@dataclass(frozen=True)
class _Scale:
    """Mean and standard deviation of every component; a constant one is only centred."""

    mean: Array
    std: Array

    @classmethod
    def of(cls, x: Array) -> _Scale:
        mean, std = x.mean(0), x.std(0)
        return cls(mean, np.where(std**2 > CONSTANT * mean**2, std, 1.0))

    def to(self, x: Array) -> Array:
        return (x - self.mean) / self.std

    def back(self, x: Array) -> Array:
        return x * self.std + self.mean


def _ridges(x: Array, y: Array) -> list[Probe]:
    """One probe a penalty, all from one eigendecomposition."""
    scale_x, scale_y = _Scale.of(x), _Scale.of(y)
    xs, ys = scale_x.to(x), scale_y.to(y)
    values, vectors = np.linalg.eigh(xs.T @ xs / len(xs))
    shared = vectors.T @ (xs.T @ ys / len(xs))

    def probe(penalty: float) -> Probe:
        weights = vectors @ (shared / (np.maximum(values, 0) + penalty)[:, None])
        return lambda new: scale_y.back(scale_x.to(new) @ weights)

    return [probe(penalty) for penalty in PENALTIES]


def _trained(x: torch.Tensor, y: torch.Tensor, x_held: torch.Tensor, y_held: torch.Tensor) -> nn.Module:
    wide = (nn.Linear(x.shape[1], WIDTH), nn.GELU(), nn.Linear(WIDTH, WIDTH), nn.GELU())
    net = nn.Sequential(*wide, nn.Linear(WIDTH, y.shape[1]))
    optimiser = torch.optim.AdamW(net.parameters(), RATE)
    best, kept = float("inf"), net.state_dict()
    for step in range(1, STEPS + 1):
        picked = torch.randint(len(x), (MINIBATCH,))
        optimiser.zero_grad()
        F.mse_loss(net(x[picked]), y[picked]).backward()
        optimiser.step()
        if step % CHECK == 0:
            with torch.no_grad():
                error = float(F.mse_loss(net(x_held), y_held))
            if error < best:
                best, kept = error, {k: v.clone() for k, v in net.state_dict().items()}
    net.load_state_dict(kept)
    return net


@dataclass(frozen=True)
class _Data:
    """States (N, D) and labels (N, C) to fit and to score on; ``validating`` (N,): those of the fit to choose by."""

    x: Array
    y: NDArray
    x_new: Array
    y_new: NDArray
    validating: NDArray[np.bool_]


def _kept(name: str, level: int, spec: ArraySpec, data: _Data, mlp: bool) -> Kept:
    counts = len(data.x), len(data.x_new)
    fits = [fit_ridge, fit_mlp] if mlp else [fit_ridge]
    if np.dtype(spec.dtype).kind in "biu" and len(np.unique(data.y)) <= MOST_CLASSES:
        scores = [_accuracy(fit, data) for fit in fits]
        return Kept(name, level, "accuracy", scores[0], scores[1] if mlp else None, _commonest(data), *counts)
    y, y_new = data.y.astype(np.float64), data.y_new.astype(np.float64)
    scores = [r2(fit(data.x, y, data.validating)(data.x_new), y_new) for fit in fits]
    return Kept(name, level, "r2", scores[0], scores[1] if mlp else None, 0.0, *counts)


def _accuracy(fit: Any, data: _Data) -> float:
    """Share of right classes, averaged over components: least squares on indicators, the largest wins. A class that
    was not there in training counts as wrong."""
    shares = []
    for component in range(data.y.shape[1]):
        classes, place = np.unique(data.y[:, component], return_inverse=True)
        probe = fit(data.x, np.eye(len(classes))[place], data.validating)
        guess = classes[probe(data.x_new).argmax(1)]
        shares.append(float((guess == data.y_new[:, component]).mean()))
    return float(np.mean(shares))


def _commonest(data: _Data) -> float:
    """Accuracy of always naming the most frequent class of training."""
    shares = []
    for component in range(data.y.shape[1]):
        classes, counts = np.unique(data.y[:, component], return_counts=True)
        shares.append(float((data.y_new[:, component] == classes[counts.argmax()]).mean()))
    return float(np.mean(shares))


@dataclass(frozen=True)
class _Steps:
    """Steps of one part: their rows (N,), what each level (0: pixels) has there (N, D), which are to choose by (N,)."""

    rows: NDArray[np.int64]
    inputs: dict[int, Array]
    validating: NDArray[np.bool_]


def _steps(model: Hierarchy, store: Store, part: Part, held_back: float, hold: Hold, levels: list[int]) -> _Steps:
    found = recordings(model, store, part, held_back, hold, acting=False)
    first = max(model.clock.reach(level) for level in levels)
    long = [r for r in found if len(r.rows) > first]
    total = sum(len(r.rows) - first for r in long)
    if total < 2:
        raise UserError(
            f"{store.path}: part {part!r} has no two steps with a state of level {max(levels)}, which takes "
            f"{first + 1} frames of a recording; legal: lower levels, another held_back than {held_back:g} by {hold}"
        )
    every = -(-total // MOST_SAMPLES)
    kept = [np.arange(first, len(r.rows), every) for r in long]
    rows = np.concatenate([r.rows[k] for r, k in zip(long, kept, strict=True)])
    inputs = {level: _states(long, kept, level) for level in levels}
    return _Steps(rows, {PIXELS: _thumbnails(store, rows), **inputs}, _last_part([len(k) for k in kept], hold))


def _states(found: list[Recording], kept: list[NDArray[np.int64]], level: int) -> Array:
    parts = [r.states[level - 1][torch.from_numpy(k - r.reach[level - 1])] for r, k in zip(found, kept, strict=True)]
    return torch.cat(parts).double().numpy()


def _last_part(lengths: list[int], hold: Hold) -> NDArray[np.bool_]:
    """(N,) what to choose by, held back like what is scored: the end of every recording, or the last recordings."""
    if hold == "tail" and min(lengths) > 1:
        return np.concatenate([np.arange(n) >= n - max(1, round(VALIDATION * n)) for n in lengths])
    ends = np.cumsum(lengths)
    wanted = int(ends[-1] - max(1, round(VALIDATION * ends[-1])))
    whole = [int(e) for e in ends[:-1] if e <= wanted]
    return np.arange(ends[-1]) >= (whole[-1] if whole else wanted)


def _thumbnails(store: Store, rows: NDArray[np.int64]) -> Array:
    """(N, 8 * 8 * C) frames, averaged down."""
    found = []
    for start in range(0, len(rows), BATCH):
        frames = torch.from_numpy(store.read(FRAMES, rows[start : start + BATCH])).movedim(-1, 1).float()
        found.append(F.adaptive_avg_pool2d(frames, THUMB).flatten(1))
    return torch.cat(found).double().numpy()


def _labels(store: Store, arrays: Sequence[str] | None) -> list[str]:
    """The labels asked for, or all."""
    there = {name: spec for name, spec in store.arrays.items() if name not in (FRAMES, ACTIONS)}
    legal = [name for name, spec in there.items() if np.prod(spec.shape) <= MOST_COMPONENTS]
    if not legal:
        raise UserError(f"{store.path}: no labelled array beside frames and actions; legal: a store that records one")
    for name in arrays or ():
        if name not in there:
            raise UserError(f"{store.path}: no label {name!r}; {nearest(name, legal)}")
        if name not in legal:
            raise UserError(f"{store.path}: {name!r} has {there[name].shape} numbers a step; legal: {', '.join(legal)}")
    return list(arrays or legal)


def _values(store: Store, name: str, rows: NDArray[np.int64]) -> NDArray:
    """(N, C)"""
    return store.read(name, rows).reshape(len(rows), -1)
