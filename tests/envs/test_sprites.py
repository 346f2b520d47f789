import numpy as np
import pytest

from hjepa.data.sheet import contact_sheet
from hjepa.data.store import Store, StoreWriter
from hjepa.envs.sprites import FAST_RADIUS, SLOW_RADIUS, SLOW_SPEED, Sprites, draw, record


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    path = tmp_path_factory.mktemp("sprites") / "store"
    record(path, episodes=4, steps=60, size=32, seed=3)
    return Store.open(path)


def test_same_seed_gives_the_same_bytes_and_another_seed_others(store, tmp_path):
    record(tmp_path / "same", episodes=4, steps=60, size=32, seed=3)
    record(tmp_path / "other", episodes=4, steps=60, size=32, seed=4)
    for file in (p for p in store.path.rglob("*") if p.is_file()):
        assert (tmp_path / "same" / file.relative_to(store.path)).read_bytes() == file.read_bytes()
    other = Store.open(tmp_path / "other")
    for name in store.arrays:
        assert not np.array_equal(other.read(name, [0, 60]), store.read(name, [0, 60]))


def test_interrupted_recording_goes_on_to_the_same_store(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(StoreWriter, "finish", lambda self: None)
        record(tmp_path / "store", episodes=2, steps=60, size=32, seed=3)
    record(tmp_path / "store", episodes=4, steps=60, size=32, seed=3)
    assert Store.open(tmp_path / "store").digest == store.digest


def test_labels_explain_the_frames(store):
    for episode in store.episodes:
        log = {name: store.whole(name, episode) for name in store.arrays}
        drawn = draw(
            log["slow_xy"].astype(np.float64), log["fast_xy"].astype(np.float64), log["background"][:, 0], size=32
        )
        assert np.abs(drawn.astype(int) - log["frames"]).max() <= 1


def test_slow_sprite_obeys_the_actions(store):
    for episode in store.episodes:
        xy, actions = store.whole("slow_xy", episode), store.whole("actions", episode)
        moved = np.clip(xy[:-1] + SLOW_SPEED * actions[:-1], SLOW_RADIUS, 1 - SLOW_RADIUS)
        np.testing.assert_allclose(xy[1:], moved, atol=1e-6)
        assert np.abs(actions).max() <= 1 and np.abs(np.diff(actions, axis=0)).mean() < 0.3


def test_fast_sprite_ignores_the_actions_and_is_much_faster():
    still, steered = Sprites(20, seed=1), Sprites(20, seed=1)
    paths = []
    for _ in range(50):
        paths.append((still.slow_xy, still.fast_xy))
        still.step(np.zeros((20, 2)))
        steered.step(np.ones((20, 2)))
        np.testing.assert_array_equal(still.fast_xy, steered.fast_xy)
    assert np.array_equal(paths[0][0], still.slow_xy) and not np.array_equal(paths[0][0], steered.slow_xy)
    speed = np.abs(np.diff([fast for _, fast in paths], axis=0)).mean()
    assert speed > 2 * SLOW_SPEED


def test_sprites_stay_inside_and_backgrounds_differ():
    world = Sprites(50, seed=0)
    for _ in range(200):
        world.step(np.full((50, 2), 9.0))  # beyond the bounds: clipped
        assert world.fast_xy.min() >= FAST_RADIUS and world.fast_xy.max() <= 1 - FAST_RADIUS
    np.testing.assert_allclose(world.slow_xy, 1 - SLOW_RADIUS)
    assert len(np.unique(world.background)) == 50


@pytest.mark.parametrize("size", [32, 64, 96])
def test_any_resolution_shows_the_same_picture(size):
    world = Sprites(3, seed=0)
    small = world.frames(size).astype(float)
    large = world.frames(4 * size).astype(float).reshape(3, size, 4, size, 4, 3).mean((2, 4))
    assert small.shape == (3, size, size, 3) and np.abs(small - large).mean() < 4


def test_contact_sheet_shows_every_asked_frame(store):
    sheet = contact_sheet(store, columns=3, rows=2)
    pixels = np.asarray(sheet)
    first = np.asarray(store.read("frames", [0]))[0]
    assert np.array_equal(pixels[4 : 4 + 128 : 4, 4 : 4 + 128 : 4], first)
    assert sheet.size == (3 * 132 + 4, 2 * (128 + 28) + 4)
