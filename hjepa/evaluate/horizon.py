"""How far each level can see: open-loop prediction error against horizon, with references and intervals.

Levels are compared by their horizon in environment steps (seconds), never by their error: each error is in units of
that level's own variance, so that 1 is what the best constant achieves.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluate.bootstrap import bootstrap_mean
from hjepa.evaluate.dense import Recording, contexts
from hjepa.hierarchy import Hierarchy

# Errors of neighbouring starts are correlated over about the horizon, so starts within one second or three horizons
# count as one sequence of the bootstrap: in simulations without any difference, blocks of one second found one in a
# quarter of all runs, blocks of three horizons in about 5 %.
BLOCK_S, BLOCK_HORIZONS = 1.0, 3
FEWEST = 5  # sequences below which no interval is given
TINY = 1e-12  # variance of a collapsed level: keep its figures finite


@dataclass(frozen=True)
class HorizonCurve:
    """One level; every list has an entry a horizon.

    Attributes:
        steps: horizon in environment steps; seconds: the same in seconds.
        error, persistence, mean: mean squared error of the prediction, of the last state kept, of the best constant,
            each over the level's variance.
        skill: 1 - error / persistence.
        low_persistence, low_mean: lower end of the paired 95 % interval of (reference - error), None where there
            are too few independent sequences for one.
        retrieval: how often the predicted state is nearest to the true one among the recording's states one period
            apart, over chance.
        longest_s: the farthest horizon tried: ``within``, or what the longest recording holds.
        useful_steps, useful_s: the largest horizon up to which both lower ends stay above 0.
        starts: number of predictions begun; sequences: independent stretches they come from, a horizon.
    """

    level: int
    period_steps: int
    steps: list[int]
    seconds: list[float]
    error: list[float]
    persistence: list[float]
    mean: list[float]
    skill: list[float]
    low_persistence: list[float | None]
    low_mean: list[float | None]
    retrieval: list[float]
    useful_steps: int
    useful_s: float
    longest_s: float
    starts: int
    sequences: list[int]

    def asdict(self) -> dict[str, Any]:
        return asdict(self)


@torch.inference_mode()
def horizon_curves(
    model: Hierarchy, found: list[Recording], within: int = 128, starts: int = 512
) -> list[HorizonCurve]:
    """The curve of every level, up to ``within`` environment steps, from about ``starts`` starts spread evenly.

    Raises:
        UserError: no recording is long enough for one prediction of level 1.
    """
    curves = [_curve(model, number, found, within, starts) for number in range(1, model.depth + 1)]
    kept = [c for c in curves if c is not None]
    if not kept:
        raise UserError(f"no recording has the {model.clock.span(1, 2)} steps that one prediction of level 1 needs")
    return kept


def _curve(model: Hierarchy, number: int, found: list[Recording], within: int, starts: int) -> HorizonCurve | None:
    """None where no recording holds one prediction of the level."""
    longest = max(len(r.states[number - 1]) for r in found)
    ahead = model.clock.future(number, min(within, longest - 1))
    if not len(ahead):
        return None
    long = [r for r in found if len(r.states[number - 1]) > ahead[0]]
    every = max(1, sum(len(r.states[number - 1]) for r in long) // starts)
    parts = [_predictions(model, number, r, ahead, every) for r in long]
    states = torch.cat([r.states[number - 1] for r in found])
    scale = max(float(states.var(0, correction=0).mean()), TINY)
    error, still = (np.concatenate([getattr(p, name) for p in parts]) / scale for name in ("error", "persistence"))
    mean = np.concatenate([_constant(p.true, states.mean(0)) for p in parts]) / scale
    rate = model.config.world.rate_hz
    blocks = np.maximum(max(1, round(BLOCK_S * rate)), BLOCK_HORIZONS * ahead)
    units = np.concatenate([k * 10**9 + p.start[:, None] // blocks for k, p in enumerate(parts)])
    (low_still, sequences), (low_mean, _) = (_lower_end(reference - error, units) for reference in (still, mean))
    useful = _useful(ahead, low_still, low_mean)
    error, still, mean, hits = (np.nanmean(x, 0) for x in (error, still, mean, np.concatenate([p.hits for p in parts])))
    with np.errstate(invalid="ignore", divide="ignore"):  # nothing moved: no skill to speak of, NaN
        skill = 1 - error / still
    return HorizonCurve(
        level=number,
        period_steps=model.clock.periods[number - 1],
        steps=[int(a) for a in ahead],
        seconds=_floats(ahead / rate),
        error=_floats(error),
        persistence=_floats(still),
        mean=_floats(mean),
        skill=_floats(skill),
        low_persistence=_given(low_still),
        low_mean=_given(low_mean),
        retrieval=_floats(hits),
        useful_steps=useful,
        useful_s=useful / rate,
        longest_s=float(ahead[-1] / rate),
        starts=len(units),
        sequences=sequences,
    )


@dataclass(frozen=True)
class _Predictions:
    """Of one recording, from every start: errors (N, H) with NaN past its end, the true states (N, H, D)."""

    start: NDArray
    error: NDArray
    persistence: NDArray
    true: Tensor
    hits: NDArray


def _predictions(model: Hierarchy, number: int, recording: Recording, ahead: NDArray, every: int) -> _Predictions:
    states = recording.states[number - 1]
    now = np.arange(0, len(states) - ahead[0], every)
    seen = contexts(model, number, recording, now, len(ahead))
    predicted = model.level(number).rollout(seen.states, len(ahead), seen.actions, valid=seen.valid).cpu()
    target = now[:, None] + ahead
    there = target < len(states)
    true = states[np.minimum(target, len(states) - 1)].masked_fill(torch.from_numpy(~there)[..., None], torch.nan)
    error = (predicted - true).square().mean(-1)
    still = (states[now][:, None] - true).square().mean(-1)
    hits = _retrieved(predicted, states, now, target, model.clock.periods[number - 1])
    return _Predictions(now, error.numpy(), still.numpy(), true, hits)


def _lower_end(gain: NDArray, units: NDArray) -> tuple[NDArray, list[int]]:
    """(H,) lower end of the interval of the mean gain (N, H), NaN with too few sequences; and how many there are."""
    low, counts = np.full(gain.shape[1], np.nan), []
    for h in range(gain.shape[1]):
        there = ~np.isnan(gain[:, h])
        counts.append(len(np.unique(units[there, h])))
        if counts[-1] >= FEWEST:
            low[h] = bootstrap_mean(gain[there, h : h + 1], units[there, h])[1][0]
    return low, counts


def _useful(ahead: NDArray, low_still: NDArray, low_mean: NDArray) -> int:
    """The last horizon before the first at which either reference may be as good; NaN, no data, is as good."""
    above = (low_still > 0) & (low_mean > 0)
    return int(ahead[: len(above) if above.all() else int(np.argmin(above))].max(initial=0))


def _constant(true: Tensor, centre: Tensor) -> NDArray:
    return (true - centre).square().mean(-1).numpy()


def _retrieved(predicted: Tensor, states: Tensor, now: NDArray, target: NDArray, period: int) -> NDArray:
    """(N, H) whether the state nearest to the prediction is the true one, among those a whole number of periods from
    it, over chance; equally near ones share the hit. NaN past the recording's end."""
    hits = np.full(target.shape, np.nan)
    for row, start in enumerate(now):
        candidates = states[start % period :: period]
        true = target[row][target[row] < len(states)] // period
        apart = torch.cdist(predicted[row, : len(true)], candidates)
        truth = apart[torch.arange(len(true)), true][:, None]
        hit = (apart < truth).sum(1).eq(0) / (apart <= truth).sum(1)
        hits[row, : len(true)] = hit * len(candidates)
    return hits


def _floats(values: NDArray) -> list[float]:
    return [float(v) for v in values]


def _given(values: NDArray) -> list[float | None]:
    return [None if np.isnan(v) else float(v) for v in values]
