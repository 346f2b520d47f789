"""Probes find what is there and nothing else."""

import json

import numpy as np
import pytest
import torch

from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.envs import sprites
from hjepa.errors import UserError
from hjepa.evaluate import probe
from hjepa.evaluate.probe import fit_mlp, fit_ridge, keeps, r2
from hjepa.hierarchy import Hierarchy
from tests.models import SIDE, awaken, hierarchy_config


def drawn(count=1500, dim=12, seed=0):
    return np.random.default_rng(seed).standard_normal((count, dim))


def held(count, share=0.2):
    return np.arange(count) >= (1 - share) * count


def model_of(**kwargs) -> Hierarchy:
    torch.manual_seed(0)
    return awaken(Hierarchy(hierarchy_config(**kwargs))).eval()


# ---- the probes


def test_a_linear_factor_is_recovered_whatever_its_units():
    x, turn = drawn(), drawn(12, 2, seed=1)
    y = 1e-4 * x @ turn + 7
    probe_of = fit_ridge(x[:1000] * 1e3 - 5, y[:1000], held(1000))
    assert r2(probe_of(x[1000:] * 1e3 - 5), y[1000:]) > 0.9999


def test_noise_is_not_recovered():
    x, y = drawn(dim=200), drawn(dim=2, seed=1)
    assert r2(fit_ridge(x[:1000], y[:1000], held(1000))(x[1000:]), y[1000:]) == pytest.approx(0, abs=0.03)


def test_a_noisy_factor_gives_the_share_of_its_variance_that_the_states_hold():
    x = drawn(6000)
    y = x[:, :1] + drawn(6000, 1, seed=1)
    assert r2(fit_ridge(x[:5000], y[:5000], held(5000))(x[5000:]), y[5000:]) == pytest.approx(0.5, abs=0.05)


def test_ridge_solves_the_penalised_normal_equations(monkeypatch):
    monkeypatch.setattr(probe, "PENALTIES", (0.3,))
    x, y = drawn(300, 5) * [1, 2, 3, 4, 5], drawn(300, 2, seed=1)
    xs, ys = ((v - v.mean(0)) / v.std(0) for v in (x, y))
    weights = np.linalg.solve(xs.T @ xs / 300 + 0.3 * np.eye(5), xs.T @ ys / 300)
    np.testing.assert_allclose(fit_ridge(x, y, held(300))(x), xs @ weights * y.std(0) + y.mean(0), atol=1e-9)


def test_the_penalty_is_the_one_that_does_best_on_what_was_not_fitted():
    x, few = drawn(4000, 100), 120
    y = x[:, :3].sum(1, keepdims=True) + 3 * drawn(4000, 1, seed=1)
    chosen = fit_ridge(x[:few], y[:few], held(few))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe, "PENALTIES", (1e-9,))
        bare = fit_ridge(x[:few], y[:few], held(few))
    assert r2(chosen(x[few:]), y[few:]) > r2(bare(x[few:]), y[few:]) + 0.5


def test_states_that_do_not_vary_or_repeat_themselves_do_no_harm():
    x = drawn()
    y = x[:, :1]
    wide = np.concatenate([x, x, np.full((1500, 3), 4.2)], 1)
    assert r2(fit_ridge(wide[:1000], y[:1000], held(1000))(wide[1000:]), y[1000:]) > 0.999
    dead = np.full((1500, 3), 4.2)
    assert r2(fit_ridge(dead[:1000], y[:1000], held(1000))(dead[1000:]), y[1000:]) == pytest.approx(0, abs=0.02)


def test_the_mlp_sees_what_a_ridge_cannot(monkeypatch):
    monkeypatch.setattr(probe, "STEPS", 200)
    x = drawn(3000, 2)
    y = np.sign(x[:, :1] * x[:, 1:])
    ridge, mlp = (r2(fit(x[:2500], y[:2500], held(2500))(x[2500:]), y[2500:]) for fit in (fit_ridge, fit_mlp))
    assert ridge < 0.05
    assert mlp > 0.7


def test_the_mlp_repeats_itself_and_leaves_the_global_seed_alone(monkeypatch):
    monkeypatch.setattr(probe, "STEPS", 50)
    x, y = drawn(200, 3), drawn(200, 1, seed=1)
    torch.manual_seed(5)
    first = fit_mlp(x, y, held(200))(x)
    after = torch.rand(())
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(()))
    np.testing.assert_array_equal(fit_mlp(x, y, held(200))(x), first)


def test_r2_is_averaged_over_the_components_that_vary():
    true = np.stack([np.arange(10.0), np.arange(10.0) ** 2, np.full(10, 3.0)], 1)
    assert r2(true, true) == 1
    half = true.copy()
    half[:, 0] = true[:, 0].mean()
    assert r2(half, true) == pytest.approx(0.5)
    assert np.isnan(r2(true[:, 2:], true[:, 2:]))
    assert r2(1e-9 * true, 1e-9 * true) == 1


# ---- what a model keeps


@pytest.fixture(scope="module")
def labelled(tmp_path_factory) -> Store:
    """Labels made of the states of a level themselves, of pixels, and of nothing."""
    path = tmp_path_factory.mktemp("probe") / "store"
    model, rng = model_of(), np.random.default_rng(0)
    arrays = {
        "frames": ArraySpec("uint8", (SIDE, SIDE, 3), "rgb 0-255"),
        "of_level_2": ArraySpec("float32", (2,), "1"),
        "dark": ArraySpec("bool", (), "1"),
        "noise": ArraySpec("float64", (2, 2), "1"),
        "number": ArraySpec("int64", (1,), "1"),
        "count": ArraySpec("int32", (), "1"),
        "constant": ArraySpec("float32", (), "1"),
        "depth": ArraySpec("float32", (9, 9), "m"),
    }
    with StoreWriter(path, rate_hz=10, arrays=arrays) as writer:
        for number in range(5):
            light = rng.integers(40, 216, (240, 1, 1, 1))
            frames = np.clip(light + rng.integers(-40, 40, (240, SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
            level = model.encode_clip(torch.from_numpy(frames)[None], model.clock.dense(240))[1]
            own = np.zeros((240, 2), np.float32)
            own[level.instants] = (
                level.states[0].detach().numpy() @ np.random.default_rng(1).standard_normal((6, 2)) + 3
            )
            with writer.episode(f"{number}") as episode:
                episode.append(
                    frames=frames, of_level_2=own, dark=light[:, 0, 0, 0] < 128, noise=rng.standard_normal((240, 2, 2)),
                    number=rng.choice([3, 7, 7, 7], (240, 1)), count=np.arange(240, dtype=np.int32) + 240 * number,
                    constant=np.ones(240, np.float32), depth=np.zeros((240, 9, 9), np.float32),
                )  # fmt: skip
        writer.finish()
    return Store.open(path)


def sevens(store, hold) -> float:
    """The share of 7, the most frequent number, among the steps that are scored."""
    parts = [np.arange(240 * k + 186, 240 * k + 240) for k in range(5)]  # the first 6 have no state of level 3
    if hold == "episodes":
        parts = [np.arange(240 * k + 6, 240 * k + 240) for k in (3, 4)]
    return float((store.read("number", np.concatenate(parts)) == 7).mean())


@pytest.mark.parametrize("hold", ["tail", "episodes"])
def test_every_level_is_asked_for_every_label(labelled, hold):
    found = keeps(model_of(), labelled, hold=hold, held_back=0.25)
    table = {(k.array, k.level): k for k in found}
    names = ["constant", "count", "dark", "noise", "number", "of_level_2"]
    assert [(k.array, k.level) for k in found] == [(n, level) for n in names for level in (0, 1, 2, 3)]
    assert table["of_level_2", 2].score > 0.9999
    assert table["of_level_2", 2].score > table["of_level_2", 0].score + 0.01
    for level in range(4):
        assert table["noise", level].score == pytest.approx(0, abs=0.05)
        assert np.isnan(table["constant", level].score)
        number, dark = table["number", level], table["dark", level]
        assert number.measure == dark.measure == "accuracy"
        assert number.score == pytest.approx(number.reference, abs=0.05)
        assert number.reference == pytest.approx(sevens(labelled, hold))
        assert table["count", level].measure == "r2"  # 1,200 values are no classes
    assert table["dark", 0].score > 0.97
    assert table["dark", 1].score > table["dark", 1].reference + 0.2
    steps = {(k.fitted, k.scored) for k in found}
    assert steps == {(5 * (180 - 6), 5 * (60 - 6))} if hold == "tail" else {(3 * 234, 2 * 234)}
    json.dumps([k.asdict() for k in found], allow_nan=False)


def test_what_is_scored_was_never_fitted(labelled, monkeypatch):
    seen = []
    real = probe.fit_ridge
    monkeypatch.setattr(probe, "fit_ridge", lambda x, y, v: seen.append((x, v)) or real(x, y, v))
    model = model_of()
    keeps(model, labelled, ["noise"], levels=[1], held_back=0.25)
    fitted = np.concatenate([r.states[0] for r in probe.recordings(model, labelled, "train", 0.25)])
    assert [len(x) for x, _ in seen] == [900, 900]
    np.testing.assert_allclose(seen[1][0], fitted)
    validating = seen[1][1].reshape(5, 180)
    assert validating.sum(1).tolist() == [36] * 5
    assert validating[:, -36:].all()  # the end of each recording, as what is held back is


def test_many_steps_are_thinned_evenly(labelled, monkeypatch):
    monkeypatch.setattr(probe, "MOST_SAMPLES", 100)
    [pixels, level] = keeps(model_of(), labelled, ["noise"], levels=[2], held_back=0.25)
    assert pixels.fitted == level.fitted
    assert 80 < level.fitted <= 100
    assert 80 < level.scored <= 100


def test_the_mlp_stands_beside_the_ridge_where_it_is_asked_for(labelled, monkeypatch):
    monkeypatch.setattr(probe, "STEPS", 100)
    found = keeps(model_of(), labelled, ["of_level_2", "dark"], levels=[2], mlp=True)
    assert all(k.mlp is not None for k in found)
    assert found[1].mlp > 0.9
    assert all(k.mlp is None for k in keeps(model_of(), labelled, ["dark"], levels=[2]))


def test_a_class_never_seen_in_training_counts_as_wrong(tmp_path):
    """Every episode of the sprites has a ground of its own: nobody can name one of another episode."""
    sprites.record(tmp_path / "store", episodes=4, steps=60, size=SIDE)
    store, model = Store.open(tmp_path / "store"), model_of(actions=2)
    unseen, seen = (keeps(model, store, ["background"], held_back=0.25, hold=hold) for hold in ("episodes", "tail"))
    assert {k.score for k in unseen} == {0.0}
    assert {k.reference for k in seen} == {0.25}
    assert seen[0].score > 0.9


@pytest.mark.parametrize(
    "arguments, said",
    [
        ({"arrays": ["noize"]}, "no label 'noize'; did you mean 'noise'"),
        ({"arrays": ["frames"]}, "no label 'frames'"),
        ({"arrays": ["depth"]}, r"'depth' has \(9, 9\) numbers a step; legal: constant, count"),
        ({"levels": [4]}, "level 4 does not exist; legal: 1 to 3"),
        ({"held_back": 0.0}, "no step in part 'held_back'"),
        ({"held_back": 0.02}, "part 'held_back' has no two steps with a state of level 3"),
    ],
)
def test_mistakes_are_answered_in_one_line(labelled, arguments, said):
    with pytest.raises(UserError, match=said) as caught:
        keeps(model_of(), labelled, **arguments)
    assert "\n" not in str(caught.value)


def test_a_store_without_labels_says_so(tmp_path):
    arrays = {"frames": ArraySpec("uint8", (SIDE, SIDE, 3), "rgb 0-255")}
    with StoreWriter(tmp_path / "s", rate_hz=10, arrays=arrays) as writer:
        with writer.episode("only") as episode:
            episode.append(frames=np.zeros((30, SIDE, SIDE, 3), np.uint8))
        writer.finish()
    with pytest.raises(UserError, match="no labelled array beside frames and actions"):
        keeps(model_of(), Store.open(tmp_path / "s"))
