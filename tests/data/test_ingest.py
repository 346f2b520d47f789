"""hjepa/data/ingest.py: videos become a store; a broken one costs itself only; an interruption costs one file."""

import shutil

import numpy as np
import pytest

from hjepa.data import ingest as room
from hjepa.data.ingest import ingest, named
from hjepa.data.store import EpisodeWriter, Store
from hjepa.data.video import read_video
from hjepa.errors import UserError
from tests.clips import real_clip, write_sound, write_video


def videos(folder, *names, frames=20, **settings):
    folder.mkdir(parents=True, exist_ok=True)
    return [write_video(folder / name, frames + place, **settings) for place, name in enumerate(names)]


def stored(out):
    store = Store.open(out, verify=True)
    return {episode.source: store.whole("frames", episode) for episode in store.episodes}


def test_the_store_holds_what_the_videos_show(tmp_path):
    files = videos(tmp_path, "a.mp4", "b.ts")
    report = ingest(files, tmp_path / "store", size=(32, 48), crop="none")
    frames = stored(tmp_path / "store")
    assert list(frames) == ["a.mp4", "b.ts"]
    for path in files:
        expected = np.concatenate(list(read_video(path, size=(32, 48), crop="none")))
        assert np.array_equal(frames[path.name], expected)
    assert [(file.ok, file.decoder, file.frames_in, file.frames_out) for file in report.files] == [
        (True, "decord", 20, 20),
        (True, "pyav", 21, 21),
    ]
    assert "2 of 2 files, 41 frames at 25 Hz" in str(report)


def test_the_store_says_how_to_treat_another_video_alike(tmp_path):
    ingest(videos(tmp_path, "a.mp4"), tmp_path / "store", size=32, rate_hz=10.0)
    store = Store.open(tmp_path / "store")
    assert store.attrs["preprocessing"] == {"height": 32, "width": 32, "crop": "center", "rate_hz": 10.0}
    assert store.rate_hz == 10.0
    assert store.arrays["frames"].shape == (32, 32, 3)
    facts = store.episodes[0].attrs
    assert (facts["file_rate_hz"], facts["file_height"], facts["file_width"]) == (25.0, 96, 128)


def test_a_real_clip_arrives_whole(tmp_path):
    report = ingest([real_clip("carphone_pristine.mp4")], tmp_path / "store", size=64)
    assert (report.frames, report.failed) == (120, ())
    assert report.rate_hz == pytest.approx(30000 / 1001)
    assert stored(tmp_path / "store")["carphone_pristine.mp4"].std() > 20


def test_a_broken_file_costs_only_itself(tmp_path):
    good = videos(tmp_path, "a.mp4", "z.mp4")
    empty, song = tmp_path / "empty.mp4", write_sound(tmp_path / "song.mp4")
    empty.touch()
    report = ingest([empty, good[0], song, good[1]], tmp_path / "store")
    assert [file.ok for file in report.files] == [False, True, False, True]
    assert [file.source for file in report.failed] == ["empty.mp4", "song.mp4"]
    assert "empty file" in report.failed[0].error
    assert "no video stream" in report.failed[1].error
    assert list(stored(tmp_path / "store")) == ["a.mp4", "z.mp4"]


def test_a_file_that_breaks_half_way_leaves_nothing_behind(tmp_path, monkeypatch):
    def breaks(path, **settings):
        yield from read_video(path, **settings)
        if path.name == "b.mp4":
            raise UserError(f"{path}: frame 20 of 40 no longer decodes")

    files = videos(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    monkeypatch.setattr(room, "read_video", breaks)
    report = ingest(files, tmp_path / "store")
    assert [file.error for file in report.failed] == [f"{files[1]}: frame 20 of 40 no longer decodes"]
    assert {name: len(frames) for name, frames in stored(tmp_path / "store").items()} == {"a.mp4": 20, "c.mp4": 22}


def test_nothing_readable_is_an_error_that_names_every_file(tmp_path):
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no video")
    with pytest.raises(UserError, match=r"(?s)none of the videos.*a\.mp4.*b\.mp4"):
        ingest([tmp_path], tmp_path / "store", rate_hz=5.0)
    assert not (tmp_path / "store").exists()


def test_files_that_all_break_half_way_are_an_error_too(tmp_path, monkeypatch):
    def breaks(path, **settings):
        raise UserError(f"{path}: frame 0 of 20 no longer decodes")

    monkeypatch.setattr(room, "read_video", breaks)
    with pytest.raises(UserError, match=r"(?s)none of the videos.*a\.mp4: frame 0.*b\.mp4: frame 0"):
        ingest(videos(tmp_path, "a.mp4", "b.mp4"), tmp_path / "store")


def test_trouble_with_the_store_is_not_taken_for_a_broken_video(tmp_path, monkeypatch):
    def full(self, **blocks):
        raise UserError("no space left on the disk")

    monkeypatch.setattr(EpisodeWriter, "append", full)
    with pytest.raises(UserError, match="no space left"):
        ingest(videos(tmp_path, "a.mp4"), tmp_path / "store")


def test_after_an_interruption_it_goes_on_behind_the_last_whole_file(tmp_path):
    def interrupt(progress):
        if progress.source == "b.mp4":
            raise KeyboardInterrupt

    files = videos(tmp_path, "a.mp4", "b.mp4", "c.mp4")
    with pytest.raises(KeyboardInterrupt):
        ingest(files, tmp_path / "store", on_progress=interrupt)
    worked_on = []
    resumed = ingest(files, tmp_path / "store", on_progress=lambda progress: worked_on.append(progress.source))
    assert worked_on == ["b.mp4", "c.mp4"]
    whole = ingest(files, tmp_path / "whole")
    assert resumed.files == whole.files
    assert Store.open(tmp_path / "store").digest == Store.open(tmp_path / "whole").digest


def test_the_first_files_rate_is_the_stores(tmp_path):
    files = videos(tmp_path, "at_25.mp4") + videos(tmp_path, "at_50.mp4", rate=50, frames=40)
    report = ingest(files, tmp_path / "store")
    assert report.rate_hz == 25.0
    assert [(file.frames_in, file.frames_out) for file in report.files] == [(20, 20), (40, 20)]
    assert report.files[1].notes == ("resampled from 50 to 25 Hz",)
    assert "    resampled from 50 to 25 Hz" in str(report)


def test_progress_is_told_after_every_block(tmp_path):
    told = []
    ingest(videos(tmp_path, "a.mp4", "b.mp4", frames=300), tmp_path / "store", size=16, on_progress=told.append)
    assert [(p.source, p.file, p.files, p.frames, p.expected) for p in told] == [
        ("a.mp4", 0, 2, 256, 300),
        ("a.mp4", 0, 2, 300, 300),
        ("b.mp4", 1, 2, 256, 301),
        ("b.mp4", 1, 2, 301, 301),
    ]


def test_a_taken_folder_is_refused(tmp_path):
    files = videos(tmp_path, "a.mp4")
    ingest(files, tmp_path / "store")
    with pytest.raises(UserError, match="sealed store"):
        ingest(files, tmp_path / "store")


@pytest.mark.parametrize("settings", [{"size": 0}, {"crop": "middle"}, {"rate_hz": -5.0}])
def test_illegal_settings_are_refused_before_anything_is_written(settings, tmp_path):
    with pytest.raises(UserError, match="legal:"):
        ingest(videos(tmp_path, "a.mp4"), tmp_path / "store", **settings)
    assert not (tmp_path / "store").exists()


# ---- names


def touch(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    return root


def test_a_folder_stands_for_the_videos_below_it_in_order(tmp_path):
    root = touch(tmp_path / "set", "b.mp4", "a.AVI", "sub/c.webm", "notes.txt", "._a.mp4", "sub/cover.jpg")
    assert list(named([root])) == ["a.AVI", "b.mp4", "sub/c.webm"]


def test_names_are_relative_and_tell_files_apart(tmp_path):
    root = touch(tmp_path, "x/cam/1.mp4", "y/cam/1.mp4", "y/cam/2.mp4")
    files = named([root / "x" / "cam" / "1.mp4", root / "y" / "cam"])
    assert list(files) == ["x/cam/1.mp4", "y/cam/1.mp4", "2.mp4"]
    assert files["y/cam/1.mp4"] == root / "y" / "cam" / "1.mp4"


def test_a_file_given_twice_is_taken_once(tmp_path):
    root = touch(tmp_path / "set", "a.mp4")
    (tmp_path / "link.mp4").symlink_to(root / "a.mp4")
    assert list(named([root / "a.mp4", root, tmp_path / "link.mp4"])) == ["a.mp4"]


def test_a_file_named_outright_may_end_in_anything(tmp_path):
    path = shutil.move(write_video(tmp_path / "a.mp4", 5), tmp_path / "recording.bin")
    assert ingest([path], tmp_path / "store").frames == 5


def test_what_is_missing_is_named(tmp_path):
    touch(tmp_path / "empty", "readme.txt")
    with pytest.raises(UserError, match=r"empty: no videos in this folder; legal endings: \.3gp, \.avi"):
        named([tmp_path / "empty"])
    with pytest.raises(UserError, match=r"typo\.mp4: no such file or folder"):
        named([tmp_path / "typo.mp4"])
    with pytest.raises(UserError, match="no videos given"):
        named([])
