"""Horizon curves and dense states against loops that a reader can check."""

import json

import numpy as np
import pytest
import torch

from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.errors import UserError
from hjepa.evaluate import dense
from hjepa.evaluate.dense import Recording, contexts, recordings
from hjepa.evaluate.horizon import horizon_curves
from hjepa.hierarchy import Hierarchy
from tests.models import SIDE, awaken, hierarchy_config

LENGTHS = (61, 40)
CLOCKS = [((2, 2, 2), (1, 2, 2)), ((3, 1, 2), (2, 3, 1)), ((1, 5), (4, 2)), ((3,), (5,))]


def write(path, lengths=LENGTHS, actions=2) -> Store:
    arrays = {"frames": ArraySpec("uint8", (SIDE, SIDE, 3), "rgb 0-255")}
    if actions:
        arrays["actions"] = ArraySpec("float32", (actions,), "1")
    rng = np.random.default_rng(0)
    with StoreWriter(path, rate_hz=10, arrays=arrays) as writer:
        for number, length in enumerate(lengths):
            blocks = {"frames": rng.integers(0, 256, (length, SIDE, SIDE, 3), dtype=np.uint8)}
            if actions:
                blocks["actions"] = rng.standard_normal((length, actions)).astype(np.float32)
            with writer.episode(f"{number}") as episode:
                episode.append(**blocks)
        writer.finish()
    return Store.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return write(tmp_path_factory.mktemp("horizon") / "store")


def model_of(awake=True, **kwargs) -> Hierarchy:
    torch.manual_seed(0)
    model = Hierarchy(hierarchy_config(**kwargs)).eval()
    return awaken(model) if awake else model


# ---- dense states


@pytest.mark.parametrize("strides, windows", CLOCKS)
def test_dense_states_are_those_of_a_whole_clip_at_the_same_instants(store, strides, windows, monkeypatch):
    monkeypatch.setattr(dense, "BATCH", 7)  # so that blocks meet inside the recording
    levels = {k + 1: {"stride": s, "window": w} for k, (s, w) in enumerate(zip(strides, windows, strict=True))}
    model = model_of(depth=len(strides), levels=levels)
    for recording in recordings(model, store):
        frames = torch.from_numpy(store.read("frames", recording.rows))[None]
        crop = model.clock.whole(frames.shape[1])
        for level, clip in enumerate(model.encode_clip(frames[:, crop.frames], crop)):
            assert len(recording.states[level]) == frames.shape[1] - recording.reach[level]
            own = recording.states[level][clip.instants - recording.reach[level]]
            torch.testing.assert_close(own, clip.states[0], atol=1e-5, rtol=0)
            np.testing.assert_array_equal(recording.rows_of(level + 1)[clip.instants - recording.reach[level]],
                                          recording.rows[clip.instants])  # fmt: skip


def test_a_level_too_slow_for_a_recording_has_no_states_there(tmp_path):
    model = model_of(levels={3: {"window": 4}})  # levels 1 to 3 reach 0, 2 and 14 steps back
    brief, longer = recordings(model, write(tmp_path / "store", (10, 20), actions=0))
    assert [len(s) for s in brief.states] == [10, 8, 0]
    assert [len(s) for s in longer.states] == [20, 18, 6]
    assert brief.states[2].shape == (0, 6)


def test_parts_are_encoded_as_if_they_were_alone(store):
    model = model_of(actions=2)
    train, held = (recordings(model, store, part, 0.25) for part in ("train", "held_back"))
    assert [r.rows.tolist() for r in train] == [list(range(45)), list(range(61, 91))]
    assert [r.rows.tolist() for r in held] == [list(range(45, 61)), list(range(91, 101))]
    alone = model.encode(store.read("frames", np.arange(45, 61)))
    for level in range(3):
        torch.testing.assert_close(held[0].states[level][-1], alone[level].states[0, -1], atol=1e-5, rtol=0)
    np.testing.assert_array_equal(held[1].actions, store.read("actions", np.arange(91, 101)))


# ---- horizon curves


def brute_force(model, number, found, within):
    """Error, persistence and mean for every horizon, from every start, one prediction at a time."""
    level, period = model.level(number), model.clock.periods[number - 1]
    states = torch.cat([r.states[number - 1] for r in found]).double()
    scale, centre = float(((states - states.mean(0)) ** 2).mean()), states.mean(0)
    figures = {h: [] for h in range(period, within + 1, period)}
    for recording in found:
        own, reach = recording.states[number - 1], recording.reach[number - 1]
        for now in range(len(own)):
            past = [k for k in range(now - (level.config.length - 2) * period, now + 1, period) if k >= 0]
            steps = [h for h in figures if now + h < len(own)]
            if not steps:
                continue
            actions = None
            if recording.actions is not None:
                taken = recording.actions[reach + past[0] : reach + now + steps[-1]]
                actions = model.embed_actions(taken[None])[number - 1]
            predicted = level.rollout(own[past][None], len(steps), actions)[0].double()
            for h, guess in zip(steps, predicted, strict=True):
                true, last = own[now + h].double(), own[now].double()
                figures[h].append([float(((x - true) ** 2).mean()) / scale for x in (guess, last, centre)])
    return {h: np.mean(f, 0) for h, f in figures.items() if f}


@pytest.mark.parametrize("actions", [0, 2])
@torch.no_grad()
def test_curves_equal_a_loop_over_every_start(store, actions):
    model = model_of(actions=actions, level={"length": 4}, levels={2: {"stride": 3, "window": 3}})
    found = recordings(model, store)
    for curve in horizon_curves(model, found, within=25, starts=10**6):
        expected = brute_force(model, curve.level, found, 25)
        assert curve.steps == list(expected)
        assert curve.seconds == pytest.approx([h / 10 for h in expected])
        for k, name in enumerate(("error", "persistence", "mean")):
            np.testing.assert_allclose(getattr(curve, name), [e[k] for e in expected.values()], rtol=1e-4)
        skill = [1 - e[0] / e[1] for e in expected.values()]
        np.testing.assert_allclose(curve.skill, skill, atol=1e-3)


def test_an_untrained_predictor_is_persistence_at_every_horizon_and_of_no_use(store):
    for actions in (0, 2):
        model = model_of(awake=False, actions=actions)
        for curve in horizon_curves(model, recordings(model, store), within=40):
            np.testing.assert_allclose(curve.error, curve.persistence, rtol=1e-6)
            np.testing.assert_allclose(curve.skill, 0, atol=1e-6)
            assert curve.useful_steps == 0
            assert curve.useful_s == 0


def line(count=400, period_steps=1, noise=0.0, seed=0):
    """A recording whose level-1 states walk round a circle, and later steps of it know nothing of the first."""
    rng = np.random.default_rng(seed)
    angle = 0.1 * period_steps * np.arange(count)[:, None] + np.arange(3) * 2
    states = np.concatenate([np.sin(angle), np.cos(angle)], 1) + noise * rng.standard_normal((count, 6))
    return Recording(np.arange(count), [torch.from_numpy(states).float()], [0], None)


class Turning(torch.nn.Module):
    """A predictor that knows the circle for ``known`` steps of every rollout, and then says nonsense."""

    def __init__(self, known, turn=0.2):
        super().__init__()
        self.known, self.turn = known, turn

    def forward(self, states, cond, valid):
        sin, cos = states[..., :3], states[..., 3:]
        s, c = np.sin(self.turn), np.cos(self.turn)
        ahead = torch.cat([sin * c + cos * s, cos * c - sin * s], -1)
        radius = (sin**2 + cos**2).mean(-1, keepdim=True)
        grown = ahead * (1 + 1e-3)  # every step counts itself in the radius
        return torch.where(radius < (1 + 1e-3) ** (2 * self.known), grown, -3 * ahead)


def test_the_useful_horizon_is_where_the_prediction_was_made_to_fail():
    model = model_of(depth=1)
    for known in (3, 7):
        model.level(1).predictor = Turning(known)
        [curve] = horizon_curves(model, [line()], within=24)
        assert curve.useful_steps == 2 * known
        assert curve.useful_s == pytest.approx(0.2 * known)
        assert max(curve.error[:known]) < 0.01 < 1 < min(curve.error[known:])
        assert curve.mean == pytest.approx([1] * 12, abs=0.05)


def test_retrieval_is_perfect_for_a_perfect_prediction_and_at_chance_for_a_constant_level():
    model = model_of(depth=1)
    model.level(1).predictor = Turning(100)
    [curve] = horizon_curves(model, [line(62)], within=6)  # not twice round: no state comes back
    assert curve.retrieval == pytest.approx([31] * 3)  # 31 states of the same phase, always the right one
    still = Recording(np.arange(62), [torch.ones(62, 6)], [0], None)
    model.level(1).predictor = Turning(0, turn=0.0)
    [collapsed] = horizon_curves(model_of(depth=1, awake=False), [still], within=6)
    assert collapsed.retrieval == pytest.approx([1] * 3)
    assert np.isnan(collapsed.skill).all()
    assert collapsed.useful_steps == 0


def test_starts_are_thinned_evenly_and_sequences_are_as_long_as_errors_are_correlated():
    model = model_of(depth=1)
    [every] = horizon_curves(model, [line(), line(200)], within=10, starts=10**6)
    assert every.starts == 398 + 198
    assert every.sequences == [60, 50, 33, 25, 20]  # a second (10 steps) at first, then three horizons
    [some] = horizon_curves(model, [line(), line(200)], within=10, starts=100)
    assert some.starts == 67 + 33
    np.testing.assert_allclose(some.error, every.error, rtol=0.2)


def test_few_sequences_give_no_interval_and_no_useful_horizon():
    [curve] = horizon_curves(model_of(depth=1), [line(60)], within=20)
    few = [n < 5 for n in curve.sequences]
    assert any(few) and not all(few)
    assert [low is None for low in curve.low_mean] == few == [low is None for low in curve.low_persistence]


def test_horizons_end_with_the_longest_recording():
    model = model_of(depth=1)
    [curve] = horizon_curves(model, [line(20), line(9)], within=128)
    assert curve.steps == list(range(2, 20, 2))
    assert curve.longest_s == 1.8
    assert np.isfinite([curve.error, curve.persistence, curve.mean, curve.retrieval]).all()


def test_a_level_without_one_prediction_has_no_curve(tmp_path):
    model = model_of()
    brief = recordings(model, write(tmp_path / "brief", (9,), actions=0))
    assert [c.level for c in horizon_curves(model, brief)] == [1, 2]
    with pytest.raises(UserError, match="no recording has the 3 steps that one prediction of level 1 needs"):
        horizon_curves(model, recordings(model, write(tmp_path / "briefer", (2,), actions=0)))


def test_a_curve_repeated_is_the_same_and_plain_json(store):
    model = model_of()
    found = recordings(model, store)
    first, again = (horizon_curves(model, found, within=20) for _ in range(2))
    assert first == again
    json.dumps([c.asdict() for c in first], allow_nan=False)


# ---- contexts


def test_a_context_holds_what_training_showed_and_marks_what_was_not_there(store):
    model = model_of(actions=2, level={"length": 4})
    recording = recordings(model, store)[1]
    seen = contexts(model, 2, recording, np.array([0, 5, 30]), 3)
    assert seen.states.shape == (3, 3, 6)
    assert seen.valid.tolist() == [[False, False, True], [False, True, True], [True, True, True]]
    own = recording.states[1]
    torch.testing.assert_close(seen.states[2], own[[22, 26, 30]])
    torch.testing.assert_close(seen.states[1, 1:], own[[1, 5]])
    reach = recording.reach[1]
    taken = recording.actions[reach + 22 : reach + 30 + 12 - 5 + 5]
    inside = taken[: len(recording.actions) - reach - 22]
    expected = model.embed_actions(torch.cat([inside, inside[-1:].expand(20 - len(inside), -1)])[None])[1]
    torch.testing.assert_close(seen.actions[2], expected[0])


def test_predictions_under_actions_need_actions(tmp_path):
    model, store = model_of(actions=2), write(tmp_path / "store", (30,), actions=0)
    with pytest.raises(UserError, match="no array 'actions', this model predicts under 2 actions"):
        recordings(model, store)
    [found] = recordings(model, store, acting=False)
    assert found.actions is None
    with pytest.raises(UserError, match="level 2 predicts under actions and this recording has none"):
        contexts(model, 2, found, np.array([3]), 1)
