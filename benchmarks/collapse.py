"""Collapse is seen where it happens, and does not happen by default: three objectives on several stores, several seeds.

    python benchmarks/collapse.py --store NAME=PATH [--seeds 3] [--steps 300] --out benchmarks/results/collapse.json

* ``off``: no term holds the states apart. Expected: full or dimensional collapse, and the run says so.
* ``per-step``: SIGReg over the batch at each time index alone. Expected where the camera stands still: slow collapse.
* ``default``: the preset. Expected: within-sequence retrieval on held-back footage at least 5 times chance.

Every run is `hjepa train tiny` with the overrides printed in the result, one thread, level by level.
"""

from __future__ import annotations

import argparse
import json
import platform
import shlex
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import torch

from hjepa.config import load
from hjepa.data.store import Store
from hjepa.device import set_threads
from hjepa.evaluate.dense import recordings
from hjepa.evaluate.horizon import horizon_curves
from hjepa.evaluate.retrieval import retrieval
from hjepa.hierarchy import Hierarchy
from hjepa.train.log import read_metrics
from hjepa.train.loop import train

APART = ("variance", "covariance", "time_variance", "time_covariance", "inverse", "sigreg")


def without(*kept: str) -> list[str]:
    """Overrides that switch off every term which holds states apart, but those kept."""
    return [f"levels.{k}.objective.weights.{name}=0" for k in (1, 2, 3) for name in APART if name not in kept]


ARMS = {
    "off": without(),
    "per-step": [*without("sigreg"), "each_level.objective.sigreg_over=step", "each_level.latent.kind=none"],
    "default": [],
}


def one(store: str, arm: str, seed: int, steps: int, work: Path, extra: list[str]) -> dict[str, Any]:
    """Train one arm and measure it on the held-back part."""
    run = work / f"{arm}-{seed}"
    shutil.rmtree(run, ignore_errors=True)
    overrides = [f"run={run}", f"data.store={store}", f"seed={seed}", f"train.steps={steps}", "train.threads=1"]
    config = load(["tiny"], [*overrides, *extra, *ARMS[arm]])
    began = time.perf_counter()
    train(config)
    seconds = time.perf_counter() - began
    model, opened = Hierarchy.from_pretrained(run), Store.open(store)
    trained, found = (
        recordings(model, opened, part, config.data.held_back, config.data.hold) for part in ("train", "held_back")
    )
    said = sorted({text.split(" (")[0] for line in read_metrics(run) for text in line["warnings"]})
    last = {k: level["criteria"] for line in read_metrics(run) for k, level in line["levels"].items()}
    return {
        "arm": arm,
        "seed": seed,
        "overrides": [*extra, *ARMS[arm]],
        "seconds": round(seconds, 1),
        "warnings": said,
        "criteria": last,
        "retrieval_train": [r.asdict() for r in retrieval(model, trained)],
        "retrieval": [r.asdict() for r in retrieval(model, found)],
        "horizon": [c.asdict() for c in horizon_curves(model, found)],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", action="append", required=True, metavar="NAME=PATH")
    parser.add_argument("--set", action="append", default=[], metavar="NAME:KEY=VALUE", help="override for one store")
    parser.add_argument("--arms", default=",".join(ARMS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--work", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    set_threads(1)
    results = []
    for name, path in (text.split("=", 1) for text in asked.store):
        extra = [text.split(":", 1)[1] for text in asked.set if text.split(":", 1)[0] == name]
        for seed in range(asked.seeds):
            for arm in asked.arms.split(","):
                found = one(path, arm, seed, asked.steps, asked.work / name, extra)
                results.append({"store": name, **found})
                print(
                    name,
                    arm,
                    seed,
                    found["warnings"],
                    *([round(r["over_chance"], 1) for r in found[key]] for key in ("retrieval_train", "retrieval")),
                    flush=True,
                )
    facts = {"schema": 1, "torch": torch.__version__, "machine": platform.machine(), "threads": 1, "steps": asked.steps}
    command = shlex.join(["python", *sys.argv])
    lines = ",\n".join(json.dumps(_rounded(r)) for r in results)
    asked.out.parent.mkdir(parents=True, exist_ok=True)
    asked.out.write_text(json.dumps({**facts, "command": command})[:-1] + f', "results": [\n{lines}\n]}}\n')


def _rounded(x: Any) -> Any:
    if isinstance(x, dict):
        return {k: _rounded(v) for k, v in x.items()}
    if isinstance(x, list):
        return [_rounded(v) for v in x]
    return round(x, 4) if isinstance(x, float) else x


if __name__ == "__main__":
    main()
