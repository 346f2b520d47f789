"""What a trained hierarchy answers about a video or a store, against brute force and planted facts."""

import itertools
import json

import numpy as np
import pytest
import torch
import zarr

from hjepa import query
from hjepa.data import manifest
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.envs import sprites
from hjepa.errors import UserError
from hjepa.evaluate import dense
from hjepa.hierarchy import Hierarchy
from hjepa.objective.energy import distance
from hjepa.pictures import Cell, Row, grid
from hjepa.query import View, events
from tests.clips import write_video
from tests.models import SIDE, awaken, hierarchy_config

RATE_HZ = 10
CLOCKS = [((2, 2, 2), (1, 2, 2)), ((3, 1, 2), (2, 3, 1)), ((1, 5), (4, 2)), ((3,), (5,))]


def model_of(depth=3, actions=0, seed=0, awake=True, **kwargs) -> Hierarchy:
    torch.manual_seed(seed)
    model = Hierarchy(hierarchy_config(depth=depth, actions=actions, **kwargs)).eval()
    return awaken(model) if awake else model


def film(scenes, seed=0) -> np.ndarray:
    """(T, 16, 16, 3) of scenes (number, steps): a still picture each, with a little noise over it."""
    rng = np.random.default_rng(seed)
    parts = []
    for number, steps in scenes:
        ground = np.random.default_rng([9, number]).integers(20, 236, (4, 4, 3)).repeat(4, 0).repeat(4, 1)
        parts.append(ground + rng.integers(-3, 4, (steps, SIDE, SIDE, 3)))
    return np.concatenate(parts).astype(np.uint8)


def noise(steps, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (steps, SIDE, SIDE, 3), dtype=np.uint8)


def write(path, films, rate_hz=RATE_HZ, actions=0, seed=0) -> Store:
    arrays = {"frames": ArraySpec("uint8", films[0].shape[1:], "rgb 0-255")}
    if actions:
        arrays["actions"] = ArraySpec("float32", (actions,), "1")
    rng = np.random.default_rng(seed)
    with StoreWriter(path, rate_hz=rate_hz, arrays=arrays) as writer:
        for number, frames in enumerate(films):
            taken = {"actions": rng.standard_normal((len(frames), actions)).astype(np.float32)} if actions else {}
            with writer.episode(f"film {number}") as episode:
                episode.append(frames=frames, **taken)
        writer.finish()
    return Store.open(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    """Two noisy episodes with actions."""
    return write(tmp_path_factory.mktemp("query") / "store", [noise(60, 1), noise(45, 2)], actions=2)


# ---- states


@pytest.mark.parametrize("strides, windows", CLOCKS)
def test_states_are_those_of_encode_for_any_strides_and_windows(store, strides, windows, monkeypatch):
    monkeypatch.setattr(dense, "BATCH", 7)  # so that blocks meet inside the recording
    levels = {k + 1: {"stride": s, "window": w} for k, (s, w) in enumerate(zip(strides, windows, strict=True))}
    model = model_of(depth=len(strides), levels=levels)
    tracks = query.states(View(model, store))
    assert [(t.level, t.episode) for t in tracks] == [(k + 1, e) for k in range(len(strides)) for e in (0, 1)]
    for track in tracks:
        episode = store.episodes[track.episode]
        expected = model.encode(store.whole("frames", episode))[track.level - 1]
        np.testing.assert_array_equal(track.rows, episode.start + expected.instants.numpy())
        np.testing.assert_allclose(track.times_s, expected.instants.numpy() / RATE_HZ)
        np.testing.assert_allclose(track.states, expected.states[0].numpy(), atol=1e-5)


def test_a_state_at_every_step_is_the_last_state_of_what_was_seen_until_then(store):
    model = model_of(levels={2: {"stride": 3, "window": 3}})
    frames = store.whole("frames", store.episodes[1])
    for track in query.states(View(model, store), [1, 3], every_step=True):
        if track.episode == 1:
            for k in (0, 1, len(track.rows) // 2, len(track.rows) - 1):
                until = int(track.rows[k]) - store.episodes[1].start + 1
                last = model.encode(frames[:until])[track.level - 1].states[0, -1]
                np.testing.assert_allclose(track.states[k], last.numpy(), atol=1e-5)
            assert len(track.rows) == len(frames) - model.clock.reach(track.level)


def test_saved_states_are_read_by_plain_numpy_and_plain_zarr(store, tmp_path):
    tracks = query.states(View(model_of(), store))
    npz = np.load(query.save_states(tracks, tmp_path / "new" / "states.npz"))  # allow_pickle is off
    group = zarr.open_group(query.save_states(tracks, tmp_path / "states.zarr"), mode="r")
    for level in (1, 2, 3):
        own = [t for t in tracks if t.level == level]
        for name in ("states", "times_s", "rows"):
            whole = np.concatenate([getattr(t, name) for t in own])
            np.testing.assert_array_equal(npz[f"level_{level}/{name}"], whole)
            np.testing.assert_array_equal(group[f"level_{level}/{name}"][:], whole)
        for t in own:
            picked = npz[f"level_{level}/episode"] == t.episode
            np.testing.assert_array_equal(npz[f"level_{level}/rows"][picked], t.rows)
    attrs = json.loads(str(npz["attrs"]))
    assert attrs == dict(group.attrs)
    assert attrs["episodes"] == {"0": "film 0", "1": "film 1"}
    assert attrs["period_s"] == {"level_1": 0.2, "level_2": 0.4, "level_3": 0.8}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new", "states.zarr"]


@pytest.mark.parametrize("suffix", [".npz", ".zarr"])
def test_a_save_that_fails_leaves_nothing_and_overwrites_nothing(store, tmp_path, suffix, monkeypatch):
    tracks = query.states(View(model_of(depth=1), store))
    (tmp_path / f"kept{suffix}").write_text("mine")
    with pytest.raises(UserError, match="already exists"):
        query.save_states(tracks, tmp_path / f"kept{suffix}")

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(manifest.os, "replace", full)
    with pytest.raises(UserError, match="No space left"):
        query.save_states(tracks, tmp_path / f"new{suffix}")
    assert [p.name for p in tmp_path.iterdir()] == [f"kept{suffix}"]


def test_a_video_and_a_store_of_the_same_frames_give_the_same_states(tmp_path):
    frames = film([(0, 15), (1, 12)])
    video = write_video(tmp_path / "film.mkv", list(frames), codec="ffv1", pixels="bgr0", rate=RATE_HZ)
    model = model_of()
    seen, stored = (query.states(View(model, source)) for source in (video, write(tmp_path / "store", [frames])))
    for a, b in zip(seen, stored, strict=True):
        np.testing.assert_array_equal(a.times_s, b.times_s)
        np.testing.assert_array_equal(a.states, b.states)


def test_a_video_of_another_size_and_rate_is_brought_to_the_models(tmp_path):
    frames = film([(0, 30)]).repeat(3, 1).repeat(3, 2)
    video = write_video(tmp_path / "film.mkv", list(frames), codec="ffv1", pixels="bgr0", rate=2 * RATE_HZ)
    view = View(model_of(), video)
    assert view.source.episodes[0].length == 15
    assert view.source.arrays["frames"].shape == (SIDE, SIDE, 3)


# ---- nearest moments


@pytest.fixture(scope="module")
def repeating(tmp_path_factory) -> Store:
    """Scene 0 comes back, noise and all, after 40 steps of the first film and at the start of the second."""
    again = noise(20, 5)
    films = [np.concatenate([again, noise(20, 6), again]), np.concatenate([again, noise(10, 7)])]
    return write(tmp_path_factory.mktemp("repeating") / "store", films)


@pytest.mark.parametrize("level", [1, 2, 3])
def test_the_nearest_moments_are_the_planted_repetitions(repeating, level):
    found = query.nearest(View(model_of(), repeating), level, 1.5, count=3)
    assert found.query.row == 15
    assert {n.moment.row for n in found.found[:2]} == {55, 75}
    assert {(n.moment.episode, n.moment.time_s) for n in found.found[:2]} == {(0, 5.5), (1, 1.5)}
    assert [n.distance for n in found.found[:2]] == pytest.approx([0, 0], abs=1e-4)
    assert found.found[2].distance > 0.01


def test_neighbours_are_apart_from_the_query_and_from_each_other(repeating):
    view = View(model_of(), repeating)
    for apart_s in (0.3, 1.0):
        found = query.nearest(view, 1, 1.5, count=100, apart_s=apart_s)
        rows = sorted([found.query.row, *(n.moment.row for n in found.found)])
        gaps = [b - a for a, b in itertools.pairwise(rows) if not a < 60 <= b]
        assert min(gaps) >= round(apart_s * RATE_HZ)
    assert len(query.nearest(view, 1, 1.5, count=100, apart_s=0).found) == 89  # every step but the query's own


def test_moments_next_to_each_other_in_the_file_but_not_in_time_may_both_be_found(tmp_path):
    """The last step of one film and the first of the next lie in rows 19 and 20."""
    frames = noise(40, 9)
    frames[[0, 19, 20]] = frames[30]
    view = View(model_of(), write(tmp_path / "store", [frames[:20], frames[20:]]))
    found = query.nearest(view, 1, 1.0, episode=1, count=3, apart_s=0.5)
    assert found.query.row == 30
    assert {n.moment.row for n in found.found} == {0, 19, 20}


def test_a_video_finds_its_twin_in_a_library_at_the_very_same_time(repeating, tmp_path):
    model = model_of()
    other = View(model, write(tmp_path / "other", [noise(12, 8), repeating.read("frames", range(60, 90))]))
    found = query.nearest(other, 2, 1.5, episode=1, count=3, library=View(model, repeating))
    assert {n.moment.row for n in found.found} == {15, 55, 75}
    inside = query.nearest(other, 2, 1.5, episode=1, count=2)
    assert all(n.distance > 0.01 for n in inside.found)  # the query itself does not count


def test_distance_is_in_standard_deviations_of_the_level(store):
    view = View(model_of(), store)
    library = view.library(2)
    apart = library.distances(library.states[:50])
    assert float(apart.square().mean().sqrt()) == pytest.approx(2**0.5, abs=0.15)


def test_the_picture_shows_the_query_and_its_neighbours(repeating):
    view = View(model_of(), repeating)
    found = query.nearest(view, 1, 1.5, count=2)
    picture = np.asarray(query.draw_nearest(found, view))
    assert all(shows(picture, view.frame(m)) for m in (found.query, *(n.moment for n in found.found)))
    assert not shows(picture, repeating.read("frames", [25])[0])


def shows(picture: np.ndarray, frame: np.ndarray, scale: int = 8) -> bool:
    """Whether a frame, enlarged, is somewhere in the picture."""
    big = frame.repeat(scale, 0).repeat(scale, 1)
    tall, wide = (np.array(picture.shape[:2]) - big.shape[:2] + 1).tolist()
    return any(
        np.array_equal(picture[y : y + len(big), x : x + len(big)], big)
        for y in range(tall)
        for x in range(wide)
        if np.array_equal(picture[y, x], big[0, 0])
    )


# ---- surprise and segments


@pytest.mark.parametrize("actions", [0, 2])
def test_surprise_is_the_energy_of_each_state_under_its_prediction(store, actions, monkeypatch):
    monkeypatch.setattr(dense, "BATCH", 11)
    monkeypatch.setattr(events, "BATCH", 13)
    model = model_of(actions=actions, level={"length": 4})
    view = View(model, store)
    for track in query.surprise(view):
        period, level = model.clock.periods[track.level - 1], model.level(track.level)
        episode, reach = store.episodes[track.episode], model.clock.reach(track.level)
        frames, taken = (torch.from_numpy(store.whole(n, episode)) for n in ("frames", "actions"))
        assert track.rows[0] == episode.start + reach + period
        assert track.rows[-1] == episode.stop - 1
        for k in (0, 1, period, 3 * period + 1, len(track.rows) - 1):
            seen_at = int(track.rows[k]) - episode.start
            own = model.encode(frames[: seen_at + 1])[track.level - 1].states[:, -4:]  # 3 of context, and the new one
            moves = None
            if actions:
                steps = (own.shape[1] - 1) * period
                moves = model.embed_actions(taken[seen_at - steps : seen_at][None])[track.level - 1]
            with torch.no_grad():
                energy = distance("l2", level.predict(own[:, :-1], moves)[:, -1], own[:, -1])
            unit = query.persistence_energy(view, track.level)
            assert track.values[k] == pytest.approx(float(energy) / unit, rel=1e-3)


def test_the_mean_surprise_of_an_untrained_predictor_is_one(store):
    for number in (1, 2, 3):
        tracks = query.surprise(View(model_of(awake=False), store), [number])
        assert np.concatenate([t.values for t in tracks]).mean() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("level", [1, 2])
def test_segments_begin_at_planted_cuts(tmp_path, level):
    films = [film([(0, 40), (1, 33), (0, 40)]), film([(2, 50), (3, 50)], seed=1)]
    view = View(model_of(awake=False), write(tmp_path / "store", films))
    found = query.segments(view, level, threshold=8)
    assert [s.episode for s in found] == [0, 0, 0, 1, 1]
    late = np.array([s.first_row for s in found]) - [0, 40, 73, 113, 163]
    assert late.min() >= 0
    assert late.max() < (1 if level == 1 else view.period(level))  # as a pooled change grows
    assert [s.first_row for s in found[1:]] == [s.stop_row for s in found[:-1]]
    assert found[-1].stop_row == 213
    assert [(s.start_s, s.stop_s) for s in found[-2:]] == [
        (0, found[-1].start_s),
        ((found[-1].first_row - 113) / 10, 10),
    ]
    assert [s.surprise is None for s in found] == [True, False, False, True, False]
    alike, other = (np.abs(found[0].state - found[k].state).max() for k in (2, 1))
    assert alike < 0.3 * other


def test_a_film_in_which_nothing_unexpected_happens_is_one_segment(tmp_path):
    view = View(model_of(awake=False), write(tmp_path / "store", [film([(0, 60)])]))
    assert len(query.segments(view, 1, threshold=8)) == 1
    still = np.repeat(film([(0, 1)]), 60, 0)
    assert len(query.segments(View(model_of(awake=False), write(tmp_path / "still", [still])), 1)) == 1


def test_of_beginnings_too_close_the_stronger_stays(tmp_path):
    view = View(model_of(awake=False), write(tmp_path / "store", [film([(0, 40), (1, 4), (2, 40)])]))
    values = query.surprise(view, [1])[0].values
    both = [s.first_row for s in query.segments(view, 1, apart_s=0.3)]
    assert both == [0, 40, 44]
    stronger = 40 if values[38:40].max() > values[42:44].max() else 44  # rows start at 2
    assert [s.first_row for s in query.segments(view, 1, apart_s=1.0)] == [0, stronger]


def test_a_burst_is_as_high_as_it_becomes_and_begins_where_it_rises():
    values = np.ones(60)
    values[20:24] = [5, 6, 30, 7]  # rises slowly, but to the most
    values[27:29] = [20, 20]
    values[40:43] = [0, 9, 9]
    assert events._bursts(values, limit=4, apart=10, hump=4) == {20: 30, 41: 9}
    assert events._bursts(values, limit=4, apart=2, hump=4) == {20: 30, 27: 20, 41: 9}
    assert events._bursts(values, limit=30, apart=2, hump=4) == {}


def test_the_picture_of_segments_shows_the_middle_of_each(tmp_path):
    frames = film([(0, 40), (1, 33)])
    view = View(model_of(awake=False), write(tmp_path / "store", [frames]))
    picture = np.asarray(query.draw_segments(query.segments(view, 1), view))
    assert shows(picture, frames[20])
    assert shows(picture, frames[56])


# ---- futures


def test_a_level_that_expects_no_change_is_drawn_as_the_present(store):
    view = View(model_of(awake=False), store)
    found = query.futures(view, 2, 2.0, 3)
    assert [n.moment.row for n in found.futures[0].nearest] == [20, 20, 20]
    assert [n.distance for n in found.futures[0].nearest] == pytest.approx([0, 0, 0], abs=1e-4)
    assert [m.row for m in found.true] == [24, 28, 32]
    assert found.ahead_s == pytest.approx([0.4, 0.8, 1.2])
    own = view.library(2)
    true = [(own.states[own.rows == 20] - own.states[own.rows == row]).square().mean() for row in (24, 28, 32)]
    assert found.futures[0].error == pytest.approx(
        [float(e) / query.persistence_energy(view, 2) for e in true], rel=1e-4
    )
    assert found.futures[0].energy == [0, 0, 0]
    picture = np.asarray(query.draw_futures(found, view))
    assert all(shows(picture, f) for f in store.read("frames", [20, 24, 28, 32]))


@pytest.mark.parametrize("actions", [0, 2])
def test_a_future_is_the_rollout_from_what_was_seen_until_now(store, actions):
    model = model_of(actions=actions, level={"length": 4})
    view = View(model, store)
    frames, taken = (torch.from_numpy(store.whole(n, store.episodes[1])) for n in ("frames", "actions"))
    for level, steps in ((1, 5), (2, 3), (3, 2)):
        period = model.clock.periods[level - 1]
        context = model.encode(frames[:23])[level - 1].states[:, -3:]
        moves = None
        if actions:
            first = 22 - (context.shape[1] - 1) * period
            moves = model.embed_actions(taken[first : 22 + steps * period][None])[level - 1]
        with torch.no_grad():
            expected = model.level(level).rollout(context, steps, moves)[0]
        found = query.futures(view, level, 2.2, steps, episode=1).futures[0]
        np.testing.assert_allclose(found.states, expected.numpy(), atol=1e-5)


def test_other_actions_make_another_future_and_the_recorded_ones_the_same(store):
    view = View(model_of(actions=2), store)
    recorded = query.futures(view, 2, 2.0, 3)
    actions = store.read("actions", np.arange(20, 32))
    again, other = (query.futures(view, 2, 2.0, 3, actions=a) for a in (actions, -actions))
    np.testing.assert_allclose(again.futures[0].states, recorded.futures[0].states, atol=1e-6)
    assert np.abs(other.futures[0].states - recorded.futures[0].states).max() > 1e-3
    end = query.futures(view, 2, 5.9, 3, actions=actions)  # imagined beyond the recording's end
    assert end.true == [None] * 3
    assert end.futures[0].error == [None] * 3
    assert query.draw_futures(end, view).width > 0


def test_samples_follow_the_expected_future_by_their_energy(store):
    view = View(model_of(level={"length": 4}), store)
    found = query.futures(view, 2, 2.0, 3, samples=6, seed=1)
    mean = [float(np.mean(f.energy)) for f in found.futures]
    assert mean[0] == pytest.approx(0, abs=1e-9)
    assert mean[1:] == sorted(mean[1:])
    assert mean[1] > 1e-4
    first = [f.states[0] for f in found.futures]
    assert len({s.tobytes() for s in first}) == 7
    again, other = (query.futures(view, 2, 2.0, 3, samples=6, seed=s).futures[1].states for s in (1, 2))
    np.testing.assert_array_equal(again, found.futures[1].states)
    assert not np.array_equal(other, again)
    np.testing.assert_allclose(found.futures[0].states, query.futures(view, 2, 2.0, 3).futures[0].states, atol=1e-6)


def test_the_energy_of_a_sample_is_that_of_each_step_after_its_own_past(store):
    model = model_of(level={"length": 4})
    view = View(model, store)
    sample = query.futures(view, 1, 2.0, 3, samples=1).futures[1]
    seen = model.encode(torch.from_numpy(store.read("frames", np.arange(21))), 1)[0].states
    course = torch.cat([seen, torch.from_numpy(sample.states)[None]], 1)
    for step in range(3):
        end = seen.shape[1] + step
        with torch.no_grad():
            expected = model.level(1).predict(course[:, end - 3 : end])[0, -1]
        energy = float(distance("l2", expected, course[0, end])) / query.persistence_energy(view, 1)
        assert sample.energy[step] == pytest.approx(energy, rel=1e-3)


def test_a_future_is_looked_up_in_the_library_given(store, repeating):
    model = model_of()
    view, library = View(model, store), View(model, repeating)
    found = query.futures(view, 2, 2.0, 2, library=library)
    states = torch.from_numpy(found.futures[0].states)
    shelf = library.library(2)
    expected = [int(shelf.rows[(shelf.states - s).square().sum(1).argmin()]) for s in states]
    assert [n.moment.row for n in found.futures[0].nearest] == expected
    assert shows(np.asarray(query.draw_futures(found, view, library)), repeating.read("frames", expected)[0])


# ---- whole


def test_frames_lie_side_by_side_and_under_each_other():
    red, green, blue = (np.full((8, 16, 3), c, np.uint8) for c in ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    rows = [Row([Cell(red), Cell(green, "two\nlines")], "title"), Row([Cell(None), Cell(blue)])]
    picture = np.asarray(grid(rows, side=32))  # twice as large: 16 x 32 pixels
    spots = {}
    for name, colour in (("red", red), ("green", green), ("blue", blue)):
        y, x = np.nonzero((picture == colour[0, 0]).all(-1))
        spots[name] = (y.min(), x.min())
        assert (np.ptp(y), np.ptp(x)) == (15, 31)
    assert spots["red"][0] == spots["green"][0] < spots["blue"][0] - 16
    assert spots["red"][1] < spots["green"][1] - 32
    assert spots["green"][1] == spots["blue"][1]
    assert max(np.asarray(grid([Row([Cell(np.zeros((300, 200, 3), np.uint8))])])).shape) < 160


def test_every_result_gives_plain_json(store):
    view = View(model_of(), store)
    results = [*query.states(view), *query.surprise(view), *query.segments(view, 2), view.moment(61)]
    results += [query.nearest(view, 2), query.futures(view, 2, samples=2), query.futures(view, 1, 5.6, 3)]
    for result in results:
        json.dumps(result.asdict(), allow_nan=False)
    assert view.moment(61).asdict() == {"episode": 1, "name": "film 1", "row": 61, "time_s": 0.1}


def test_answers_work_on_the_generated_world(tmp_path):
    sprites.record(tmp_path / "sprites", episodes=2, steps=50, size=SIDE)
    view = View(model_of(actions=2), tmp_path / "sprites")
    assert len(query.states(view)) == 6
    assert query.segments(view, 2)[-1].stop_row == 100
    assert len(query.nearest(view, 3).found) > 2
    assert len(query.futures(view, 3, steps=2).futures) == 1


def test_the_video_is_decoded_and_encoded_once(store, monkeypatch):
    view, calls = View(model_of(), store), []
    monkeypatch.setattr(dense, "dense_states", lambda *a, real=dense.dense_states: calls.append(1) or real(*a))
    query.states(view), query.nearest(view, 1), query.segments(view, 2), query.futures(view, 3)
    assert len(calls) == len(store.episodes)


@pytest.mark.parametrize(
    "ask, said",
    [
        (lambda v: query.states(v, [4]), "level 4 does not exist; legal: 1 to 3"),
        (lambda v: query.nearest(v, 0, 1.0), "level 0 does not exist"),
        (lambda v: query.nearest(v, 1, 6.0), "legal for level 1: 0.000 to 5.900 s"),
        (lambda v: query.nearest(v, 3, 0.1), "legal for level 3: 0.600 to 5.900 s"),
        (lambda v: query.nearest(v, 1, 1.0, episode=2), "no episode 2; legal: 0 to 1"),
        (lambda v: query.nearest(v, 1, 1.0, count=0), "count at least 1"),
        (lambda v: query.segments(v, 1, threshold=-1), "neither below 0"),
        (lambda v: query.futures(v, 1, 1.0, 0), "steps at least 1"),
        (lambda v: query.futures(v, 1, 1.0, 2, actions=np.zeros((4, 1))), r"legal for 2 steps of level 1: \(4, 0\)"),
        (lambda v: query.save_states([], "states.csv"), "suffix '.csv'; legal: .npz, .zarr"),
        (lambda v: v.source.read("frames", [0]) is None or View(v.model, "gone.mp4"), "gone.mp4: no such file"),
    ],
)
def test_mistakes_are_answered_in_one_line(store, ask, said):
    with pytest.raises(UserError, match=said) as caught:
        ask(View(model_of(), store))
    assert "\n" not in str(caught.value)


def test_a_recording_too_short_for_a_level_says_how_long_it_must_be(tmp_path):
    view = View(model_of(), write(tmp_path / "store", [noise(8)]))  # level 3: one state, no prediction
    assert {t.level for t in query.states(view)} == {1, 2, 3}
    with pytest.raises(UserError, match=r"2 states of level 3 need 15 frames \(1.5 s\), the longest recording has 8"):
        query.surprise(view)
    assert len(query.surprise(view, [1, 2])) == 2
    brief = View(model_of(), write(tmp_path / "brief", [noise(6)]))
    with pytest.raises(UserError, match=r"1 states of level 3 need 7 frames"):
        query.states(brief)
    assert len(query.states(brief, [1, 2])) == 2


def test_frames_of_another_size_or_rate_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"frames \(8, 16, 3\) at 10 Hz; this model reads \(16, 16, 3\) at 10 Hz"):
        View(model_of(), write(tmp_path / "size", [noise(9)[:, :8]]))
    with pytest.raises(UserError, match="at 25 Hz; this model reads"):
        View(model_of(), write(tmp_path / "rate", [noise(9)], rate_hz=25))


def test_what_needs_actions_says_so_and_the_rest_works_without(tmp_path):
    view = View(model_of(actions=2), write(tmp_path / "store", [noise(30)]))
    assert len(query.states(view)) == 3
    assert len(query.nearest(view, 1, count=2).found) == 2
    for ask in (query.surprise, lambda v: query.futures(v, 1)):
        with pytest.raises(UserError, match="level 1 predicts under actions and this recording has none"):
            ask(view)
    with pytest.raises(UserError, match=r"actions are \(3,\) a step; this model reads \(2,\)"):
        View(model_of(actions=2), write(tmp_path / "wide", [noise(9)], actions=3))


def test_recorded_actions_that_end_too_early_are_an_error(store):
    with pytest.raises(UserError, match="9 steps of level 2 from 4 s: the recorded actions last for 5"):
        query.futures(View(model_of(actions=2), store), 2, 4.0, 9)


def test_a_level_without_z_cannot_be_sampled(store):
    view = View(model_of(level={"latent": {"kind": "none"}}), store)
    with pytest.raises(UserError, match="level 2 has no z"):
        query.futures(view, 2, samples=1)
