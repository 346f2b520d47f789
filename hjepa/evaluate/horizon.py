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
from hjepa.evaluate.dense import Recording
from hjepa.hierarchy import Hierarchy

BLOCK_S = 1.0  # starts within one second count as one sequence of the bootstrap


@dataclass(frozen=True)
class HorizonCurve:
    """One level; every list has an entry a horizon.

    Attributes:
        steps: horizon in environment steps; seconds: the same in seconds.
        error, persistence, mean: mean squared error of the prediction, of the last state kept, of the best constant,
            each over the level's variance.
        skill: 1 - error / persistence.
        low_persistence, low_mean: lower end of the paired 95 % interval of (reference - error).
        retrieval: how often the predicted state is nearest to the true one among the recording's states one period
            apart, over chance.
        useful_steps, useful_s: the largest horizon up to which both lower ends stay above 0.
        starts: number of predictions begun; sequences: independent stretches they come from.
    """

    level: int
    period_steps: int
    steps: list[int]
    seconds: list[float]
    error: list[float]
    persistence: list[float]
    mean: list[float]
    skill: list[float]
    low_persistence: list[float]
    low_mean: list[float]
    retrieval: list[float]
    useful_steps: int
    useful_s: float
    longest_s: float
    starts: int
    sequences: int

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
    ahead = model.clock.future(number, within)
    long = [r for r in found if len(ahead) and len(r.states[number - 1]) > ahead[0]]
    if not long:
        return None
    every = max(1, sum(len(r.states[number - 1]) for r in long) // starts)
    parts = [_predictions(model, number, r, ahead, every) for r in long]
    states = torch.cat([r.states[number - 1] for r in found if len(r.states[number - 1])])
    scale = float(states.var(0).mean())
    centre = states.mean(0)
    error, still = (np.concatenate([getattr(p, name) for p in parts]) / scale for name in ("error", "persistence"))
    mean = np.concatenate([_constant(p.true, centre) for p in parts]) / scale
    block = max(1, round(BLOCK_S * model.config.world.rate_hz))
    units = np.concatenate([k * 10**9 + p.start // block for k, p in enumerate(parts)])
    low_still, low_mean = (bootstrap_mean(reference - error, units)[1] for reference in (still, mean))
    above = (low_still > 0) & (low_mean > 0)  # NaN, no data, compares False
    useful = int(ahead[: len(above) if above.all() else int(np.argmin(above))].max(initial=0))
    averaged = [np.nanmean(x, 0) for x in (error, still, mean, np.concatenate([p.hits for p in parts]))]
    rate = model.config.world.rate_hz
    listed = [_floats(x) for x in (averaged[0], averaged[1], averaged[2], 1 - averaged[0] / averaged[1])]
    return HorizonCurve(
        number, model.clock.periods[number - 1], [int(a) for a in ahead], _floats(ahead / rate), *listed,
        _floats(low_still), _floats(low_mean), _floats(averaged[3]), useful, useful / rate, float(ahead[-1] / rate),
        len(units), len(np.unique(units)),
    )  # fmt: skip


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
    level, clock = model.level(number), model.clock
    device = next(model.parameters()).device
    now = np.arange(0, len(states) - ahead[0], every)
    back = now[:, None] - clock.past(number, level.config.length - 1)
    context, valid = states[np.maximum(back, 0)], torch.from_numpy(back >= 0)
    actions = _actions(model, number, recording, now, len(ahead))
    predicted = level.rollout(
        context.to(device), len(ahead), None if actions is None else actions.to(device), valid=valid.to(device)
    ).cpu()
    target = now[:, None] + ahead
    there = target < len(states)
    true = states[np.minimum(target, len(states) - 1)]
    gap = torch.from_numpy(~there)
    error = (predicted - true).square().mean(-1).masked_fill(gap, torch.nan)
    still = (states[now][:, None] - true).square().mean(-1).masked_fill(gap, torch.nan)
    true = true.masked_fill(gap[..., None], torch.nan)
    hits = np.where(there, _retrieved(predicted, states, target, clock.periods[number - 1]), np.nan)
    return _Predictions(now, error.numpy(), still.numpy(), true, hits)


def _constant(true: Tensor, centre: Tensor) -> NDArray:
    return (true - centre).square().mean(-1).numpy()


def _actions(model: Hierarchy, number: int, recording: Recording, now: NDArray, steps: int) -> Tensor | None:
    """(N, context - 1 + steps, a): the true actions of a level around every start; the recording's ends repeat."""
    if recording.actions is None:
        return None
    period, length = model.clock.periods[number - 1], model.config.levels[number - 1].length - 1
    around = np.arange(-(length - 1) * period, steps * period)
    rows = recording.reach[number - 1] + now[:, None] + around
    taken = recording.actions[np.clip(rows, 0, len(recording.actions) - 1)]
    return model.embed_actions(taken.to(next(model.parameters()).device))[number - 1]


def _retrieved(predicted: Tensor, states: Tensor, target: NDArray, period: int) -> NDArray:
    """(N, H) top-1 retrieval of the true state among those a whole number of periods from it, over chance."""
    hits = np.full(target.shape, np.nan)
    for phase in range(min(period, len(states))):
        candidates = states[phase::period]
        rows, columns = np.nonzero((target % period == phase) & (target < len(states)))
        if not len(rows):
            continue
        apart = torch.cdist(predicted[rows, columns], candidates)
        hits[rows, columns] = (apart.argmin(1).numpy() == target[rows, columns] // period) * len(candidates)
    return hits


def _floats(values: NDArray) -> list[float]:
    return [float(v) for v in values]
