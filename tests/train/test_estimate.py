"""A dry run counts what the run will do, and starts nothing."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from hjepa.errors import UserError
from hjepa.hierarchy import Hierarchy
from hjepa.objective.draws import Draws
from hjepa.train.estimate import estimate
from hjepa.train.phases import phases
from hjepa.train.trainee import Trainee
from tests.models import random_clip, run_config
from tests.stores import moving_square


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return moving_square(tmp_path_factory.mktemp("estimate") / "store", actions=False)


def config(store, actions=0, batch=8, **train):
    objective = {"weights": {"sigreg": 1, "information": 0.1}}
    data = {"store": str(store.path), "batch": batch}
    return run_config(actions=actions, level={"objective": objective}, data=data, train={"steps": 10, **train})


def test_flop_and_parameters_are_those_of_a_real_step(store):
    c = config(store)
    cost = estimate(c)
    (phase,) = phases(c)
    model = Hierarchy(c.hierarchy())
    trainee = Trainee(model, phase, phase.lengths(c))
    with FlopCounterMode(display=False) as counter:
        trainee(random_clip(trainee.crop, batch=8), Draws(c.seed)).loss.backward()
    assert cost.phases[0].flop == pytest.approx(counter.get_total_flops(), rel=0.01)  # attention kernels differ
    assert cost.parameters == sum(p.numel() for p in model.parameters())
    assert cost.flop == 10 * cost.phases[0].flop


def test_periods_and_clips_are_the_clocks(store):
    cost = estimate(config(store, regime="staged"))
    assert [level.period_steps for level in cost.levels] == [2, 4, 8]
    assert [level.period_s for level in cost.levels] == pytest.approx([0.2, 0.4, 0.8])
    assert [p.name for p in cost.phases] == ["level 1", "level 2", "level 3", "joint"]
    assert cost.phases[0].clip_steps == 5 and cost.phases[0].reads == 3  # 3 states, 2 steps apart, of one frame each


def test_accumulation_costs_the_same_work_in_less_memory(store):
    whole, halves = (estimate(config(store, accumulate=n)).phases[0] for n in (1, 2))
    assert halves.flop == pytest.approx(whole.flop, rel=0.05)
    assert halves.activation_bytes < 0.6 * whole.activation_bytes


def test_processes_share_the_batch(store):
    one, two = estimate(config(store)), estimate(config(store), processes=2)
    assert two.phases[0].flop == pytest.approx(one.phases[0].flop / 2, rel=0.05)


def test_kept_activations_are_what_a_real_step_keeps(store):
    """Counted on real tensors, as autograd hands them over."""
    c = config(store)
    (phase,) = phases(c)
    trainee = Trainee(Hierarchy(c.hierarchy()), phase, phase.lengths(c))
    kept = {}

    def keep(tensor):
        if not isinstance(tensor, torch.nn.Parameter):
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        trainee(random_clip(trainee.crop, batch=8), Draws(c.seed))
    real = sum(t.untyped_storage().nbytes() for t in kept.values())
    assert estimate(c).phases[0].activation_bytes == pytest.approx(real, rel=0.1)


def test_nothing_is_estimated_for_a_run_that_could_not_start(store):
    with pytest.raises(UserError, match=r"data\.store"):
        estimate(config(store).model_copy(update={"data": run_config().data}))
    with pytest.raises(UserError, match=r"data\.batch"):
        estimate(config(store), processes=3)
