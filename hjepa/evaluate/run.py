"""A run directory as evaluation sees it: its model, its configuration, and the part of its store that it never saw."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from hjepa.config import RunConfig, load
from hjepa.data.store import Store
from hjepa.device import best_device
from hjepa.errors import UserError
from hjepa.evaluate.dense import Part, Recording, recordings
from hjepa.evaluate.horizon import HorizonCurve, horizon_curves
from hjepa.hierarchy import Hierarchy

WITHIN_STEPS, WITHIN_PERIODS = 128, 4  # how far predictions reach unless told: the longer of the two


@dataclass(frozen=True)
class Run:
    """What `hjepa train` left behind; ``model`` is on the best device, in evaluation mode."""

    path: Path
    config: RunConfig
    model: Hierarchy

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Raises UserError where the directory holds no run, or no model yet."""
        path = Path(path)
        if not (path / "config.yaml").is_file():
            raise UserError(f"{path}: no run; legal: a directory that `hjepa train` wrote")
        return cls(path, load([path / "config.yaml"]), Hierarchy.from_pretrained(path).to(best_device()))

    def store(self) -> Store:
        """The store that it was trained on.

        Raises:
            UserError: it is not where it was.
        """
        try:
            return Store.open(self.config.data.store)
        except UserError as error:
            raise UserError(f"{error} (the store that {self.path} was trained on; another can be named)") from None

    def recordings(self, store: Store, part: Part) -> list[Recording]:
        """A part of a store through the model; ``held_back`` and ``train`` as in this run's training."""
        data = self.config.data
        return recordings(self.model, store, part, data.held_back, data.hold)

    def within(self) -> int:
        """Environment steps that predictions reach by default."""
        return max(WITHIN_STEPS, WITHIN_PERIODS * self.model.clock.periods[-1])

    def curves(
        self, store: Store | None = None, part: Part | None = None, within_s: float | None = None, starts: int = 512
    ) -> list[HorizonCurve]:
        """The horizon curve of every level.

        Args:
            store: default: the run's own.
            part: default: what was held back of the run's own store, all of another.
            within_s: how far to predict, in seconds.
            starts: about how many predictions begin.

        Raises:
            UserError: no such store or part, or nothing long enough in it.
        """
        own = store is None or store.path.resolve() == Path(self.config.data.store).resolve()
        store = store or self.store()
        if part is None:
            part = "held_back" if own and self.config.data.held_back else "all"
        within = self.within() if within_s is None else round(within_s * store.rate_hz)
        if within < 1 or starts < 1:
            raise UserError(f"within {within_s} s from {starts} starts: both must be above 0")
        return horizon_curves(self.model, self.recordings(store, part), within, starts)
