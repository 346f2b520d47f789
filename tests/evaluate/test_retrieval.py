import numpy as np
import pytest
import torch

from hjepa.errors import UserError
from hjepa.evaluate.dense import Recording
from hjepa.evaluate.retrieval import retrieval
from hjepa.hierarchy import Hierarchy
from tests.models import hierarchy_config


def untrained():
    """A predictor that is persistence."""
    return Hierarchy(hierarchy_config(depth=1)).eval()


def recording(states):
    return Recording(np.arange(len(states)), [states], [0], None)


def test_a_latent_that_is_constant_in_time_is_at_chance():
    [found] = retrieval(untrained(), [recording(torch.ones(50, 6)), recording(torch.zeros(70, 6))])
    assert found.over_chance == pytest.approx(1)
    assert found.rank == pytest.approx(0.5, abs=0.02)
    assert found.std_within == 0 < found.std_total


def test_persistence_on_a_steady_walk_misses_by_one_step():
    [found] = retrieval(untrained(), [recording(torch.arange(200.0)[:, None].expand(200, 6))])
    assert found.over_chance == 0
    assert found.rank == pytest.approx(2 / 199, abs=0.02)  # the states between now and then are nearer


def test_a_predictor_that_knows_the_walk_hits_every_time():
    model = untrained()
    with torch.no_grad():
        model.level(1).predictor.skip.bias.fill_(2)  # two environment steps a period, one unit each
    [found] = retrieval(model, [recording(torch.arange(200.0)[:, None].expand(200, 6))])
    assert found.over_chance == pytest.approx(200) and found.rank == 0


def test_long_recordings_have_a_bounded_number_of_candidates():
    [found] = retrieval(untrained(), [recording(torch.randn(2500, 6))])
    assert found.candidates == 1024 and found.over_chance == pytest.approx(1, abs=1)


def test_recordings_without_a_prediction_are_refused():
    with pytest.raises(UserError, match="needs to predict"):
        retrieval(untrained(), [recording(torch.zeros(2, 6))])
