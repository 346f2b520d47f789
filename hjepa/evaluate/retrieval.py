"""Within-sequence retrieval: the test that slow collapse cannot pass.

The prediction one step ahead must be nearer to the true state than to the other states of the same recording. A latent
that is constant in time stays at chance, however well spread it is over recordings.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from hjepa.errors import UserError
from hjepa.evaluate.dense import Recording, contexts
from hjepa.hierarchy import Hierarchy

CANDIDATES = 1024


@dataclass(frozen=True)
class Retrieval:
    """One level, one step ahead, open loop (z at the prior's mean).

    Attributes:
        over_chance: share of predictions whose nearest candidate is the true state, times the number of candidates.
        rank: median rank of the true state as a share of the candidates; 0.5 is chance.
        candidates: mean number of candidates: the states at every environment step of the recording, at most 1,024.
        std_within, std_total: standard deviation of the states within recordings and over all of them, mean over
            components.
    """

    level: int
    over_chance: float
    rank: float
    candidates: float
    std_within: float
    std_total: float

    def asdict(self) -> dict[str, float]:
        return asdict(self)


@torch.inference_mode()
def retrieval(model: Hierarchy, found: list[Recording]) -> list[Retrieval]:
    """Every level's within-sequence retrieval over recordings.

    Raises:
        UserError: a level for which no recording holds a prediction.
    """
    return [_level(model, number, found) for number in range(1, model.depth + 1)]


def _level(model: Hierarchy, number: int, found: list[Recording]) -> Retrieval:
    period = model.clock.periods[number - 1]
    long = [r for r in found if len(r.states[number - 1]) > period]
    if not long:
        raise UserError(
            f"no recording has the {model.clock.span(number, 2)} steps that level {number} needs to predict"
        )
    hits, ranks, counts = [], [], []
    for recording in long:
        for first in range(0, len(recording.states[number - 1]) - period, CANDIDATES):
            hit, rank, count = _ranked(model, number, recording, first, period)
            hits += hit
            ranks += rank
            counts += [count] * len(hit)
    states = [r.states[number - 1] for r in long]
    within = float(np.average([s.std(0).mean() for s in states], weights=[len(s) for s in states]))
    total = float(torch.cat(states).std(0).mean())
    return Retrieval(number, float(np.mean(hits)), float(np.median(ranks)), float(np.mean(counts)), within, total)


def _ranked(
    model: Hierarchy, number: int, recording: Recording, first: int, period: int
) -> tuple[list[float], list[float], int]:
    """Hits over chance and rank shares of the predictions of one stretch; ties share."""
    states = recording.states[number - 1]
    now = np.arange(first, min(first + CANDIDATES, len(states) - period))
    seen = contexts(model, number, recording, now, 1)
    predicted = model.level(number).rollout(seen.states, 1, seen.actions, valid=seen.valid)[:, 0].cpu()
    low = max(0, min(first + period, len(states) - CANDIDATES))
    candidates = states[low : low + CANDIDATES]
    apart = torch.cdist(predicted, candidates)
    truth = apart.gather(1, torch.from_numpy(now + period - low)[:, None])
    nearer, ties = (apart < truth).sum(1), (apart == truth).sum(1)
    hits = (nearer == 0) / ties * len(candidates)
    ranks = (nearer + (ties - 1) / 2) / max(1, len(candidates) - 1)
    return hits.tolist(), ranks.tolist(), len(candidates)
