"""Laws 3, 4 and 10 of the model: what it computes, saves and refuses."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hjepa.errors import UserError
from hjepa.hierarchy import WEIGHTS, Hierarchy
from hjepa.level import Level
from tests.models import SIDE, awaken, hierarchy_config, random_clip, run_config, world


def video(frames=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (frames, SIDE, SIDE, 3), dtype=np.uint8)


@pytest.mark.parametrize("kind", ["last", "mean", "attention", "convolution"])
@pytest.mark.parametrize("depth", [1, 2, 4])
def test_any_depth_and_pooling_by_configuration_alone(depth, kind):
    levels = {k: {"encoder": {"kind": kind, "width": 16}} for k in range(2, depth + 1)}
    model = Hierarchy(hierarchy_config(depth=depth, levels=levels))
    found = model.encode(video())
    assert [s.states.shape[-1] for s in found] == [6] * depth
    assert [int(s.instants[-1]) for s in found] == [39] * depth


@pytest.mark.parametrize("patch", [4, 8])
def test_a_vit_of_any_patch_encodes_frames(patch):
    encoder = {"kind": "vit", "width": 16, "depth": 1, "heads": 2, "patch": patch}
    model = Hierarchy(hierarchy_config(depth=1, levels={1: {"window": 2, "encoder": encoder}}))
    assert model.encode(video())[0].states.shape == (1, 20, 6)


def test_states_do_not_depend_on_later_frames():
    model = awaken(Hierarchy(hierarchy_config(depth=3))).eval()
    film, other = video(), video()
    crop = model.clock.whole(len(film))
    cut = int(crop.levels[2].instants[-2])
    other[cut + 1 :] = video(seed=1)[cut + 1 :]
    for a, b in zip(model.encode(film), model.encode(other), strict=True):
        before = a.instants <= cut
        assert torch.equal(a.states[:, before], b.states[:, before])
        assert not torch.equal(a.states[:, -1], b.states[:, -1])


def test_a_state_is_valid_exactly_where_every_frame_it_sees_was_there():
    model = Hierarchy(hierarchy_config(depth=3))
    crop = model.clock.crop([3, 3, 3])
    clip = random_clip(crop, batch=len(crop.frames))
    present = torch.ones_like(clip.present).tril().flip(1)  # clip b misses its first b frames
    for level, found in enumerate(model.encode_clip(clip.inputs, crop, present), 1):
        first = crop.levels[level - 1].instants - model.clock.reach(level)  # the oldest frame a state sees
        for b in range(len(present)):
            begun = crop.frames[int((~present[b]).sum())]
            assert found.valid[b].tolist() == (first >= begun).tolist()


def test_predictions_do_not_depend_on_states_before_the_episode():
    model = awaken(Hierarchy(hierarchy_config(depth=1)))
    states = torch.randn(2, 5, 6)
    valid = torch.tensor([[False, False, True, True, True]]).expand(2, -1)
    changed = states.clone()
    changed[:, :2] = 9
    assert torch.equal(*(model.level(1).predict(s, valid=valid)[:, 2:] for s in (states, changed)))


def test_training_from_cached_states_sees_what_training_from_frames_sees():
    model = Hierarchy(hierarchy_config(depth=3))
    crop = model.clock.crop([0, 0, 3])
    clip = random_clip(crop)
    whole = model.encode_clip(clip.inputs, crop)
    above = model.encode_clip(whole[1].states, crop, source=2)
    assert torch.equal(above[0].states, whole[2].states)


def test_depth_one_is_a_flat_model_bit_for_bit():
    torch.manual_seed(0)
    model = Hierarchy(hierarchy_config(depth=1))
    torch.manual_seed(0)
    flat = Level(hierarchy_config(depth=1).levels[0], world(), 0)
    film = video()
    frames = torch.from_numpy(film)[1::2]  # stride 2, the last frame is now
    states = flat.encode(frames[None, :, None])
    assert torch.equal(model.encode(film)[0].states, states)
    assert torch.equal(model.predict(model.encode(film), 1, 4), flat.rollout(states, 4))


def test_rollout_of_one_step_is_the_prediction_and_looks_back_as_far_as_training():
    level = awaken(Hierarchy(hierarchy_config(depth=1))).level(1)
    states = torch.randn(2, 6, 6)
    known = level.config.length - 1
    assert torch.allclose(level.rollout(states, 1), level.predict(states[:, -known:])[:, -1:])


def test_an_untrained_predictor_is_persistence():
    level = Hierarchy(hierarchy_config(depth=1)).level(1)
    states = torch.randn(2, 3, 6)
    assert torch.equal(level.rollout(states, 4), states[:, -1:].expand(-1, 4, -1))


def test_actions_of_every_level_cover_the_steps_of_its_period():
    model = awaken(Hierarchy(hierarchy_config(depth=3, actions=2)))
    actions = torch.randn(3, 17, 2)
    found = model.embed_actions(actions)
    assert [tuple(a.shape) for a in found] == [(3, 8, 4), (3, 4, 4), (3, 2, 4)]
    changed = actions.clone()
    changed[:, 9:] += 1  # the last 8 steps: the newest action of level 3, two of level 2, four of level 1
    for level, (a, b) in enumerate(zip(found, model.embed_actions(changed), strict=True), 1):
        same = [torch.equal(a[:, k], b[:, k]) for k in range(a.shape[1])]
        assert same == [True] * (len(same) - 8 // 2**level) + [False] * (8 // 2**level)


def test_a_saved_model_is_all_that_a_new_process_needs(tmp_path):
    model = awaken(Hierarchy(hierarchy_config(depth=3, actions=2))).eval()
    model.save_pretrained(tmp_path)
    np.save(tmp_path / "film.npy", video())
    code = (
        "import sys, numpy as np; from hjepa import Hierarchy; run = sys.argv[1];"
        "found = Hierarchy.from_pretrained(run).encode(np.load(run + '/film.npy'));"
        "np.savez(run + '/out.npz', *[s.states.numpy() for s in found])"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    there = np.load(tmp_path / "out.npz")
    for k, here in enumerate(model.encode(video())):
        assert np.allclose(there[f"arr_{k}"], here.states.numpy(), atol=1e-6)


def test_weights_of_another_configuration_are_refused(tmp_path):
    Hierarchy(hierarchy_config(depth=2)).save_pretrained(tmp_path)
    path = tmp_path / WEIGHTS
    facts = {"format": "1", "hierarchy": hierarchy_config(depth=3).model_dump_json()}
    save_file(load_file(path), path, metadata=facts)
    with pytest.raises(UserError, match="do not fit"):
        Hierarchy.from_pretrained(tmp_path)


def test_what_is_no_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="no such model"):
        Hierarchy.from_pretrained(tmp_path)
    (tmp_path / WEIGHTS).write_bytes(b"\x00" * 100)
    with pytest.raises(UserError, match="not a safetensors file"):
        Hierarchy.from_pretrained(tmp_path)
    save_file({"a": torch.zeros(1)}, tmp_path / WEIGHTS, metadata={"format": "9"})
    with pytest.raises(UserError, match="format '9'; legal: '1'"):
        Hierarchy.from_pretrained(tmp_path)


def test_a_truncated_model_is_refused(tmp_path):
    path = Hierarchy(hierarchy_config(depth=2)).save_pretrained(tmp_path)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(UserError, match=r"model\.safetensors"):
        Hierarchy.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("film", "words"),
    [
        (np.zeros((9, 8, 8, 3), np.uint8), "legal: uint8"),
        (np.zeros((9, SIDE, SIDE, 3), np.float32), "legal: uint8"),
        (np.zeros((0, SIDE, SIDE, 3), np.uint8), "needs at least 1"),
    ],
)
def test_frames_the_model_cannot_read_are_refused(film, words):
    with pytest.raises(UserError, match=words):
        Hierarchy(hierarchy_config(depth=2)).encode(film)


def test_levels_that_do_not_exist_are_refused():
    model = Hierarchy(hierarchy_config(depth=2))
    with pytest.raises(UserError, match="legal: 1 to 2"):
        model.encode(video(), level=3)
    with pytest.raises(UserError, match="legal: 1 to 2"):
        model.predict(model.encode(video()), 3, 1)
    with pytest.raises(UserError, match="no state here"):
        model.predict(model.encode(video(1)), 2, 1)


def test_energy_is_low_where_the_prediction_holds():
    model = Hierarchy(hierarchy_config(depth=1))
    film = video()
    film[20:] = film[19]  # an untrained predictor is persistence: right once the picture stands still
    energy = model.energy(model.encode(film), 1)
    assert energy[0, -5:].max() < 1e-10 < energy[0, :5].min()


def test_a_level_that_needs_actions_says_so():
    model = Hierarchy(hierarchy_config(depth=1, actions=2))
    with pytest.raises(ValueError, match=r"pass \(b, n, 4\)"):
        model.level(1).predict(torch.zeros(1, 2, 6))


def test_a_run_configuration_without_world_cannot_build_a_model():
    with pytest.raises(ValueError, match="taken from the store"):
        run_config().model_copy(update={"world": None}).hierarchy()
