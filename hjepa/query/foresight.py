"""The future that a level predicts from one moment, drawn as the nearest real frames."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from hjepa.errors import UserError
from hjepa.evaluate.dense import Context, Recording, contexts
from hjepa.level import Level
from hjepa.objective.energy import distance
from hjepa.pictures import Cell, Row, grid
from hjepa.query.events import persistence_energy
from hjepa.query.moments import Near, caption
from hjepa.query.view import Library, Moment, View

SHOWN = 4  # futures drawn at most


@dataclass(frozen=True)
class Future:
    """One predicted course; every list has an entry a step.

    Attributes:
        states: (steps, D).
        energy: of each state as the outcome of those before it, z at the prior's mean (`persistence_energy` is 1); 0
            for the future with that z.
        error: energy between it and the true state, in the same unit; None beyond the recording's end.
        nearest: the library's moments whose states are most like these.
    """

    states: NDArray[np.float32]
    energy: list[float]
    error: list[float | None]
    nearest: list[Near]


@dataclass(frozen=True)
class Futures:
    """What a level expects after ``now``.

    Attributes:
        ahead_s: (steps) seconds after now.
        true: what did happen; None beyond the recording's end.
        futures: first the one with z at the prior's mean, then the samples, lowest energy (mean over steps) first.
    """

    level: int
    now: Moment
    ahead_s: list[float]
    true: list[Moment | None]
    futures: list[Future]

    def asdict(self) -> dict[str, Any]:
        """Everything but the states."""
        figures = asdict(replace(self, futures=[]))
        for future in self.futures:
            own = {"energy": future.energy, "error": future.error, "nearest": [asdict(n) for n in future.nearest]}
            figures["futures"].append(own)
        return figures


@torch.inference_mode()
def futures(
    view: View,
    level: int,
    time_s: float | None = None,
    steps: int = 4,
    *,
    episode: int = 0,
    actions: NDArray | None = None,
    samples: int = 0,
    seed: int = 0,
    library: View | None = None,
) -> Futures:
    """Predict ``steps`` periods of a level open-loop from its states up to ``time_s`` (default: half-way).

    Args:
        actions: (steps * period, A) to predict under instead of the recorded ones, in the store's units.
        samples: further futures with z drawn from the prior at each step ahead.
        seed: of the draws.
        library: where predicted states look for their nearest real frame; default: all of this view, the true future
            included, which the prediction has not seen.

    Raises:
        UserError: no such level, episode or time; no z to sample; actions that are missing, end too early or misfit.
    """
    one, now = view.model.level(level), view.find(level, episode, time_s)
    if steps < 1 or samples < 0:
        raise UserError(f"steps is {steps}, samples {samples}; legal: steps at least 1, samples at least 0")
    if samples and one.latent is None:
        raise UserError(f"level {level} has no z: every sample is the same; legal: samples=0")
    recording = view.recordings[now.episode]
    first = int(np.searchsorted(recording.rows_of(level), now.row))
    acted = _acted(view, level, recording, now, steps, actions)
    seen = contexts(view.model, level, acted, np.array([first]), steps)
    predicted = _predicted(one, seen, steps, samples, seed)
    energy, unit = _energy(one, seen, predicted).cpu(), persistence_energy(view, level)
    ahead = view.model.clock.future(level, steps * view.period(level))
    true = recording.states[level - 1][first + ahead[first + ahead < len(recording.states[level - 1])]]
    error = distance(one.config.objective.energy, predicted[:, : len(true)].cpu(), true)
    order = [0, *(1 + energy[1:].mean(1).argsort(stable=True)).tolist()]
    library = library or view
    shelf, missing = library.library(level), [None] * (steps - len(true))
    found = [
        Future(
            predicted[k].cpu().numpy(), (energy[k] / unit).tolist(), (error[k] / unit).tolist() + missing,
            _nearest(library, shelf, predicted[k].cpu()),
        )
        for k in order
    ]  # fmt: skip
    moments = [view.moment(now.row + int(a)) for a in ahead[: len(true)]]
    return Futures(level, now, (ahead / view.rate_hz).tolist(), moments + missing, found)


def _acted(view: View, level: int, recording: Recording, now: Moment, steps: int, actions: NDArray | None) -> Recording:
    """The recording with what is to be done after now in the place of what was done."""
    wide, needed = view.model.config.world.action_dim, steps * view.period(level)
    if actions is not None and actions.shape != (needed, wide):
        raise UserError(f"actions are {actions.shape}; legal for {steps} steps of level {level}: ({needed}, {wide})")
    if not wide or recording.actions is None:  # without any where some are needed, `contexts` says so
        return recording
    step = now.row - int(recording.rows[0])
    if actions is not None:
        given = torch.as_tensor(np.asarray(actions, np.float32))
        return replace(recording, actions=torch.cat([recording.actions[:step], given]))
    most = (len(recording.actions) - step) // view.period(level)
    if most < steps:
        raise UserError(f"{steps} steps of level {level} from {now.time_s:g} s: the recorded actions last for {most}")
    return recording


def _predicted(one: Level, seen: Context, steps: int, samples: int, seed: int) -> Tensor:
    """(1 + samples, steps, D): z at the prior's mean, then drawn from the prior at every step ahead."""
    if not samples:
        return _rolled(one, seen, steps, None)
    assert one.latent is not None
    past = seen.states.shape[1] - 1
    like = seen.states.new_zeros(1 + samples, past + steps, one.config.dim)
    z = one.latent.sample(like, torch.Generator().manual_seed(seed))
    z[:, :past], z[0] = 0, 0  # what has been seen needs no guessing
    return _rolled(one, seen, steps, z)


def _rolled(one: Level, seen: Context, steps: int, z: Tensor | None) -> Tensor:
    count = 1 if z is None else len(z)
    actions = None if seen.actions is None else seen.actions.expand(count, -1, -1)
    return one.rollout(seen.states.expand(count, -1, -1), steps, actions, z, seen.valid.expand(count, -1))


def _energy(one: Level, seen: Context, predicted: Tensor) -> Tensor:
    """(S, steps) energy of each predicted state given the context and the predicted ones before it, z at its mean."""
    found, count = [], len(predicted)
    for step in range(predicted.shape[1]):
        states = torch.cat([seen.states.expand(count, -1, -1), predicted[:, :step]], 1)
        valid = torch.cat([seen.valid.expand(count, -1), seen.valid.new_ones(count, step)], 1)
        actions = None if seen.actions is None else seen.actions[:, : states.shape[1]].expand(count, -1, -1)
        expected = one.rollout(states, 1, actions, valid=valid)[:, 0]
        found.append(distance(one.config.objective.energy, expected, predicted[:, step]))
    return torch.stack(found, 1)


def _nearest(library: View, shelf: Library, states: Tensor) -> list[Near]:
    apart, place = shelf.distances(states).min(1)
    return [
        Near(library.moment(int(shelf.rows[p])), float(a)) for a, p in zip(apart.tolist(), place.tolist(), strict=True)
    ]


def draw_futures(found: Futures, view: View, library: View | None = None) -> Image.Image:
    """What did happen above, and below it each predicted state as its nearest real frame; each row starts with now."""
    library = library or view
    now = Cell(view.frame(found.now), f"now\n{caption(found.now)}")
    pictures = [None if moment is None else view.frame(moment) for moment in found.true]
    true = [Cell(frame, f"+{ahead:.2f} s") for frame, ahead in zip(pictures, found.ahead_s, strict=True)]
    rows = [Row([now, *true], f"level {found.level}: what happened")]
    for number, future in enumerate(found.futures[: SHOWN + 1]):
        name = "predicted" if number == 0 else f"sample {number}"
        title = f"{name}, as nearest real frames (energy {np.mean(future.energy):.2f})"
        cells = [Cell(library.frame(n.moment), f"{n.distance:.2f} apart\n{caption(n.moment)}") for n in future.nearest]
        rows.append(Row([now, *cells], title))
    return grid(rows)
