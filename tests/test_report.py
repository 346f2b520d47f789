"""The report: one file that needs nothing else, says everything, and trusts no text."""

import re

import pytest

from hjepa.config import load
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.report import write_report
from hjepa.train.loop import train
from tests.models import SIDE, run_config
from tests.stores import moving_square

EVIL = "<script>alert(1)</script>.mp4"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    store = moving_square(folder / "store", episodes=2, steps=100, actions=False)
    objective = {"weights": {"sigreg": 1, "information": 0.01}, "directions": 16}
    data = {"store": str(store.path), "batch": 4, "held_back": 0.4}
    settings = {"train": {"steps": 4, "log_every": 2, "regime": "levelwise"}, "run": str(folder / "run & co")}
    return train(run_config(depth=2, level={"objective": objective}, data=data, **settings))


@pytest.fixture(scope="module")
def page(run):
    return write_report(run).read_text(encoding="utf-8")


def test_it_is_one_small_file_that_loads_nothing(run, page):
    assert (run / "report.html").stat().st_size < 5e6
    assert not re.findall(r"https?://|<script|<link|@import|url\(", page)
    sources = re.findall(r'src="([^"]{0,30})', page)
    assert len(sources) > 20 and all(s.startswith("data:image/") for s in sources)


def test_it_has_every_section_and_the_commands(run, page):
    headings = re.findall(r"<h2>(.*?)</h2>", page)
    assert len(headings) == 7
    for words in ("useful horizon", "accelerate launch -m hjepa.train", "hjepa report", "level 2", "held back"):
        assert words in page


def test_text_from_outside_is_escaped(run, tmp_path):
    with StoreWriter(
        tmp_path / "other", rate_hz=10, arrays={"frames": ArraySpec("uint8", (SIDE, SIDE, 3), "rgb")}
    ) as w:
        own = Store.open(load([run / "config.yaml"]).data.store)
        with w.episode(EVIL) as episode:
            episode.append(frames=own.whole("frames", own.episodes[0]))
        w.finish()
    page = write_report(run, tmp_path / "out" / "page.html", Store.open(tmp_path / "other")).read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert "run &amp; co" in page


def test_a_store_too_short_for_the_upper_levels_still_gives_a_page(run, tmp_path):
    short = moving_square(tmp_path / "short", episodes=1, steps=4, actions=False)
    page = write_report(run, tmp_path / "page.html", short).read_text()
    assert "The hierarchy" in page and "level 2" in page
