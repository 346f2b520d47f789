import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

from hjepa.data.manifest import plan_header
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.errors import UserError

ARRAYS = {
    "frames": ArraySpec("uint8", (6, 5, 3), "rgb 0-255"),
    "actions": ArraySpec("float32", (2,), "px/step", "what was done"),
    "alive": ArraySpec("bool", (), "1"),
}
LENGTHS = (3, 20, 1, 50, 16, 7)  # within a shard of 16 steps, over several, up to exactly its end
SETTINGS = {"rate_hz": 10.0, "arrays": ARRAYS, "attrs": {"note": "test"}, "chunk_steps": 4, "shard_steps": 16}


def recording(number: int, length: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng([7, number])
    return {
        "frames": rng.integers(0, 256, (length, 6, 5, 3), dtype=np.uint8),
        "actions": rng.standard_normal((length, 2)).astype(np.float32),
        "alive": rng.random(length) < 0.5,
    }


def append_all(writer: StoreWriter, lengths=LENGTHS, block: int = 6) -> None:
    for number, length in enumerate(lengths):
        if f"take{number}" not in writer.sources():
            with writer.episode(f"take{number}", {"number": number}) as episode:
                data = recording(number, length)
                for start in range(0, length, block):
                    episode.append(**{name: values[start : start + block] for name, values in data.items()})


def write(path: Path, lengths=LENGTHS, block: int = 6, **settings) -> Store:
    with StoreWriter(path, **{**SETTINGS, **settings}) as writer:
        append_all(writer, lengths, block)
        writer.finish()
    return Store.open(path, verify=True)


def truth(name: str, lengths=LENGTHS) -> np.ndarray:
    return np.concatenate([recording(n, length)[name] for n, length in enumerate(lengths)])


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Store:
    return write(tmp_path_factory.mktemp("whole") / "store")


def files_of(path: Path) -> dict[str, bytes]:
    return {p.relative_to(path).as_posix(): p.read_bytes() for p in path.rglob("*") if p.is_file()}


@pytest.mark.parametrize("compress", [True, False])
def test_plain_zarr_reads_what_was_written(tmp_path, compress):
    write(tmp_path / "store", compress=compress)
    group = zarr.open_group(tmp_path / "store", mode="r")
    for name, spec in ARRAYS.items():
        np.testing.assert_array_equal(group[name][:], truth(name))
        assert group[name].attrs["units"] == spec.units
    np.testing.assert_array_equal(group["episode_length"][:], LENGTHS)
    np.testing.assert_array_equal(group["episode_start"][:], np.cumsum((0, *LENGTHS[:-1])))
    assert group.attrs["rate_hz"] == 10.0 and {*group.array_keys()} == {*ARRAYS, "episode_start", "episode_length"}


def test_store_says_what_it_holds(whole):
    assert (whole.rate_hz, whole.arrays, whole.attrs) == (10.0, dict(sorted(ARRAYS.items())), {"note": "test"})
    assert [(e.length, e.source, e.attrs) for e in whole.episodes] == [
        (length, f"take{n}", {"number": n}) for n, length in enumerate(LENGTHS)
    ]
    for number, episode in enumerate(whole.episodes):
        for name, values in recording(number, episode.length).items():
            np.testing.assert_array_equal(whole.whole(name, episode), values)


def test_short_episodes_share_shards(tmp_path):
    write(tmp_path / "store", lengths=(4,) * 12)
    assert len([p for p in (tmp_path / "store" / "frames" / "c").rglob("*") if p.is_file()]) == 3


def test_digest_depends_on_content_alone(tmp_path, whole):
    assert write(tmp_path / "other blocks", block=50).digest == whole.digest
    assert write(tmp_path / "other content", lengths=LENGTHS[:-1]).digest != whole.digest


def test_default_chunks_suit_the_weight_of_a_step():
    def planned(shape, dtype="uint8"):
        arrays = {"heavy": ArraySpec(dtype, shape, "1"), "light": ArraySpec("float32", (2,), "1")}
        header = plan_header(10, arrays, None, None, None, True)
        return header.chunk_steps["heavy"], header.chunk_steps["light"], header.shard_steps

    assert planned((64, 64, 3)) == (16, 4096, 8192)
    assert planned((224, 224, 3)) == (8, 512, 512)
    assert planned((128,), "float32") == (64, 4096, 131072)


def test_unknown_array_is_named_with_the_nearest(whole):
    with pytest.raises(UserError, match="did you mean 'actions'"):
        whole.read("action", np.arange(2))


def test_missing_and_foreign_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="no store there"):
        Store.open(tmp_path / "nothing")
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(UserError, match=r"no manifest\.json"):
        Store.open(tmp_path)
    with pytest.raises(UserError, match="no unfinished store"):
        StoreWriter(tmp_path, **SETTINGS)


def test_unfinished_store_is_refused_and_says_how_to_finish(tmp_path):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:2])
    with pytest.raises(UserError, match="unfinished store, 2 episodes sealed: run what wrote it again"):
        Store.open(tmp_path / "store")


def test_sealed_store_cannot_be_written_again(tmp_path):
    write(tmp_path / "store")
    with pytest.raises(UserError, match="a sealed store"):
        StoreWriter(tmp_path / "store", **SETTINGS)


def test_two_writers_are_refused(tmp_path):
    with StoreWriter(tmp_path / "store", **SETTINGS), pytest.raises(UserError, match="another process is writing"):
        StoreWriter(tmp_path / "store", **SETTINGS)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"rate_hz": 5.0}, "rate_hz is 10.0 there, 5.0 now"),
        ({"chunk_steps": 8}, r"chunk_steps.\w+ is"),
        ({"compress": False}, "compress is True there, False now"),
        ({"arrays": {**ARRAYS, "actions": ArraySpec("float32", (3,), "px/step")}}, "arrays.actions"),
        ({"arrays": {"frames": ARRAYS["frames"]}}, r"arrays.actions.\w+ is .* there, nothing now"),
    ],
)
def test_going_on_with_another_schema_names_the_difference(tmp_path, change, named):
    StoreWriter(tmp_path / "store", **SETTINGS).close()
    with pytest.raises(UserError, match=named):
        StoreWriter(tmp_path / "store", **{**SETTINGS, **change})


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"rate_hz": 0.0}, "rate_hz"),
        ({"arrays": {}}, "at least one array"),
        ({"arrays": {"episode_start": ARRAYS["alive"]}}, "array name"),
        ({"arrays": {"a": ArraySpec("text", (), "1")}}, "no numpy dtype"),
        ({"arrays": {"a": ArraySpec("complex64", (), "1")}}, "dtype must be"),
        ({"arrays": {"a": ArraySpec("uint8", (0, 3), "1")}}, "must be positive"),
        ({"chunk_steps": 5}, "multiple of chunk_steps"),
        ({"attrs": {"x": object()}}, "plain JSON"),
    ],
)
def test_impossible_settings_are_refused(tmp_path, settings, named):
    with pytest.raises(UserError, match=named):
        StoreWriter(tmp_path / "store", **{**SETTINGS, **settings})
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"actions": np.zeros((5, 3), np.float32)}, r"'actions' must be float32 \(T, 2\), got float32 \(5, 3\)"),
        ({"actions": np.zeros((5, 2))}, "got float64"),
        ({"actions": np.zeros((4, 2), np.float32)}, "unequal length"),
        ({"alive": np.array(True)}, "'alive' must be bool"),
        ({"action": np.zeros((5, 2), np.float32)}, "did you mean 'actions'"),
        ({"frames": None}, "no block for array 'frames'"),
        ({"actions": np.full((5, 2), np.nan, np.float32)}, "take0: array 'actions' is NaN or infinite at step 5"),
    ],
)
def test_wrong_blocks_are_named_and_cost_only_their_episode(tmp_path, change, named):
    blocks = {name: values for name, values in {**recording(0, 5), **change}.items() if values is not None}
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        with pytest.raises(UserError, match=named), writer.episode("take0") as episode:
            episode.append(**recording(0, 5))
            episode.append(**blocks)
        append_all(writer)
        writer.finish()
    np.testing.assert_array_equal(Store.open(tmp_path / "store").read("frames", np.arange(97)), truth("frames"))


def test_infinity_is_named_by_its_step(tmp_path):
    data = recording(0, 9)
    data["actions"][7, 1] = -np.inf
    writer = StoreWriter(tmp_path / "store", **SETTINGS)
    with writer, pytest.raises(UserError, match="at step 7"), writer.episode("take0") as episode:
        episode.append(**data)


def test_misuse_of_episodes_is_refused(tmp_path):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        with pytest.raises(UserError, match="nothing to finish"):
            writer.finish()
        append_all(writer, LENGTHS[:1])
        with pytest.raises(UserError, match="already sealed"), writer.episode("take0"):
            pass
        with pytest.raises(UserError, match="without steps"), writer.episode("empty"):
            pass
        with pytest.raises(UserError, match="must be a string or a finite"), writer.episode("x", {"shape": (1, 2)}):
            pass
        with writer.episode("open") as episode:
            episode.append(**recording(1, 2))
            with pytest.raises(UserError, match="still open"), writer.episode("second"):
                pass
            with pytest.raises(UserError, match="inside the open episode"):
                writer.finish()
        assert writer.sources() == {"take0", "open"}


@pytest.mark.parametrize("steps", [2, 40])
def test_episode_left_by_an_error_leaves_nothing(tmp_path, whole, steps):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:2])
        with pytest.raises(ZeroDivisionError), writer.episode("broken") as episode:
            episode.append(**recording(99, steps))
            raise ZeroDivisionError
        append_all(writer)
        writer.finish()
    assert files_of(tmp_path / "store") == files_of(whole.path)


def test_shards_of_a_dropped_episode_are_removed(tmp_path):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:2])
        with pytest.raises(ZeroDivisionError), writer.episode("broken") as episode:
            episode.append(**recording(99, 90))
            raise ZeroDivisionError
        writer.finish()
    write(tmp_path / "clean", lengths=LENGTHS[:2])
    assert files_of(tmp_path / "store") == files_of(tmp_path / "clean")


KILLED = """
import os, pathlib, signal, sys
sys.path[:0] = [sys.argv[1]]
import test_store

def run(path, moment):
    calls = 0
    def counted(function):
        def call(*args, **kwargs):
            nonlocal calls
            calls += 1
            if calls == moment:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)
        return call
    os.fsync, os.replace = counted(os.fsync), counted(os.replace)
    test_store.write(path)
    return calls

out = pathlib.Path(sys.argv[2])
fsync, replace = os.fsync, os.replace
last = run(out / "counted", 0)
os.fsync, os.replace = fsync, replace
for moment in sorted({*range(1, last, 5), *range(last - 12, last + 1)}):
    child = os.fork()
    if child == 0:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        run(out / f"moment{moment}", moment)
        os._exit(0)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
"""


def test_killed_at_any_moment_it_goes_on_to_the_same_bytes(tmp_path, whole):
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(tmp_path)]
    subprocess.run(command, check=True, cwd=root, env={**os.environ, "PYTHONPATH": str(root)}, timeout=100)
    killed = sorted(tmp_path.glob("moment*"))
    unfinished = 0
    for path in killed:
        if not (path / "manifest.json").exists():
            unfinished += 1
            with pytest.raises(UserError, match="unfinished"):
                Store.open(path)
            write(path)
        store = Store.open(path, verify=True)
        assert store.digest == whole.digest
        assert {n: b for n, b in files_of(path).items() if ".writing" not in n} == files_of(whole.path)
    assert len(killed) > 20 and unfinished > 15


def test_line_cut_in_the_journal_is_not_believed(tmp_path, whole):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:4])
    journal = tmp_path / "store" / ".writing" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes()[:-1])
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        assert writer.sources() == {"take0", "take1", "take2"}
    assert write(tmp_path / "store").digest == whole.digest


def test_damaged_journal_is_refused(tmp_path):
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:2])
    journal = tmp_path / "store" / ".writing" / "journal.jsonl"
    journal.write_bytes(journal.read_bytes().replace(b"{", b"?", 5))
    with pytest.raises(UserError, match=r"journal\.jsonl: damaged"):
        StoreWriter(tmp_path / "store", **SETTINGS)


def test_full_disk_keeps_what_was_sealed(tmp_path, whole):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with StoreWriter(tmp_path / "store", **SETTINGS) as writer:
        append_all(writer, LENGTHS[:3])
        try:
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
            with pytest.raises(UserError, match=r"store.*cannot be written .*sealed episodes are safe"):
                append_all(writer)
            with pytest.raises(UserError, match="cannot be written"):
                writer.finish()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert write(tmp_path / "store").digest == whole.digest


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda m: m.update(schema=2), "schema version 2, this hjepa reads 1"),
        (lambda m: m["episodes"][0].update(length=4), "changed after the store was sealed"),
        (lambda m: m.pop("files"), "damaged manifest"),
    ],
)
def test_altered_manifest_is_refused(tmp_path, change, named):
    manifest = write(tmp_path / "store").path / "manifest.json"
    content = json.loads(manifest.read_text())
    change(content)
    manifest.write_text(json.dumps(content))
    with pytest.raises(UserError, match=named):
        Store.open(tmp_path / "store")


def test_missing_cut_and_changed_files_are_refused(tmp_path):
    path = write(tmp_path / "store").path
    shard = path / "frames" / "c" / "1" / "0" / "0" / "0"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(UserError, match=rf"frames/c/1/0/0/0: {len(data) - 1} bytes, the manifest says {len(data)}"):
        Store.open(path)
    shard.write_bytes(bytes([data[0] ^ 1]) + data[1:])
    Store.open(path)
    with pytest.raises(UserError, match="frames/c/1/0/0/0: was changed"):
        Store.open(path, verify=True)
    shard.unlink()
    with pytest.raises(UserError, match="frames/c/1/0/0/0: missing"):
        Store.open(path)


def test_changed_zarr_metadata_is_refused(tmp_path):
    path = write(tmp_path / "store").path
    meta = path / "frames" / "zarr.json"
    meta.write_text(meta.read_text().replace("97", "96"))
    with pytest.raises(UserError, match=r"frames/zarr\.json: was changed"):
        Store.open(path)
