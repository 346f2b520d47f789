import pytest
import torch

from hjepa.objective.energy import distance
from hjepa.objective.sigreg import sigreg
from hjepa.objective.straightness import straightness
from hjepa.objective.vicreg import centred_in_time, covariance, invariance, variance
from hjepa.objective.world import moments, world_mean


def gaussian(b=512, n=3, d=8, seed=0):
    return torch.randn(b, n, d, generator=torch.Generator().manual_seed(seed))


def all_valid(states):
    return torch.ones(states.shape[:2], dtype=torch.bool)


def directions(d=8, r=64):
    raw = torch.randn(d, r, generator=torch.Generator().manual_seed(1))
    return raw / raw.norm(dim=0)


@pytest.mark.parametrize("over", ["step", "clip"])
def test_sigregs_statistic_is_about_one_for_a_gaussian_and_does_not_grow_with_the_batch(over):
    small, large = (sigreg(s, all_valid(s), directions(), over)[1] for s in (gaussian(128), gaussian(2048)))
    assert 0.5 < small < 2 and 0.5 < large < 2


def test_sigregs_loss_does_not_grow_with_the_batch_where_states_have_collapsed():
    losses = [
        sigreg(torch.zeros(b, 3, 8), torch.ones(b, 3, dtype=torch.bool), directions(), "clip")[0] for b in (8, 512)
    ]
    assert losses[0] == pytest.approx(losses[1]) and losses[0] > 0.1


@pytest.mark.parametrize(
    "broken",
    [lambda s: s * 0, lambda s: s * 3, lambda s: s + 2, lambda s: s[..., :1].expand_as(s), lambda s: s.sign()],
    ids=["constant", "too wide", "off centre", "one dimension", "two-valued"],
)
def test_sigreg_sees_what_is_not_a_standard_gaussian(broken):
    s = gaussian()
    healthy, sick = (sigreg(x, all_valid(x), directions(), "clip")[1] for x in (s, broken(s)))
    assert sick > 3 * healthy


def test_per_step_sigreg_cannot_see_a_latent_that_is_constant_in_time_but_the_time_terms_can():
    s = gaussian(n=6)
    frozen = s[:, :1].expand_as(s)
    _, blind = sigreg(frozen, all_valid(s), directions(), "step")
    assert blind < 2
    moving, still = (variance(centred_in_time(x, all_valid(x)), all_valid(x), 0.5) for x in (s, frozen))
    assert moving == 0 and still > 0.45


def test_masked_states_do_not_count():
    s = gaussian(64)
    valid = all_valid(s)
    valid[:32] = False
    spoilt = torch.where(valid[..., None], s, 99.0)
    for term in (
        lambda x, m: sigreg(x, m, directions(), "clip")[0],
        lambda x, m: sigreg(x, m, directions(), "step")[0],
        lambda x, m: variance(x, m, 2.0),
        covariance,
        invariance,
        straightness,
        lambda x, m: covariance(centred_in_time(x, m), m),
    ):
        assert term(spoilt, valid) == pytest.approx(float(term(s[32:], valid[32:])), abs=1e-5)


def test_variance_is_a_hinge_at_its_standard_deviation():
    s = gaussian(4096)
    assert variance(s, all_valid(s), 0.9) == 0
    assert variance(s * 0.5, all_valid(s), 0.9) == pytest.approx(0.4, abs=0.02)


def test_covariance_vanishes_for_independent_components_only():
    s = gaussian(4096)
    assert covariance(s, all_valid(s)) < 0.01
    assert covariance(s[..., :1].expand_as(s), all_valid(s)) == pytest.approx(7, rel=0.1)


def test_moments_are_numpys():
    s = gaussian(20)
    found = moments(s, all_valid(s))
    assert torch.allclose(found.covariance, s.reshape(-1, 8).T.cov(), atol=1e-5)
    assert torch.allclose(found.mean, s.mean((0, 1)), atol=1e-6)


def test_invariance_is_the_squared_step():
    s = torch.arange(4.0)[None, :, None].expand(2, 4, 3)
    assert invariance(s, all_valid(s)) == 1


def test_straightness_is_zero_on_a_line_and_one_at_right_angles():
    line = torch.tensor([[[0.0, 0], [1, 1], [2, 2], [5, 5]]])
    corner = torch.tensor([[[0.0, 0], [1, 0], [1, 1], [0, 1]]])
    assert straightness(line, all_valid(line)) == pytest.approx(0, abs=1e-6)
    assert straightness(corner, all_valid(corner)) == pytest.approx(1, abs=1e-6)


def test_a_mean_over_nothing_is_zero_and_has_no_gradient_of_nan():
    x = torch.ones(3, requires_grad=True)
    world_mean(x, torch.zeros(3, dtype=torch.bool)).backward()
    assert x.grad.tolist() == [0, 0, 0]


@pytest.mark.parametrize(("kind", "value"), [("l2", 2.0), ("l1", 1.0), ("cosine", 1.0)])
def test_energies(kind, value):
    a, b = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 0.0 if kind != "cosine" else 3.0])
    assert distance(kind, a, b) == pytest.approx(value)
    assert distance(kind, a, a) == pytest.approx(0)


def test_an_unknown_energy_names_the_legal_ones():
    with pytest.raises(ValueError, match="l2, l1, cosine"):
        distance("l3", torch.zeros(1), torch.zeros(1))
