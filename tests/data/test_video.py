"""hjepa/data/video.py: every frame is the right one, whatever the container, or one line says what is wrong."""

import struct
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pytest

from hjepa.data import video
from hjepa.data.decoders import DecordReader, PyAVReader
from hjepa.data.video import fit, probe, read_video
from hjepa.errors import UserError
from tests.clips import HEIGHT, WIDTH, numbers, paint, real_clip, write_sound, write_video

OPEN_GOP = {"x264-params": "keyint=20:min-keyint=20:bframes=3:open-gop=1:scenecut=0"}
CONTAINERS = {  # name: (how it is written, who decodes it)
    "b_frames.mp4": ({"b_frames": 3}, "decord"),
    "plain.mkv": ({}, "decord"),
    "plain.flv": ({}, "decord"),
    "vp9.webm": ({"codec": "libvpx-vp9", "rate": 30}, "decord"),
    "motion_jpeg.avi": ({"codec": "mjpeg", "pixels": "yuvj420p"}, "decord"),
    "animated.gif": ({"codec": "gif", "pixels": "rgb8"}, "decord"),
    "transport_stream.ts": ({"options": {"x264-params": "keyint=20:bframes=3"}}, "pyav"),
    "open_gop.ts": ({"options": OPEN_GOP}, "pyav"),
    "open_gop.mp4": ({"options": OPEN_GOP}, None),  # right in sequence, wrong at random: either will do
    "b_frames.avi": ({"codec": "mpeg4", "b_frames": 2}, "pyav"),
    "program_stream.mpg": ({"codec": "mpeg2video", "b_frames": 2}, "pyav"),
}
UNEVEN_MS = np.cumsum(np.resize([40, 40, 80, 20, 120], 100)).tolist()


def whole(path: Path, **settings) -> np.ndarray:
    return np.concatenate(list(read_video(path, **settings)))


def shown_at(stamps_ms: list[int], rate_hz: float, frames: int) -> list[int]:
    """Brute force: the last frame that had appeared at each instant."""
    instants = [stamps_ms[0] + 1000 * k / rate_hz for k in range(frames)]
    return [max(i for i, stamp in enumerate(stamps_ms) if stamp <= instant + 1e-6) for instant in instants]


def fails(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        probe(path)
    line = str(caught.value)
    assert path.name in line and "\n" not in line
    return line


# ---- which frames


@pytest.mark.parametrize(
    ("name", "frames", "rate_hz"),
    [
        ("cityCC0.mpg", 190, 25),
        ("bikes.mp4", 250, 25),
        ("carphone_pristine.mp4", 120, 30000 / 1001),
        ("demo.mp4", 230, 30),
    ],
)
def test_real_clips_have_the_frames_they_are_known_to_have(name, frames, rate_hz):
    info = probe(real_clip(name))
    assert (info.frames, info.rate_hz) == (frames, pytest.approx(rate_hz))
    assert len(whole(info.path, size=(16, 16))) == frames


@pytest.mark.parametrize("name", CONTAINERS)
def test_every_frame_arrives_once_and_in_order(name, tmp_path):
    settings, decoder = CONTAINERS[name]
    path = write_video(tmp_path / name, 90, **settings)
    assert numbers(whole(path)) == list(range(90))
    info = probe(path)
    assert info.frames == 90
    assert info.decoder == decoder or decoder is None
    assert info.duration_s == pytest.approx(90 / settings.get("rate", 25))


def test_frames_an_edit_list_cuts_off_stay_cut_off(tmp_path):
    stamps = [40 * k for k in range(-20, 70)]
    muxer = {"avoid_negative_ts": "disabled", "use_editlist": "1"}
    path = write_video(tmp_path / "edited.mp4", 90, stamps_ms=stamps, options={"x264-params": "keyint=50"}, muxer=muxer)
    assert numbers(whole(path)) == list(range(20, 90))


def test_scrambled_presentation_stamps_give_way_to_those_of_decoding():
    pts, dts = [1, 2, 3, 5, 4, 6, 8, 7], [1, 2, 3, 4, 5, 6, 7, np.nan]  # as DivX wrote them
    times_s, guessed = video._repair(video._clock(np.array([pts, dts]).T) / 25, [25.0])
    assert times_s == pytest.approx(np.arange(8) / 25)
    assert guessed == 1


@pytest.mark.parametrize("fault_at", [0, 17, 59])
def test_pyav_goes_on_where_decord_gives_up(fault_at, tmp_path, monkeypatch):
    def breaks(self: DecordReader) -> Iterator[np.ndarray]:
        for number in range(fault_at):
            yield first[number]
        raise RuntimeError("decord lost the file")

    path = write_video(tmp_path / "plain.mp4", 60)
    first = whole(path)
    monkeypatch.setattr(DecordReader, "frames", breaks)
    assert numbers(whole(path)) == list(range(60))


def test_a_wrong_frame_is_never_passed_on_in_silence(tmp_path, monkeypatch):
    path = write_video(tmp_path / "plain.mp4", 60)
    shifted = [paint(number + 1) for number in range(60)]
    probe(path)
    monkeypatch.setattr(DecordReader, "frames", lambda self: iter(shifted))
    with pytest.raises(UserError, match=r"plain\.mp4: decord's frame 0 is not PyAV's"):
        whole(path)


def test_both_decoders_give_the_same_pixels(monkeypatch):
    path = real_clip("bikes.mp4")
    by_decord = whole(path, size=(48, 64))
    monkeypatch.setattr(video, "_why_not_decord", lambda scan: "tested without")
    video._cached_scan.cache_clear()
    assert probe(path).decoder == "pyav"
    assert np.array_equal(whole(path, size=(48, 64)), by_decord)
    video._cached_scan.cache_clear()


# ---- when


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("rate_hz", [25.0, 10.0, 60.0])
def test_uneven_times_become_even_ones(suffix, rate_hz, tmp_path):
    path = write_video(tmp_path / f"uneven.{suffix}", 100, stamps_ms=UNEVEN_MS)
    found = numbers(whole(path, rate_hz=rate_hz))
    assert found == shown_at(UNEVEN_MS, rate_hz, len(found))
    assert len(found) == pytest.approx((UNEVEN_MS[-1] - UNEVEN_MS[0] + 40) / 1000 * rate_hz, abs=1)


def test_a_varying_rate_is_reported_as_its_usual_one(tmp_path):
    info = probe(write_video(tmp_path / "uneven.mp4", 100, stamps_ms=UNEVEN_MS))
    assert info.rate_hz == 25.0
    assert "the frame rate varies, 25 Hz is its usual one" in info.notes
    assert len(whole(info.path)) == round(info.duration_s * 25)


@pytest.mark.parametrize(
    ("name", "settings", "rate_hz"),
    [
        ("ms_ticks.webm", {"codec": "libvpx-vp9", "rate": 30}, 15.0),
        ("frame_ticks.avi", {"codec": "mpeg4", "b_frames": 0}, 10.0),
    ],
)
def test_a_container_that_rounds_its_times_shifts_no_frame(name, settings, rate_hz, tmp_path):
    path = write_video(tmp_path / name, 90, **settings)
    native = settings.get("rate", 25)
    frames = round(90 * rate_hz / native)
    assert numbers(whole(path, rate_hz=rate_hz)) == [int(k * native / rate_hz + 1e-9) for k in range(frames)]


def test_rounded_times_of_a_file_with_gaps_shift_no_frame(tmp_path):
    kept = [k for k in range(90) if k % 7 != 5]
    stamps = [round(1000 * k / 30) for k in kept]  # as webm and mkv write them, up to half a millisecond late
    path = write_video(tmp_path / "gaps.mkv", len(stamps), stamps_ms=stamps)
    latest = [max(place for place, k in enumerate(kept) if k <= now) for now in range(89)]
    assert numbers(whole(path, rate_hz=30.0)) == latest


def test_a_jump_of_the_clock_is_closed_and_noted(tmp_path):
    stamps = [40 * k + (3_600_000 if k >= 30 else 0) for k in range(60)]
    info = probe(write_video(tmp_path / "jump.mkv", 60, stamps_ms=stamps))
    assert numbers(whole(info.path)) == list(range(60))
    assert any("1 timestamps missing, repeated or over 60 s apart" in note for note in info.notes)


@pytest.mark.parametrize("rate_hz", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_rate_is_refused_before_decoding(rate_hz, tmp_path):
    with pytest.raises(UserError, match="legal: a positive number"):
        read_video(tmp_path / "unread.mp4", rate_hz=rate_hz)


# ---- pixels


@pytest.mark.parametrize(
    ("degrees", "mirrored", "expected"),
    [
        (90, False, lambda frame: np.rot90(frame, 1)),
        (-90, False, lambda frame: np.rot90(frame, -1)),
        (180, False, lambda frame: np.rot90(frame, 2)),
        (0, True, lambda frame: frame[:, ::-1]),
    ],
)
@pytest.mark.parametrize("decoder", ["whoever is right", "pyav"])
def test_the_display_matrix_is_applied(decoder, degrees, mirrored, expected, tmp_path, monkeypatch):
    if decoder == "pyav":
        monkeypatch.setattr(video, "_why_not_decord", lambda scan: "tested without")
    path = write_video(tmp_path / "turned.mp4", 20, rotation=degrees, mirrored=mirrored)
    upright = [expected(paint(number)) for number in range(20)]
    frames = whole(path)
    assert frames.shape[1:] == upright[0].shape == (probe(path).height, probe(path).width, 3)
    assert np.abs(frames.astype(int) - upright).mean() < 12  # of 255, chroma smeared by the codec; another turn: 25


def test_center_crops_and_none_squeezes():
    frame = np.zeros((40, 120, 3), np.uint8)
    frame[:, :40, 0], frame[:, 40:80, 1], frame[:, 80:, 2] = 255, 255, 255
    middle, all_of_it = fit(frame, (10, 10), "center"), fit(frame, (10, 10), "none")
    assert middle.mean(axis=(0, 1)) == pytest.approx([0, 255, 0], abs=4)  # the filter sees a little beyond the cut
    assert all_of_it.mean(axis=(0, 1)) == pytest.approx([85, 85, 85], abs=3)


def test_scaling_down_averages_instead_of_picking():
    checks = np.indices((256, 256)).sum(axis=0) % 2 * np.uint8(255)
    small = fit(np.repeat(checks[..., None], 3, axis=2).astype(np.uint8), (64, 64), "center")
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_a_picture_of_the_right_size_is_untouched():
    assert np.array_equal(fit(paint(5), (HEIGHT, WIDTH), "center"), paint(5))


@pytest.mark.parametrize("size", [(3, 7), (7, 3), (200, 50), (96, 96), (1, 1)])
@pytest.mark.parametrize("crop", ["center", "none"])
def test_every_size_comes_out_as_asked(size, crop, tmp_path):
    path = write_video(tmp_path / "plain.mp4", 3)
    assert whole(path, size=size, crop=crop).shape == (3, *size, 3)


def test_size_and_crop_are_checked(tmp_path):
    with pytest.raises(UserError, match=r"did you mean 'center'\? legal: center, none"):
        read_video(tmp_path / "unread.mp4", crop="centre")
    with pytest.raises(UserError, match="at least 1 pixel"):
        read_video(tmp_path / "unread.mp4", size=(0, 64))


# ---- memory


def test_blocks_keep_their_length(tmp_path):
    path = write_video(tmp_path / "plain.mp4", 50)
    assert [len(block) for block in read_video(path, block=16)] == [16, 16, 16, 2]


def test_a_long_video_is_never_held_whole(tmp_path):
    path = write_video(
        tmp_path / "long.mp4", [np.full((480, 640, 3), k % 200, np.uint8) for k in range(300)], codec="mpeg4"
    )
    tracemalloc.start()  # all frames at once would be 264 MiB
    shape = [block.shape for block in read_video(path, block=300)]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert sum(t for t, *_ in shape) == 300
    assert peak < 160 * 2**20


def test_a_file_decord_could_fill_the_memory_with_is_left_to_pyav(tmp_path, monkeypatch):
    monkeypatch.setattr(video, "DECORD_BYTES", 20 * HEIGHT * WIDTH * 3)
    assert probe(write_video(tmp_path / "fits.mp4", 20)).decoder == "decord"
    assert probe(write_video(tmp_path / "too_long.mp4", 21)).decoder == "pyav"


# ---- files that are not what they say


def test_one_frame_is_a_video_of_one_frame(tmp_path):
    path = write_video(tmp_path / "one.mp4", 1)
    assert probe(path).frames == 1
    assert numbers(whole(path)) == [0]
    assert numbers(whole(path, rate_hz=50.0)) == [0, 0]


def test_an_mp4_cut_short_is_one_clear_line(tmp_path):
    path = write_video(tmp_path / "cut.mp4", 60)
    path.write_bytes(path.read_bytes()[:-2000])
    assert "not readable as video" in fails(path)


@pytest.mark.parametrize("name", ["cut.mkv", "cut.ts", "cut.mp4"])
def test_what_is_left_of_a_file_cut_short_is_right(name, tmp_path):
    path = write_video(tmp_path / name, 90, muxer={"movflags": "faststart"} if name.endswith("mp4") else None)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    info = probe(path)
    assert 20 < info.frames < 90
    assert numbers(whole(path))[:20] == list(range(20))
    assert info.notes


def test_damage_inside_a_file_costs_no_more_than_the_damaged_frames(tmp_path):
    path = write_video(tmp_path / "damaged.mp4", 90, options={"x264-params": "keyint=10"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 3
    data[middle : middle + 400] = bytes(400)
    path.write_bytes(data)
    found = numbers(whole(path))
    assert len(found) == 90  # at their own times, the gap filled with the frame before it
    assert (found[:15], found[-15:]) == (list(range(15)), list(range(75, 90)))
    assert probe(path).decoder == "pyav"


def test_the_frames_that_decode_count_not_the_header(tmp_path):
    path = write_video(tmp_path / "boastful.avi", 60, codec="mpeg4", b_frames=0)
    data = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 16), (b"strh", 32)):
        struct.pack_into("<I", data, data.find(tag) + 8 + offset, 444)
    path.write_bytes(data)
    info = probe(path)
    assert info.frames == 60
    assert "the header says 444 frames, 60 decode" in info.notes
    assert numbers(whole(path)) == list(range(60))


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"", "empty file"), (b"no video\n" * 200, "not readable"), (bytes(range(256)) * 50, "not readable")],
)
def test_what_is_no_video_is_one_clear_line(content, expected, tmp_path):
    path = tmp_path / "pretender.mp4"
    path.write_bytes(content)
    assert expected in fails(path)


def test_an_unknown_codec_is_one_clear_line(tmp_path):
    path = write_video(tmp_path / "future.mp4", 5)
    path.write_bytes(path.read_bytes().replace(b"avc1", b"zzz1"))
    assert "no frame decodes" in fails(path)


def test_sound_alone_is_one_clear_line(tmp_path):
    assert "no video stream" in fails(write_sound(tmp_path / "song.mp4"))


def test_a_missing_file_and_a_folder_are_one_clear_line(tmp_path):
    assert "no such file" in fails(tmp_path / "missing.mp4")
    assert "not a file" in fails(tmp_path)


def test_a_changed_file_is_looked_at_again(tmp_path):
    path = write_video(tmp_path / "video.mp4", 5)
    assert probe(path).frames == 5
    assert probe(write_video(path, 9)).frames == 9


def test_a_file_that_shrinks_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    path = write_video(tmp_path / "transport.ts", 60)
    assert probe(path).decoder == "pyav"
    monkeypatch.setattr(PyAVReader, "frames", lambda self: iter([paint(0)] * 30))
    with pytest.raises(UserError, match="30 of 60 frames decode now"):
        whole(path)


def test_broken_files_do_not_spam_the_terminal(tmp_path, capfd):
    path = write_video(tmp_path / "damaged.ts", 90)
    data = bytearray(path.read_bytes())
    for at in range(len(data) // 3, len(data) // 2, 97):
        data[at] ^= 255
    path.write_bytes(data)
    whole(path)
    fails(write_sound(tmp_path / "song.mp4"))
    assert capfd.readouterr() == ("", "")


def test_names_with_spaces_and_accents_open(tmp_path):
    path = write_video(tmp_path / "año nuevo, 100%: été.mp4", 5)
    assert probe(path).decoder == "decord"
    assert len(whole(path)) == 5


def test_a_songs_cover_is_no_video(tmp_path):
    path = tmp_path / "album.mp4"
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt = 64, 64, "yuvj420p"
        cover.disposition = av.stream.Disposition.attached_pic
        picture = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8), format="rgb24")
        container.mux(cover.encode(picture))
        container.mux(cover.encode())
    assert "no video stream" in fails(path)
