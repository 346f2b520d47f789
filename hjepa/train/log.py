"""metrics.jsonl and what the terminal shows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from hjepa.config import RunConfig
from hjepa.errors import UserError
from hjepa.objective.criteria import diagnose
from hjepa.train.trainee import Step

METRICS = "metrics.jsonl"


class Log:
    """One line of JSON every ``log_every`` steps; a progress bar; warnings when something has collapsed.

    A line holds phase, step, total, loss, lr, seconds (spent since the last line), data_wait (share of it), and per
    level the terms, the four criteria and SIGReg's statistic. Only the main process writes.
    """

    def __init__(self, run: Path, main: bool) -> None:
        self.path, self.main = run / METRICS, main
        self.console = Console(stderr=True, quiet=not main)
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self.bars = Progress(*columns, console=self.console, disable=not main)
        self._task: tuple[str, TaskID] | None = None
        self._took = self._waited = 0.0
        self._warned: set[str] = set()
        self._before: set[str] = set()

    def start(self, total: int) -> None:
        """Go on after optimiser step ``total``: later lines belong to steps that will be taken again."""
        if self.main and self.path.is_file():
            kept = [
                line
                for line in self.path.read_text().splitlines()
                if line.endswith("}") and json.loads(line)["total"] <= total
            ]
            self.path.write_text("".join(line + "\n" for line in kept))
        self.bars.start()

    def close(self) -> None:
        self.bars.stop()

    def tick(self, phase: str, step: int, steps: int, took: float, waited: float) -> None:
        """Seconds that one step took, and how many of them it waited for data."""
        self._took, self._waited = self._took + took, self._waited + waited
        self.bars.update(self._bar(f"train {phase}", steps), completed=step)

    def caching(self, level: int) -> Callable[[int, int], None]:
        """A progress callback (done, all) for the latent store of a level."""
        return lambda done, every: self.bars.update(self._bar(f"encode level {level}", every), completed=done)

    def write(self, config: RunConfig, phase: str, step: int, total: int, lr: float, outcome: Step) -> None:
        """Append the figures of one step, and say what has collapsed."""
        line: dict[str, Any] = {
            "phase": phase,
            "step": step,
            "total": total,
            "loss": float(outcome.loss.detach()),
            "lr": lr,
        }
        line |= {"seconds": round(self._took, 4), "data_wait": round(self._waited / max(self._took, 1e-9), 4)}
        line["levels"] = {str(k): _figures(o) for k, o in outcome.outcomes.items()}
        settled = step > 2 * config.train.warmup * config.train.steps
        line["warnings"] = self._warnings(config, outcome) if settled else []
        self._took = self._waited = 0.0
        if not self.main:
            return
        with self.path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        kinds = {text.split(" (")[0]: text for text in line["warnings"]}  # the figures in it change every time
        for kind in kinds.keys() & self._before - self._warned:  # seen twice in a row, said once
            self._warned.add(kind)
            self.console.print(f"[yellow]step {total}: {kinds[kind]}")
        self._before = set(kinds)
        skills = "  ".join(f"L{k} {o.criteria.skill:+.2f}" for k, o in outcome.outcomes.items() if o.criteria)
        self.bars.update(
            self._bar(f"train {phase}", config.train.steps), note=f"loss {line['loss']:.3f}  skill {skills}"
        )

    def _warnings(self, config: RunConfig, outcome: Step) -> list[str]:
        found = [diagnose(k, config.levels[k - 1], o.criteria) for k, o in outcome.outcomes.items() if o.criteria]
        return [text for texts in found for text in texts]

    def _bar(self, name: str, length: int) -> TaskID:
        if self._task is None or self._task[0] != name:
            self._task = name, self.bars.add_task(name, total=length, note="")
        return self._task[1]


def _figures(outcome: Any) -> dict[str, Any]:
    criteria = outcome.criteria.asdict() if outcome.criteria else {}
    figures = {"terms": {k: float(v) for k, v in outcome.terms.items()}, "criteria": criteria}
    if outcome.gaussianity is not None:
        figures["gaussianity"] = float(outcome.gaussianity)
    return figures


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Every line of a run's metrics.jsonl.

    Raises:
        UserError: the run has none.
    """
    path = Path(run) / METRICS
    if not path.is_file():
        raise UserError(f"{path}: no metrics; legal: a directory that `hjepa train` wrote")
    return [json.loads(line) for line in path.read_text().splitlines()]
