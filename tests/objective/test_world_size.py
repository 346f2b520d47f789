"""Law 5: what ranks share is the global batch."""

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.parallel import DistributedDataParallel

from hjepa.config import TermWeights
from hjepa.hierarchy import Hierarchy
from hjepa.objective.draws import Draws
from hjepa.train.phases import phases
from hjepa.train.trainee import Trainee
from tests.models import awaken, random_clip, run_config

BATCH = 6
CASES = [
    *({"weights": {**dict.fromkeys(TermWeights.model_fields, 0), name: 1}} for name in TermWeights.model_fields),
    {"weights": {"sigreg": 1}, "sigreg_over": "step"},
    {"weights": {"prediction": 1}, "energy": "l1", "target": "stopgrad"},
    {"weights": {"prediction": 1}, "energy": "cosine", "target": "ema"},
]


def gradients(case, rank, world):
    """Loss, gradients and criteria of this process's share of one fixed global batch."""
    torch.manual_seed(0)
    config = run_config(depth=2, actions=2, level={"objective": case, "length": 4})
    phase = phases(config)[0]
    model = awaken(Hierarchy(config.hierarchy()))
    trainee = Trainee(model, phase, phase.lengths(config))
    clip = random_clip(trainee.crop, model.clock.action_steps(trainee.lengths), BATCH, actions=2)
    clip.present[0, :6] = False  # unevenly: the first process holds all the missing frames
    clip.present[1, :3] = False
    share = slice(rank * BATCH // world, (rank + 1) * BATCH // world)
    mine = type(clip)(*(getattr(clip, n)[share] for n in ("inputs", "present", "actions")), None, clip.row[share])
    forward = DistributedDataParallel(trainee, find_unused_parameters=True) if world > 1 else trainee
    step = forward(mine, Draws(0, rank=rank, world=world), True)
    step.loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    figures = [v for o in step.outcomes.values() for v in o.criteria.asdict().values()]
    return float(step.loss.detach()), torch.cat(grads).numpy(), np.array(figures)


def worker(rank, world, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet{world}", rank=rank, world_size=world)
    for number, case in enumerate(CASES):
        loss, grads, figures = gradients(case, rank, world)
        np.savez(f"{folder}/{world}-{rank}-{number}.npz", loss=loss, grads=grads, figures=figures)
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("world")
    for world in (2, 3):
        mp.spawn(worker, (world, str(folder)), nprocs=world)
    return folder


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.parametrize("number", range(len(CASES)))
def test_loss_gradients_and_criteria_are_those_of_one_process_with_the_whole_batch(shared, number, world):
    loss, grads, figures = gradients(CASES[number], 0, 1)
    assert np.abs(grads).max() > 0
    for rank in range(world):
        theirs = np.load(shared / f"{world}-{rank}-{number}.npz")
        assert theirs["loss"] == pytest.approx(loss, abs=1e-5)
        assert np.allclose(theirs["grads"], grads, atol=1e-5)
        assert np.allclose(theirs["figures"], figures, rtol=1e-4, atol=1e-4)
