"""Each kind of collapse is seen, named, and told from health."""

import pytest
import torch

from hjepa.objective.criteria import diagnose, effective_rank, measure, retrieval_over_chance
from tests.models import hierarchy_config

LEVEL = hierarchy_config(depth=1, level={"length": 8, "dim": 16}).levels[0]


def figures(states, nats=1.0, valid=None):
    """Criteria of states under a good predictor: the truth and a little noise."""
    g = torch.Generator().manual_seed(9)
    predicted = states[:, 1:] + 0.1 * torch.randn(states[:, 1:].shape, generator=g)
    valid = torch.ones(states.shape[:2], dtype=torch.bool) if valid is None else valid
    return measure(states, states, predicted, valid, torch.tensor(nats))


def moving(seed=0):
    return torch.randn(64, 8, 16, generator=torch.Generator().manual_seed(seed))


def test_a_healthy_level_is_left_in_peace():
    found = figures(moving())
    assert diagnose(1, LEVEL, found) == []
    assert found.rank_x == pytest.approx(16, abs=1) and found.rank_y == pytest.approx(16, abs=1)
    assert found.std_batch == pytest.approx(1, abs=0.05) and found.std_time == pytest.approx(1, abs=0.05)
    assert found.skill > 0.95 and found.retrieval == pytest.approx(8)


@pytest.mark.parametrize(
    ("states", "nats", "kind", "cure"),
    [
        (lambda s: 0.01 * s, 1.0, "full collapse", "sigreg"),
        (lambda s: s[..., :1] * torch.ones(16), 1.0, "dimensional collapse", "covariance"),
        (lambda s: s[:, :1] + 0.01 * s, 1.0, "slow collapse", "time_variance"),
        (lambda s: s, 0.0, "z is idle", "information"),
    ],
)
def test_a_collapse_is_named_with_what_to_change(states, nats, kind, cure):
    said = diagnose(1, LEVEL, figures(states(moving()), nats))
    assert len(said) == 1 and kind in said[0] and f"levels.1.objective.weights.{cure}" in said[0]


def test_effective_rank_counts_dimensions():
    assert effective_rank(torch.diag(torch.tensor([1.0, 1, 1, 0]))) == pytest.approx(3)
    assert effective_rank(torch.eye(3)[:1].T @ torch.eye(3)[:1]) == pytest.approx(1)
    assert effective_rank(torch.full((3, 3), torch.nan)).isnan()


def test_retrieval_of_a_latent_that_is_constant_in_time_is_at_chance():
    still = moving()[:, :1].expand(-1, 8, -1)
    valid = torch.ones(64, 8, dtype=torch.bool)
    assert retrieval_over_chance(still[:, 1:], still, valid) == pytest.approx(1)


def test_padding_does_not_change_the_criteria():
    states = moving()
    valid = torch.ones(64, 8, dtype=torch.bool)
    valid[:, :2] = False
    spoilt = states.clone()
    spoilt[:, :2] = 50
    for a, b in zip(
        figures(states, valid=valid).asdict().values(), figures(spoilt, valid=valid).asdict().values(), strict=True
    ):
        assert a == pytest.approx(b, rel=1e-5)
