import itertools
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hjepa.clock import Clock
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.data.stream import Clip, ClipStream, episode_parts
from hjepa.errors import UserError

LENGTHS = (30, 5, 1, 44, 17)  # longer and shorter than the clip of 10 steps
CROP = Clock([2, 2], [2, 2]).crop([4, 2])
OFFSETS = np.array([0, 3, 4, 9])
CLIP = {"array": "states", "span": 10, "offsets": OFFSETS}


def make(path: Path, lengths=LENGTHS, actions: bool = True) -> Store:
    """States and actions that are their own row, frames that differ everywhere."""
    arrays = {"states": ArraySpec("float32", (1,), "row"), "frames": ArraySpec("uint8", (6, 5, 3), "rgb 0-255")}
    if actions:
        arrays["actions"] = ArraySpec("float64", (2,), "row")
    row = 0
    with StoreWriter(path, rate_hz=10, arrays=arrays, chunk_steps=4, shard_steps=32) as writer:
        for number, length in enumerate(lengths):
            rows = np.arange(row, row + length)
            blocks = {"states": rows[:, None].astype(np.float32), "frames": frames_of(rows)}
            if actions:
                blocks["actions"] = np.stack([rows, -rows], 1).astype(np.float64)
            with writer.episode(f"take{number}") as episode:
                episode.append(**blocks)
            row += length
        writer.finish()
    return Store.open(path)


def frames_of(rows: np.ndarray) -> np.ndarray:
    return ((rows[:, None] * 7 + np.arange(90) * 11) % 256).astype(np.uint8).reshape(-1, 6, 5, 3)


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Store:
    return make(tmp_path_factory.mktemp("stream") / "store")


@pytest.fixture(scope="module")
def film(tmp_path_factory) -> Store:
    return make(tmp_path_factory.mktemp("film") / "store", actions=False)


def taken(stream: ClipStream, count: int, start: int = 0) -> list[Clip]:
    return list(itertools.islice(stream.batches(start), count))


def joined(clips: list[Clip]) -> dict[str, Tensor]:
    values = {f.name: [getattr(clip, f.name) for clip in clips] for f in fields(Clip)}
    return {name: torch.cat(parts) for name, parts in values.items() if parts[0] is not None}


def assert_same(one: list[Clip], other: list[Clip]) -> None:
    left, right = joined(one), joined(other)
    assert left.keys() == right.keys()
    for name in left:
        assert torch.equal(left[name], right[name]), name


@pytest.mark.parametrize(("part", "held_back"), [("all", 0.0), ("train", 0.0), ("train", 0.3), ("held_back", 0.3)])
@pytest.mark.parametrize("span", [1, 10, 60])
def test_clips_are_those_of_brute_force(store, part, held_back, span):
    offsets = np.array([o for o in OFFSETS if o < span - 1] + [span - 1])
    stream = ClipStream(
        store,
        array="states",
        span=span,
        offsets=offsets,
        action_steps=3,
        batch=7,
        part=part,
        held_back=held_back,
        shuffle=False,
    )
    expected = []
    for episode in store.episodes:
        cut = episode.start + int(episode.length * (1 - held_back))
        low, high = {"train": (episode.start, cut), "held_back": (cut, episode.stop), "all": (0, 0)}[part]
        if part == "all":
            low, high = episode.start, episode.stop
        for now in range(low, high):
            if now - low + 1 >= span or (high - low < span and now == high - 1):
                expected.append((now, low, high))
    clips = joined(list(stream.batches()))
    assert clips["row"].tolist() == [now for now, _, _ in expected]
    for k, (now, low, high) in enumerate(expected):
        rows = [now - (span - 1) + int(o) for o in offsets]
        assert clips["present"][k].tolist() == [row >= low for row in rows]
        assert clips["inputs"][k, :, 0].tolist() == [max(row, low) for row in rows]
        moves = [now - 3, now - 2, now - 1]
        assert clips["acted"][k].tolist() == [row >= low for row in moves]
        assert clips["actions"][k].tolist() == [[max(row, low), -max(row, low)] for row in moves]
        assert low <= clips["inputs"][k].min() and clips["inputs"][k].max() < high


def test_whole_episodes_can_be_held_back(store):
    trained = episode_parts(store, "train", 0.3, "episodes")
    held = episode_parts(store, "held_back", 0.3, "episodes")
    both = [(e.start, e.stop) for e in store.episodes]
    assert [tuple(p) for p in trained] == both[:3] and [tuple(p) for p in held] == both[3:]
    assert [tuple(p) for p in episode_parts(store, "train", 0.0, "episodes")] == both


def test_rounding_does_not_hold_back_a_step_too_many(tmp_path):
    store = make(tmp_path / "store", lengths=(10,) * 25)
    assert {int(stop - start) for start, stop in episode_parts(store, "held_back", 0.9)} == {9}
    assert len(episode_parts(store, "held_back", 0.28, "episodes")) == 7


def test_clips_of_frames_have_the_types_of_the_contract(store):
    span, offsets = CROP.reading(0)
    stream = ClipStream(store, array="frames", span=span, offsets=offsets, batch=4, action_steps=2)
    clip = next(stream.batches()).to("cpu")
    assert clip.inputs.shape == (4, len(CROP.frames), 6, 5, 3) and clip.inputs.dtype == torch.uint8
    assert clip.present.shape == (4, len(CROP.frames)) and clip.present.dtype == torch.bool
    assert clip.actions.shape == (4, 2, 2) and clip.actions.dtype == torch.float32
    assert clip.acted.shape == (4, 2) and clip.acted.dtype == torch.bool
    assert clip.row.dtype == torch.int64 and len(clip) == 4
    for row, frames in zip(clip.row, clip.inputs, strict=True):
        np.testing.assert_array_equal(frames[-1], frames_of(row[None].numpy())[0])


@pytest.mark.parametrize("shuffle", [True, False])
def test_every_epoch_holds_each_anchor_once(store, shuffle):
    stream = ClipStream(store, **CLIP, batch=4, shuffle=shuffle)
    assert stream.anchors == 21 + 1 + 1 + 35 + 8 == 66
    assert len(stream) == (16 if shuffle else 17)
    first = joined(taken(stream, len(stream)))["row"].tolist()
    assert len(set(first)) == len(first) == (64 if shuffle else 66)
    if shuffle:
        second = joined(taken(stream, len(stream), start=len(stream)))["row"].tolist()
        assert len(set(second)) == len(second) and first != second
    else:
        assert first == sorted(first) and len(list(stream.batches())) == 17


def test_orders_of_other_seeds_differ(store):
    rows = [joined(taken(ClipStream(store, **CLIP, batch=6, seed=s), 3))["row"].tolist() for s in (0, 1, 0)]
    assert rows[0] == rows[2] != rows[1]


def test_fewer_anchors_than_a_batch_are_repeated(tmp_path):
    store = make(tmp_path / "store", lengths=(12,))
    stream = ClipStream(store, **CLIP, batch=8)
    assert len(stream) == 1
    rows = joined(taken(stream, 1))["row"].tolist()
    assert sorted(rows[:3]) == [9, 10, 11] and rows == (rows[:3] * 3)[:8]


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("world", "workers"), [(1, 2), (2, 0), (3, 0), (3, 2)])
def test_ranks_and_workers_change_nothing(film, world, workers, shuffle):
    augment = {"flip": True, "shift": 2}
    settings = {"array": "frames", "span": 10, "offsets": OFFSETS, "batch": 6, "shuffle": shuffle, **augment}
    count = 13 if shuffle else 11
    alone = taken(ClipStream(film, **settings), count)
    ranks = [
        taken(ClipStream(film, **settings, rank=rank, world=world, workers=workers), count) for rank in range(world)
    ]
    shares = [clip for step in zip(*ranks, strict=True) for clip in step]
    assert_same(alone, shares)


def test_a_small_last_batch_gives_every_rank_equally_many(tmp_path):
    store = make(tmp_path / "store", lengths=(14,))  # 5 anchors: a batch of 4 and a batch of 1
    settings = {**CLIP, "batch": 4, "shuffle": False}
    ranks = [list(ClipStream(store, **settings, rank=r, world=4).batches()) for r in range(4)]
    assert [[len(clip) for clip in clips] for clips in ranks] == [[1, 0], [1, 0], [1, 0], [1, 1]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("start", [1, 11, 40])
def test_resuming_equals_going_on(store, start, workers):
    stream = ClipStream(store, array="frames", span=10, offsets=OFFSETS, batch=6, shift=1, action_steps=2)
    resumed = ClipStream(
        store, array="frames", span=10, offsets=OFFSETS, batch=6, shift=1, action_steps=2, workers=workers
    )
    assert_same(taken(stream, start + 4)[start:], taken(resumed, 4, start))


def test_one_pass_can_be_resumed(store):
    stream = ClipStream(store, **CLIP, batch=6, shuffle=False)
    assert_same(list(stream.batches())[7:], list(stream.batches(7)))


def test_skipping_reads_nothing(store, monkeypatch):
    reads = []
    read = Store.read
    monkeypatch.setattr(Store, "read", lambda self, name, rows: reads.append(len(rows)) or read(self, name, rows))
    taken(ClipStream(store, **CLIP, batch=6), 1, start=10**6)
    assert reads == [6 * len(OFFSETS)]


def test_reading_leaves_the_global_random_state_alone(store):
    before = torch.get_rng_state()
    taken(ClipStream(store, **CLIP, batch=6), 2)
    assert torch.equal(torch.get_rng_state(), before)


def test_flips_and_shifts_hold_for_a_whole_clip_and_are_drawn_anew(film):
    settings = {"array": "frames", "span": 10, "offsets": OFFSETS, "batch": 6}
    plain = joined(taken(ClipStream(film, **settings), 22))
    changed = joined(taken(ClipStream(film, **settings, flip=True, shift=2), 22))
    assert torch.equal(plain["row"], changed["row"])
    found = [
        moved_by(before.numpy(), after.numpy())
        for before, after in zip(plain["inputs"], changed["inputs"], strict=True)
    ]
    assert {flip for flip, _, _ in found} == {False, True}
    assert {down for _, down, _ in found} == {right for _, _, right in found} == {-2, -1, 0, 1, 2}
    again = taken(ClipStream(film, **settings, flip=True, shift=2), 22)
    assert torch.equal(joined(again)["inputs"], changed["inputs"])
    assert found[: len(found) // 2] != found[len(found) // 2 :]  # epochs draw anew


def moved_by(before: np.ndarray, after: np.ndarray) -> tuple[bool, int, int]:
    """The one mirroring and translation, edges repeated, that turns all frames of a clip into the other's."""
    height, width = before.shape[1:3]
    for flip, down, right in itertools.product((False, True), range(-2, 3), range(-2, 3)):
        padded = np.pad(before[:, :, ::-1] if flip else before, ((0, 0), (2, 2), (2, 2), (0, 0)), mode="edge")
        if np.array_equal(padded[:, 2 - down : 2 - down + height, 2 - right : 2 - right + width], after):
            return flip, down, right
    raise AssertionError("no single flip and shift explains the clip")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"batch": 6, "world": 4}, "batch 6 for 4 ranks"),
        ({"batch": 0}, "batch 0"),
        ({"batch": 6, "rank": 2, "world": 2}, "rank must be 0 to 1"),
        ({"batch": 6, "array": "state"}, "no array 'state' in this store: did you mean 'states'"),
        ({"batch": 6, "array": "frames", "flip": True}, "flip=True would mirror frames but not the store's actions"),
        ({"batch": 6, "shift": 2}, r"need frames \(H, W, C\), a step of 'states'"),
        ({"batch": 6, "array": "frames", "shift": 5}, "below the frame's 5 pixels"),
        ({"batch": 6, "part": "test"}, "part 'test'"),
        ({"batch": 6, "hold": "tails"}, "did you mean 'tail'"),
        ({"batch": 6, "held_back": 1.0}, "below 1"),
        ({"batch": 6, "seed": -1}, "seed must be at least 0"),
        ({"batch": 6, "part": "held_back"}, "no step in part 'held_back' of 5 episodes of 1 to 44 steps"),
    ],
)
def test_impossible_requests_are_named(store, settings, named):
    with pytest.raises(UserError, match=named):
        ClipStream(store, **{**CLIP, **settings})


def test_missing_actions_are_named(film):
    with pytest.raises(UserError, match="no array 'actions' in this store"):
        ClipStream(film, **CLIP, batch=6, action_steps=2)


@pytest.mark.parametrize("workers", [0, 2])
def test_damage_is_told_in_one_line_also_by_workers(tmp_path, workers):
    store = make(tmp_path / "store")
    shard = store.path / "states" / "c" / "0" / "0"
    shard.write_bytes(bytes(shard.stat().st_size))
    with pytest.raises(UserError, match="states/c/0/0") as caught:
        taken(ClipStream(store, **CLIP, batch=12, workers=workers), 5)
    assert "\n" not in str(caught.value)


def test_a_negative_start_is_refused(store):
    with pytest.raises(UserError, match="got -1"):
        next(ClipStream(store, **CLIP, batch=6).batches(-1))
