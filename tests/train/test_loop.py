"""One loop for every regime: it learns, resumes exactly, refuses what is wrong, and leaves a whole run behind."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from hjepa.config import dump, load
from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.train.loop import schedule, train
from hjepa.train.phases import phases
from tests.models import run_config
from tests.stores import moving_square

OBJECTIVE = {"weights": {"sigreg": 10, "inverse": 1, "information": 0.01}, "directions": 16}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return moving_square(tmp_path_factory.mktemp("data") / "store").path


def config(store, run, regime="joint", steps=6, depth=3, **train_options):
    options = {"regime": regime, "steps": steps, "log_every": 1, "save_every": 2, "threads": 1, **train_options}
    return run_config(
        depth, level={"objective": OBJECTIVE}, run=str(run), train=options,
        data={"store": str(store), "batch": 4, "shift": 1},
    ).model_copy(update={"world": None})  # fmt: skip


def lines(run):
    """metrics.jsonl without what a clock measured."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k not in ("seconds", "data_wait")} for line in found]


def same_weights(a, b):
    a, b = load_file(a / "model.safetensors"), load_file(b / "model.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("regime", ["joint", "levelwise", "staged"])
def test_every_regime_leaves_a_whole_run(store, tmp_path, regime):
    run = train(config(store, tmp_path / "run", regime))
    names = [phase.name for phase in phases(load([run / "config.yaml"]))]
    assert [line["phase"] for line in lines(run)] == [name for name in names for _ in range(6)]
    assert Hierarchy.from_pretrained(run).depth == 3
    assert set(lines(run)[-1]["levels"]) == ({"3"} if regime == "levelwise" else {"1", "2", "3"})


def test_training_again_with_the_same_seed_gives_the_same_run(store, tmp_path):
    a, b = (train(config(store, tmp_path / name)) for name in "ab")
    assert same_weights(a, b) and lines(a) == lines(b)


def test_levelwise_training_moves_one_level_at_a_time(store, tmp_path):
    first = config(store, tmp_path / "run", "levelwise", steps=2)
    run = train(first)
    torch.manual_seed(first.seed)
    fresh = Hierarchy(load([run / "config.yaml"]).hierarchy()).state_dict()
    after = load_file(run / "model.safetensors")
    assert all(any(not torch.equal(fresh[k], after[k]) for k in fresh if f"levels.{n}." in k) for n in range(3))
    one = train(config(store, tmp_path / "one", "levelwise", steps=2, depth=1))
    alone = load_file(one / "model.safetensors")
    assert all(torch.equal(alone[k], after[k]) for k in alone)  # level 1 is what it was when level 2 began


@pytest.mark.parametrize("regime", ["joint", "staged"])
def test_a_run_that_is_killed_anywhere_ends_like_one_that_was_not(store, tmp_path, regime):
    whole = train(config(store, tmp_path / "whole", regime))
    again = tmp_path / "again"
    path = tmp_path / "config.yaml"
    path.write_text(dump(config(store, again, regime)).replace("world: null", ""))
    code = "import sys; from hjepa.config import load; from hjepa.train.loop import train; train(load(sys.argv[1:]))"
    for lines_before_kill in (3, 9):
        process = subprocess.Popen([sys.executable, "-c", code, str(path)], stderr=subprocess.DEVNULL)
        metrics = again / "metrics.jsonl"
        while process.poll() is None and not (
            metrics.is_file() and len(metrics.read_text().splitlines()) >= lines_before_kill
        ):
            time.sleep(0.01)
        if process.poll() is None:
            os.kill(process.pid, signal.SIGKILL)
        process.wait()
    train(load([path]))
    assert same_weights(whole, again) and lines(whole) == lines(again)


@pytest.mark.parametrize("regime", ["joint", "levelwise"])
def test_two_processes_train_what_one_does(store, tmp_path, regime):
    one, two = (config(store, tmp_path / name, regime, steps=3) for name in ("one", "two"))
    train(one)
    path = tmp_path / "config.yaml"
    path.write_text(dump(two).replace("world: null", ""))
    script = tmp_path / "script.py"
    script.write_text(
        "import sys; from hjepa.config import load; from hjepa.train.loop import train; train(load(sys.argv[1:]))"
    )
    launch = "--multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no"
    command = [sys.executable, "-m", "accelerate.commands.launch", *launch.split(), str(script), str(path)]
    subprocess.run(command, check=True, capture_output=True)
    for a, b in zip(lines(tmp_path / "one"), lines(tmp_path / "two"), strict=True):
        assert a["phase"] == b["phase"] and a["loss"] == pytest.approx(b["loss"], abs=1e-4)


def test_accumulated_steps_see_the_same_clips(store, tmp_path):
    run = train(config(store, tmp_path / "run", accumulate=2))
    assert len(lines(run)) == 6


def test_training_takes_the_prediction_from_persistence_to_something_better(store, tmp_path):
    c = config(store, tmp_path / "run", steps=150, depth=1, lr=3e-3)
    run = train(c.model_copy(update={"data": c.data.model_copy(update={"batch": 16, "shift": 0})}))
    skill = [line["levels"]["1"]["criteria"]["skill"] for line in lines(run)]
    assert skill[0] == pytest.approx(0, abs=0.1)
    assert sum(skill[-10:]) / 10 > 0.25


@pytest.mark.parametrize("seed", range(3))
def test_a_run_that_collapses_says_so_and_a_healthy_one_does_not(store, tmp_path, seed):
    apart = {"sigreg": 25, "time_variance": 10}
    said = {}
    for name, weights in {"off": {}, "on": apart}.items():
        c = config(store, tmp_path / name, steps=100, depth=1, lr=3e-3, log_every=10)
        objective = {"weights": {**weights, "information": 0.005}, "directions": 16}
        tree = run_config(1, level={"objective": objective, "length": 6}).levels
        data = c.data.model_copy(update={"batch": 16, "shift": 0})
        run = train(c.model_copy(update={"levels": tree, "data": data, "seed": seed}))
        said[name] = " ".join(text for line in lines(run)[-3:] for text in line["warnings"])
    assert "collapse" in said["off"] and "collapse" not in said["on"]


def test_the_four_criteria_are_live_for_every_level(store, tmp_path):
    found = lines(train(config(store, tmp_path / "run", steps=2)))[-1]["levels"]
    for level in found.values():
        assert {"rank_x", "rank_y", "std_batch", "std_time", "skill", "nats", "retrieval"} == set(level["criteria"])
        assert level["criteria"]["rank_x"] > 1 and "gaussianity" in level


@pytest.mark.parametrize("target", ["online", "stopgrad", "ema"])
def test_every_kind_of_target_trains(store, tmp_path, target):
    c = config(store, tmp_path / "run", steps=3)
    levels = tuple(
        level.model_copy(update={"objective": level.objective.model_copy(update={"target": target})})
        for level in c.levels
    )
    run = train(c.model_copy(update={"levels": levels}))
    stored = load_file(next((run / "state").glob("*/trainee.safetensors")))
    assert any(k.startswith("target.") for k in stored) == (target == "ema")


def test_bfloat16_trains(store, tmp_path):
    assert len(lines(train(config(store, tmp_path / "run", precision="bf16", steps=2)))) == 2


def test_a_directory_with_another_run_is_refused_and_kept(store, tmp_path):
    run = train(config(store, tmp_path / "run", steps=2))
    before = (run / "model.safetensors").read_bytes()
    with pytest.raises(UserError, match=r"holds another run: .*steps: 3 \(there: steps: 2\)"):
        train(config(store, run, steps=3))
    assert (run / "model.safetensors").read_bytes() == before


def test_what_the_store_cannot_give_is_refused_before_training(tmp_path):
    plain = moving_square(tmp_path / "plain", actions=False).path
    with pytest.raises(UserError, match=r"inverse=.*has no actions; legal: 0"):
        train(config(plain, tmp_path / "run"))
    with pytest.raises(UserError, match=r"data.store is not set"):
        train(config("", tmp_path / "run"))
    with pytest.raises(UserError, match="nowhere"):
        train(config(tmp_path / "nowhere", tmp_path / "run"))


def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_step(store, tmp_path):
    with pytest.raises(UserError, match=r"not finite at step \d+.*train.lr"):
        train(config(store, tmp_path / "run", steps=50, lr=1e20, clip_norm=1e20))


def test_the_learning_rate_warms_up_and_ends_at_zero():
    rates = [schedule(step, 100, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.1, rel=0.1) and max(rates) == pytest.approx(rates[9], rel=0.05)
    assert rates[-1] < 0.01 and all(a >= b for a, b in itertools.pairwise(rates[10:]))
