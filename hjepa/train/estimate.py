"""What a run will cost, before it costs anything: `hjepa train --dry-run`.

One micro-batch of every phase goes forward and backward on the meta device: shapes without numbers, so that matrix
products and kept activations are counted and nothing is allocated. Counted in float32, whatever ``train.precision``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from hjepa.clock import Clock
from hjepa.config import LevelConfig, RunConfig
from hjepa.data.store import Store
from hjepa.data.stream import Clip
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.objective.draws import Draws
from hjepa.train.loop import check_data
from hjepa.train.phases import Phase, phases
from hjepa.train.trainee import Trainee
from hjepa.train.world import world_of

META = torch.device("meta")
FLOAT = 4  # bytes


@dataclass(frozen=True)
class LevelEstimate:
    """One level. ``period``: between its states; ``sees``: from the first to the last frame under one state;
    ``sequence``: what its training sequence of ``length`` states covers; ``dim``: numbers a state."""

    level: int
    stride: int
    window: int
    length: int
    dim: int
    period_steps: int
    period_s: float
    sees_s: float
    sequence_s: float
    parameters: int


@dataclass(frozen=True)
class PhaseEstimate:
    """One phase of training, per process.

    Attributes:
        clip_steps: environment steps from a clip's first to its last frame; clip_s: the same in seconds.
        reads: frames (or states of level ``source``) read per clip.
        flop: floating point operations of one optimiser step, forward and backward, all accumulated parts.
        memory_bytes: weights, gradients, optimiser, input and activations kept for the backward pass. The
            interpreter and the libraries come on top.
    """

    name: str
    levels: tuple[int, ...]
    source: int
    steps: int
    clip_steps: int
    clip_s: float
    reads: int
    flop: int
    activation_bytes: int
    memory_bytes: int


@dataclass(frozen=True)
class Estimate:
    """What `hjepa train --dry-run` prints."""

    levels: tuple[LevelEstimate, ...]
    phases: tuple[PhaseEstimate, ...]
    parameters: int
    rate_hz: float
    processes: int

    @property
    def flop(self) -> int:
        """Of the whole run, all processes."""
        return sum(p.flop * p.steps for p in self.phases) * self.processes

    def asdict(self) -> dict[str, Any]:
        return {**asdict(self), "flop": self.flop}


def estimate(config: RunConfig, processes: int = 1) -> Estimate:
    """Cost of a run on its store.

    Raises:
        UserError: whatever would stop the training itself from starting.
    """
    if not config.data.store:
        raise UserError("data.store is not set; legal: data.store=a store that `hjepa ingest` wrote")
    store = Store.open(config.data.store)
    config = config.model_copy(update={"world": world_of(store)})
    check_data(config, store, processes)
    with META:
        hierarchy = Hierarchy(config.hierarchy())
    levels = tuple(_level(number, level, hierarchy, store.rate_hz) for number, level in enumerate(config.levels, 1))
    costs = tuple(_phase(phase, config, processes) for phase in phases(config))
    return Estimate(levels, costs, _count(hierarchy), store.rate_hz, processes)


def _level(number: int, level: LevelConfig, hierarchy: Hierarchy, rate_hz: float) -> LevelEstimate:
    clock: Clock = hierarchy.clock
    period = clock.periods[number - 1]
    return LevelEstimate(
        level=number,
        stride=level.stride,
        window=level.window,
        length=level.length,
        dim=level.dim,
        period_steps=period,
        period_s=period / rate_hz,
        sees_s=clock.span(number, 1) / rate_hz,
        sequence_s=clock.span(number, level.length) / rate_hz,
        parameters=_count(hierarchy.level(number)),
    )


def _phase(phase: Phase, config: RunConfig, processes: int) -> PhaseEstimate:
    """The model is built anew for each phase: a phase freezes what it does not train."""
    with META:
        trainee = Trainee(Hierarchy(config.hierarchy()), phase, phase.lengths(config))
    clock = trainee.hierarchy.clock
    span, offsets = phase.crop(clock, config).reading(phase.source)
    clip = _clip(config, phase, clock, len(offsets), config.data.batch // config.train.accumulate // processes)
    counter, kept = FlopCounterMode(display=False), _Kept()
    with counter, kept:
        trainee(clip, Draws(config.seed)).loss.backward()
    trained = _count(trainee, trained=True)
    # A weight, and for those that train a gradient and AdamW's two moments.
    state = FLOAT * (_count(trainee) + 3 * trained)
    assert config.world is not None
    return PhaseEstimate(
        name=phase.name,
        levels=phase.levels,
        source=phase.source,
        steps=config.train.steps,
        clip_steps=span,
        clip_s=span / config.world.rate_hz,
        reads=len(offsets),
        flop=counter.get_total_flops() * config.train.accumulate,
        activation_bytes=kept.bytes,
        memory_bytes=state + kept.bytes + clip.inputs.nbytes,
    )


def _clip(config: RunConfig, phase: Phase, clock: Clock, reads: int, batch: int) -> Clip:
    """An empty clip of the right shape."""
    world = config.world
    assert world is not None
    if phase.source:
        inputs = torch.empty(batch, reads, config.levels[phase.source - 1].dim, device=META)
    else:
        inputs = torch.empty(batch, reads, world.height, world.width, world.channels, dtype=torch.uint8, device=META)
    present = torch.empty(batch, reads, dtype=torch.bool, device=META)
    row = torch.empty(batch, dtype=torch.int64, device=META)
    if not world.action_dim:
        return Clip(inputs, present, None, None, row)
    steps = clock.action_steps(phase.lengths(config))
    actions = torch.empty(batch, steps, world.action_dim, device=META)
    return Clip(inputs, present, actions, torch.empty(batch, steps, dtype=torch.bool, device=META), row)


class _Kept(torch.autograd.graph.saved_tensors_hooks):
    """Adds up what autograd keeps for the backward pass, each storage once, parameters left out."""

    def __init__(self) -> None:
        self._storages: dict[int, torch.UntypedStorage] = {}
        super().__init__(self._keep, lambda tensor: tensor)

    @property
    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self._storages.values())

    def _keep(self, tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            self._storages[storage._cdata] = storage  # held, so that its address stays its own
        return tensor


def _count(module: nn.Module, trained: bool = False) -> int:
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trained)
