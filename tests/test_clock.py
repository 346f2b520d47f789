"""Law 1: time is in one room, and right."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hjepa.clock import Clock

clocks = st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), min_size=1, max_size=4).map(
    lambda pairs: Clock([s for s, _ in pairs], [w for _, w in pairs])
)


def frames_seen(clock, level, instant):
    """Brute force: the frames that one state sees, straight from the definition."""
    if level == 0:
        return {instant}
    step = 1 if level == 1 else int(np.prod(clock.strides[: level - 1]))
    window = range(clock.windows[level - 1])
    return set().union(*(frames_seen(clock, level - 1, instant - j * step) for j in window))


def expand(crop, level, position):
    """The frames that the crop's index lists gather for one state."""
    if level == 0:
        return {int(crop.frames[position])}
    return set().union(*(expand(crop, level - 1, p) for p in crop.levels[level - 1].reads[position]))


@settings(max_examples=150, deadline=None)
@given(clocks, st.data())
def test_a_crop_reads_exactly_the_frames_that_its_sequences_need(clock, data):
    lengths = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=clock.depth).filter(any))
    crop = clock.crop(lengths)
    now = crop.span - 1
    needed = [
        frames_seen(clock, level, now - j * clock.periods[level - 1])
        for level, n in enumerate(lengths, 1)
        for j in range(n)
    ]
    assert set(crop.frames.tolist()) == set().union(*needed)
    assert min(crop.frames) == 0 and max(crop.frames) == now


@settings(max_examples=150, deadline=None)
@given(clocks, st.data())
def test_index_lists_gather_for_every_state_the_frames_of_its_definition(clock, data):
    lengths = data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=clock.depth).filter(any))
    crop = clock.crop(lengths)
    for level, part in enumerate(crop.levels, 1):
        for position, instant in enumerate(part.instants):
            assert expand(crop, level, position) == frames_seen(clock, level, int(instant))


@given(clocks, st.data())
def test_every_level_ends_now_and_its_sequence_is_one_period_apart(clock, data):
    lengths = data.draw(st.lists(st.integers(1, 4), min_size=clock.depth, max_size=clock.depth))
    crop = clock.crop(lengths)
    for part, n, period in zip(crop.levels, lengths, clock.periods, strict=True):
        assert part.instants[-n:].tolist() == [crop.span - 1 - j * period for j in range(n - 1, -1, -1)]


@settings(deadline=None)
@given(clocks, st.integers(0, 60))
def test_whole_and_dense_hold_every_state_that_a_recording_has(clock, extra):
    frames = clock.span(clock.depth, 1) + extra
    whole, dense = clock.whole(frames), clock.dense(frames)
    for level in range(1, clock.depth + 1):
        possible = [t for t in range(frames) if min(frames_seen(clock, level, t)) >= 0]
        assert dense.levels[level - 1].instants.tolist() == possible
        wanted = [t for t in possible if (frames - 1 - t) % clock.periods[level - 1] == 0]
        assert whole.levels[level - 1].instants[-len(wanted) :].tolist() == wanted
        assert expand(dense, level, 0) == frames_seen(clock, level, possible[0])
        assert expand(whole, level, 0) == frames_seen(clock, level, int(whole.levels[level - 1].instants[0]))


@given(clocks, st.data())
def test_span_and_states_in_are_inverse(clock, data):
    level, n = data.draw(st.integers(1, clock.depth)), data.draw(st.integers(1, 6))
    span = clock.span(level, n)
    assert clock.states_in(level, span) == n
    assert clock.states_in(level, span - 1) == n - 1


def test_levels_too_slow_for_a_recording_have_no_states():
    whole = Clock([1, 4], [1, 4]).whole(3)
    assert [len(part.instants) for part in whole.levels] == [3, 0]


def test_reading_states_of_a_level_starts_at_its_first_state():
    crop = Clock([2, 3], [2, 3]).crop([0, 2])
    span, offsets = crop.reading(1)
    assert offsets[0] == 0 and offsets[-1] == span - 1
    assert np.array_equal(offsets + (crop.span - span), crop.levels[0].instants)


@given(clocks, st.data())
def test_actions_around_now_are_those_between_the_states_they_join(clock, data):
    level, before, after = (
        data.draw(st.integers(1, clock.depth)),
        data.draw(st.integers(0, 3)),
        data.draw(st.integers(1, 3)),
    )
    first, last = -clock.past(level, before + 1)[0], clock.future(level, after * clock.periods[level - 1])[-1]
    assert clock.acting(level, before, after).tolist() == list(range(first, last))  # an action leads to the next frame


@pytest.mark.parametrize(("strides", "windows"), [((), ()), ((2,), (1, 1)), ((0,), (1,)), ((1,), (0,))])
def test_impossible_clocks_are_refused(strides, windows):
    with pytest.raises(ValueError, match=r"clock|at least 1"):
        Clock(strides, windows)


def test_a_recording_without_a_single_state_is_refused():
    with pytest.raises(ValueError, match="needs 3 frames"):
        Clock([1], [3]).whole(2)
