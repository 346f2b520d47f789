"""The training loop: one for every regime, resumable at any step, the same for any number of processes."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import nn

from hjepa import config as configuration
from hjepa.config import RunConfig
from hjepa.data.store import Store
from hjepa.data.stream import Clip, ClipStream
from hjepa.device import on_cpu, set_threads
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.objective.draws import Draws
from hjepa.train import checkpoint
from hjepa.train.checkpoint import Progress
from hjepa.train.latents import cache_states, split
from hjepa.train.log import Log
from hjepa.train.phases import Phase, phases
from hjepa.train.trainee import Step, Trainee
from hjepa.train.world import ACTIONS, FRAMES, STATES, world_of


def train(config: RunConfig) -> Path:
    """Train a run to its end, from wherever its directory says it is.

    Returns:
        The run directory: config.yaml, model.safetensors, metrics.jsonl, state/.

    Raises:
        UserError: anything wrong with the configuration, the store or the run directory.
    """
    AcceleratorState._reset_state()  # an earlier training of this process may have had another precision
    accelerator = Accelerator(
        cpu=on_cpu(),
        mixed_precision=config.train.precision,
        gradient_accumulation_steps=config.train.accumulate,
    )
    set_threads(config.train.threads, accelerator.num_processes)
    return Trainer(config, accelerator).run()


class Trainer:
    """Holds what outlives a phase: configuration, store, model, log, progress."""

    def __init__(self, config: RunConfig, accelerator: Accelerator) -> None:
        self.accelerator = accelerator
        self.store = Store.open(_required(config.data.store, "data.store", "a store that `hjepa ingest` wrote"))
        self.config = config.model_copy(update={"world": world_of(self.store)})
        self.path = Path(_required(config.run, "run", "a directory for this run"))
        self.phases = phases(self.config)
        check_data(self.config, self.store, accelerator.num_processes)
        with accelerator.main_process_first():
            self._claim()
        torch.manual_seed(self.config.seed)
        self.hierarchy = Hierarchy(self.config.hierarchy()).to(accelerator.device)
        self.log = Log(self.path, accelerator.is_main_process)
        self.state = checkpoint.latest(self.path)
        self.progress = checkpoint.read_progress(self.state) if self.state else Progress()

    def run(self) -> Path:
        self.log.start(self.progress.total)
        for number, phase in enumerate(self.phases):
            if number >= self.progress.phase:
                self._phase(number, phase)
        self.log.close()
        return self.path

    def _phase(self, number: int, phase: Phase) -> None:
        lengths, steps = phase.lengths(self.config), self.config.train.steps
        trainee = Trainee(self.hierarchy, phase, lengths).to(self.accelerator.device)
        trained = [p for p in trainee.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(_decayed(trained, self.config.train.weight_decay), lr=self.config.train.lr)
        self._restore(number, trainee, optimizer)
        if self.progress.step < steps:
            clips = self._clips(phase, self.progress.step)
            forward = torch.compile(trainee) if self.config.train.compile else trainee
            wrapped, optimizer = self.accelerator.prepare(forward, optimizer)
            for step in range(self.progress.step, steps):
                self._step(number, phase, step, wrapped, trainee, optimizer, trained, clips)
        last = number + 1 == len(self.phases)
        self.progress = Progress(number if last else number + 1, steps if last else 0, self.progress.total)
        self._save(trainee, optimizer)
        self.accelerator.free_memory()

    def _step(
        self,
        number: int,
        phase: Phase,
        step: int,
        wrapped: nn.Module,
        trainee: Trainee,
        optimizer: torch.optim.Optimizer,
        trained: list[nn.Parameter],
        clips: Iterator[Clip],
    ) -> None:
        """One optimiser step: all its accumulated parts, the log, the checkpoint."""
        t, a = self.config.train, self.accelerator
        done = self.progress.total + 1
        figures = done % t.log_every == 0 or step + 1 == t.steps
        rate = t.lr * schedule(step, t.steps, t.warmup)
        for group in optimizer.param_groups:
            group["lr"] = rate
        waited, began = 0.0, time.perf_counter()
        for part in range(t.accumulate):
            asked = time.perf_counter()
            clip = next(clips).to(a.device)
            waited += time.perf_counter() - asked
            draws = Draws(self.config.seed, number, step, part, rank=a.process_index, world=a.num_processes)
            with a.accumulate(wrapped), a.autocast():
                outcome: Step = wrapped(clip, draws, figures)
                a.backward(outcome.loss)
                if a.sync_gradients:
                    a.clip_grad_norm_(trained, t.clip_norm)
                optimizer.step()
                optimizer.zero_grad()
        trainee.follow()
        self.progress = Progress(number, step + 1, done)
        took = time.perf_counter() - began
        self.log.tick(phase.name, step + 1, t.steps, took, waited)
        saves = done % t.save_every == 0 or step + 1 == t.steps
        if (figures or saves) and not torch.isfinite(outcome.loss.detach()):
            raise UserError(
                f"{self.path}: the loss is not finite at step {done} ({phase.name}); the last state is kept; legal: a "
                f"lower train.lr (now {t.lr:g}) or train.clip_norm (now {t.clip_norm:g})"
            )
        if figures:
            self.log.write(self.config, phase.name, step + 1, done, rate, outcome)
        if saves and step + 1 < t.steps:
            self._save(trainee, optimizer)

    def _clips(self, phase: Phase, start: int) -> Iterator[Clip]:
        """This process's micro-batches of a phase from optimiser step ``start`` on."""
        c, a = self.config, self.accelerator
        source = self.store
        for below in range(1, phase.source + 1):
            source = self._cached(below, source)
        lengths = phase.lengths(c)
        span, offsets = phase.crop(self.hierarchy.clock, c).reading(phase.source)
        has_actions = ACTIONS in source.arrays
        stream = ClipStream(
            source,
            array=STATES if phase.source else FRAMES,
            span=span,
            offsets=offsets,
            action_steps=self.hierarchy.clock.action_steps(lengths) if has_actions else 0,
            batch=c.data.batch // c.train.accumulate,
            seed=c.seed,
            rank=a.process_index,
            world=a.num_processes,
            workers=c.data.workers,
            flip=c.data.flip and not phase.source,
            shift=0 if phase.source else c.data.shift,
            **split(c, phase.source),
        )
        return stream.batches(start * c.train.accumulate)

    def _cached(self, level: int, source: Store) -> Store:
        out = self.path / "latents" / f"level{level}"
        with self.accelerator.main_process_first():
            return cache_states(self.hierarchy, level, source, out, self.config, self.log.caching(level))

    def _restore(self, number: int, trainee: Trainee, optimizer: torch.optim.Optimizer) -> None:
        if self.state is None:
            return
        if number == self.progress.phase and self.progress.step:
            checkpoint.restore_weights(self.state, trainee)
            checkpoint.restore_optimizer(self.state, optimizer)
        else:  # killed between two phases: only the model goes on
            checkpoint.restore_model(self.state, self.hierarchy)
        self.state = None

    def _save(self, trainee: Trainee, optimizer: torch.optim.Optimizer) -> None:
        if self.accelerator.is_main_process:
            checkpoint.save(self.path, self.progress, trainee, optimizer)
            self.hierarchy.save_pretrained(self.path)
        self.accelerator.wait_for_everyone()

    def _claim(self) -> None:
        """Write the resolved configuration, or check that the directory holds this very run."""
        path, mine = self.path / "config.yaml", configuration.dump(self.config)
        if not path.is_file():
            self.path.mkdir(parents=True, exist_ok=True)
            path.write_text(mine)
            return
        theirs = configuration.dump(configuration.load([path]))
        differ = [
            f"{a.strip()} (there: {b.strip()})"
            for a, b in zip(mine.splitlines(), theirs.splitlines(), strict=False)
            if a != b
        ]
        if differ or len(mine.splitlines()) != len(theirs.splitlines()):
            raise UserError(
                f"{self.path} holds another run: {'; '.join(differ[:5])}; "
                "legal: the same configuration, or another run="
            )


def schedule(step: int, steps: int, warmup: float) -> float:
    """Share of the learning rate at a step: linear warm-up over a share of the steps, then cosine to zero."""
    warm = max(1, round(warmup * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * step / steps))


def check_data(config: RunConfig, store: Store, processes: int = 1) -> None:
    """Raise UserError where the store cannot give what the configuration asks for."""
    share = config.train.accumulate * processes
    if config.data.batch % share:
        raise UserError(f"data.batch={config.data.batch} is no multiple of processes x train.accumulate = {share}")
    for number, level in enumerate(config.levels, 1):
        if level.objective.weights.inverse and ACTIONS not in store.arrays:
            raise UserError(
                f"levels.{number}.objective.weights.inverse={level.objective.weights.inverse}, but {store.path} has no "
                f"actions; legal: 0, and a latent (levels.{number}.latent.kind=gaussian) instead"
            )


def _decayed(parameters: list[nn.Parameter], decay: float) -> list[dict]:
    """Weight decay on matrices alone."""
    wide = [p for p in parameters if p.ndim > 1]
    return [
        {"params": wide, "weight_decay": decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]


def _required(value: str, key: str, what: str) -> str:
    if not value:
        raise UserError(f"{key} is not set; legal: {key}={what}")
    return value
