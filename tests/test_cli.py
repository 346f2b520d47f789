"""The command line: its surface is frozen, results are JSON on request, mistakes are one line and exit code 2."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import typer
from PIL import Image

from hjepa.cli import app, main
from hjepa.config import dump
from tests.clips import write_video
from tests.models import run_config
from tests.stores import moving_square

GOLDEN = Path(__file__).parent / "cli.json"
OBJECTIVE = {"weights": {"sigreg": 1, "information": 0.01}, "directions": 16}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return moving_square(tmp_path_factory.mktemp("cli") / "store", actions=False, steps=80).path


@pytest.fixture(scope="module")
def preset(store):
    """A configuration file for two small levels; the world comes from the store."""
    config = run_config(
        depth=2, level={"objective": OBJECTIVE}, data={"store": str(store), "batch": 4, "held_back": 0.5}
    )
    path = store.parent / "small.yaml"
    path.write_text(dump(config.model_copy(update={"world": None})))
    return path


@pytest.fixture(scope="module")
def run(store, preset):
    path = store.parent / "run"
    hjepa("train", preset, f"run={path}", "train.steps=4", "train.log_every=2")
    return path


def hjepa(*arguments):
    """Exit code of one command."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code or 0


def asked(capsys, *arguments):
    """What one command prints with --json."""
    capsys.readouterr()
    assert hjepa(*arguments, "--json") == 0
    return json.loads(capsys.readouterr().out)


def width(picture):
    with Image.open(picture) as image:
        return image.width


def surface(command):
    """Names of a command's arguments and options, and of the commands below it."""
    names = sorted("/".join(p.opts) for p in command.params if p.name != "help")
    below = {name: surface(sub) for name, sub in getattr(command, "commands", {}).items()}
    return {"takes": names, "commands": below} if below else names


def test_commands_and_options_are_what_they_were():
    """A changed name breaks people's scripts: change tests/cli.json with it, on purpose."""
    assert surface(typer.main.get_command(app)) == json.loads(GOLDEN.read_text())


def test_help_does_not_wait_for_the_big_libraries():
    code = "import sys, hjepa.cli; print([m for m in ('torch', 'zarr', 'matplotlib', 'av') if m in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "nowhere"], "nowhere"),
        (["ingest", "nowhere.mp4", "--out", "{tmp}/s"], "nowhere.mp4"),
        (["ingest", "{video}", "--out", "{tmp}/s", "--size", "big"], "--size"),
        (["train", "tinny"], "tinny"),
        (["train", "{preset}", "run={tmp}/r", "trian.steps=3"], "train"),
        (["train", "tiny", "--dry-run"], "data.store"),
        (["query", "nowhere", "states", "{store}"], "nowhere"),
        (["query", "{run}", "nearest", "{store}", "--level", "7"], "level 7"),
        (["query", "{run}", "future", "{store}", "--actions", "{preset}"], "small.yaml"),
        (["horizon", "{run}", "--part", "held"], "held_back"),
        (["horizon", "nowhere"], "nowhere"),
        (["report", "nowhere"], "nowhere"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(arguments, named, run, store, preset, tmp_path, capsys):
    video = write_video(tmp_path / "v.mp4", 5) if "{video}" in arguments else ""
    places = {"tmp": tmp_path, "run": run, "store": store, "preset": preset, "video": video}
    capsys.readouterr()
    assert hjepa(*(a.format(**places) for a in arguments)) == 2
    printed = capsys.readouterr()
    assert printed.err.startswith("hjepa: ") and printed.err.count("\n") == 1 and named in printed.err
    assert not printed.out


def test_ingest_then_info_tell_the_same_story(tmp_path, capsys):
    (tmp_path / "clips").mkdir()
    write_video(tmp_path / "clips" / "a.mp4", 30)
    told = asked(capsys, "ingest", tmp_path / "clips", "--out", tmp_path / "store", "--size", "16x24")
    found = asked(capsys, "info", tmp_path / "store", "--sheet", tmp_path / "sheet.png")
    assert told["frames"] == found["steps"] == 30 and told["files"][0]["ok"]
    assert found["arrays"]["frames"]["shape"] == [16, 24, 3]
    assert width(tmp_path / "sheet.png") > 100


def test_a_run_describes_itself(run, capsys):
    found = asked(capsys, "info", run)
    assert found["last"]["total"] == 4 and len(found["config"]["levels"]) == 2
    assert hjepa("info", run) == 0 and "step 4" in capsys.readouterr().out


def test_train_as_a_module_takes_the_same_arguments(preset, tmp_path):
    command = [sys.executable, "-m", "hjepa.train", str(preset), "--dry-run", "--json"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(found.stdout)["levels"]) == 2


@pytest.mark.parametrize("question", ["nearest", "surprise", "segments", "future", "keeps"])
def test_every_question_answers_for_every_level_in_text_and_json(question, run, store, capsys):
    found = asked(capsys, "query", run, question, store)
    assert {entry["level"] for entry in found} >= {1, 2}
    assert hjepa("query", run, question, store) == 0 and "level" in capsys.readouterr().out


def test_states_are_saved_and_pictures_drawn(run, store, tmp_path, capsys):
    told = asked(capsys, "query", run, "states", store, "--level", 2, "--out", tmp_path / "s.npz")
    assert {track["level"] for track in told["tracks"]} == {2}
    assert len(np.load(tmp_path / "s.npz")["level_2/states"])
    for question in ("nearest", "segments", "future"):
        picture = tmp_path / f"{question}.png"
        assert hjepa("query", run, question, store, "--picture", picture) == 0
        assert width(picture) > 100


def test_horizon_measures_the_held_back_part_unless_told(run, store, capsys):
    held = asked(capsys, "horizon", run, "--within", 2)
    whole = asked(capsys, "horizon", run, store, "--within", 2, "--part", "all")
    assert [c["level"] for c in held] == [c["level"] for c in whole] == [1, 2]
    assert held == asked(capsys, "horizon", run, store, "--within", 2)
    assert whole[0]["starts"] > held[0]["starts"]
    assert hjepa("horizon", run) == 0 and "useful horizon" in capsys.readouterr().out
