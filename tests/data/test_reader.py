import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import zarr

from hjepa.data import reader
from hjepa.data.store import ArraySpec, Store, StoreWriter
from hjepa.errors import UserError

ARRAYS = {
    "frames": ArraySpec("uint8", (8, 8, 3), "rgb 0-255"),
    "states": ArraySpec("float32", (5,), "1"),
    "time": ArraySpec("float64", (), "s"),
}
STEPS = 150


def make(path: Path, compress: bool) -> Store:
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 256, (8, 8, 3))
    with StoreWriter(path, rate_hz=10, arrays=ARRAYS, chunk_steps=4, shard_steps=32, compress=compress) as writer:
        with writer.episode("only") as episode:
            episode.append(
                frames=np.clip(ground + rng.integers(0, 9, (STEPS, 8, 8, 3)), 0, 255).astype(np.uint8),
                states=rng.standard_normal((STEPS, 5)).astype(np.float32),
                time=np.arange(STEPS) / 10,
            )
        writer.finish()
    return Store.open(path)


@pytest.fixture(scope="module", params=[True, False], ids=["zstd", "raw"])
def store(request, tmp_path_factory) -> Store:
    return make(tmp_path_factory.mktemp("reader") / "store", request.param)


def patterns() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        "all": np.arange(STEPS),
        "random": rng.permutation(STEPS),
        "sorted": np.sort(rng.integers(0, STEPS, 40)),
        "repeated": rng.integers(0, STEPS, 400),
        "backwards": np.arange(STEPS)[::-1],
        "clips": (rng.integers(0, STEPS - 60, (5, 1)) + 4 * np.arange(15)).ravel(),
        "one": np.array([STEPS - 1]),
        "padded": np.maximum(np.arange(-5, 20), 3),
    }


@pytest.mark.parametrize("name", ARRAYS)
@pytest.mark.parametrize("pattern", patterns())
def test_rows_equal_those_of_zarr(store, name, pattern):
    rows = patterns()[pattern]
    expected = zarr.open_array(store.path / name, mode="r")[:][rows]
    for _ in range(2):  # the second time from the cache
        read = store.read(name, rows)
        np.testing.assert_array_equal(read, expected)
        assert read.dtype == expected.dtype and read.flags.writeable
        read[...] = 0  # the caller's own


def test_no_rows_are_an_empty_array(store):
    assert store.read("frames", []).shape == (0, 8, 8, 3)


def test_rows_that_do_not_exist_are_an_index_error(store):
    for rows in ([-1], [STEPS], [0, 10**12]):
        with pytest.raises(IndexError, match="rows 0 to 149"):
            store.read("frames", rows)
    with pytest.raises(TypeError, match="integers"):
        store.read("frames", [0.5])


def test_a_chunk_is_decoded_once_a_call_and_kept(store, monkeypatch):
    fetched = []
    chunk = reader.Shard.chunk
    monkeypatch.setattr(reader.Shard, "chunk", lambda self, number: fetched.append(number) or chunk(self, number))
    fresh = Store.open(store.path)
    fresh.read("frames", np.random.default_rng(0).permutation(STEPS))
    assert len(fetched) == -(-STEPS // 4)


@pytest.mark.parametrize("compress", [True, False])
def test_every_flipped_bit_is_noticed(tmp_path, compress):
    store = make(tmp_path / "store", compress)
    path = store.path / "frames" / "c" / "1" / "0" / "0" / "0"
    rows = np.arange(32, 64)
    truth, data = store.read("frames", rows), path.read_bytes()
    rng = np.random.default_rng(2)
    harmless = 0
    for bit in (*range(120), *rng.integers(0, 8 * len(data), 300), *range(8 * len(data) - 40, 8 * len(data))):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:  # one bit of a zstd frame's header means nothing, by its format
            np.testing.assert_array_equal(Store.open(store.path).read("frames", rows), truth)
            harmless += 1
        except UserError as error:
            assert str(path) in str(error) and ("chunk" in str(error) or "index" in str(error))
    assert harmless <= 3 * compress
    with pytest.raises(UserError, match="was changed"):
        Store.open(store.path, verify=True)


def test_damage_names_chunk_and_rows_and_spares_the_others(tmp_path):
    store = make(tmp_path / "store", compress=False)
    path = store.path / "frames" / "c" / "1" / "0" / "0" / "0"
    data = bytearray(path.read_bytes())
    data[2 * (4 * 192 + 4) + 7] ^= 4
    path.write_bytes(data)
    damaged = Store.open(store.path)
    with pytest.raises(UserError, match=r"chunk 2 \(rows 40 to 43 of 'frames'\) is damaged"):
        damaged.read("frames", [0, 42])
    assert len(damaged.read("frames", [39, 44])) == 2


def test_shard_lost_or_replaced_after_opening_is_noticed(tmp_path):
    store = make(tmp_path / "store", compress=True)
    path = store.path / "states" / "c" / "2" / "0"
    data = path.read_bytes()
    path.write_bytes(data + b"x")
    with pytest.raises(UserError, match=rf"states/c/2/0: {len(data) + 1} bytes, the manifest says {len(data)}"):
        store.read("states", [70])
    path.unlink()
    with pytest.raises(UserError, match="states/c/2/0: cannot be read"):
        store.read("states", [70])
    path.write_bytes(data)
    assert store.read("states", [70]).shape == (1, 5)


def test_open_files_are_bounded(store, monkeypatch):
    monkeypatch.setattr(reader, "OPEN_SHARDS", 2)
    fresh = Store.open(store.path)
    for row in (0, 40, 80, 120, 149, 0):
        fresh.read("frames", [row])
    maps = Path("/proc/self/maps").read_text().count(f"{store.path}/frames")
    assert len(fresh._readers["frames"]._shards) == 2
    assert maps <= 2 + len(store._readers["frames"]._shards)


def test_decoded_chunks_are_bounded(store, monkeypatch):
    monkeypatch.setattr(reader, "CACHE_BYTES", 3 * 4 * 192)
    fresh = Store.open(store.path)
    np.testing.assert_array_equal(
        fresh.read("frames", np.arange(STEPS)), zarr.open_array(store.path / "frames", mode="r")[:]
    )
    assert len(fresh._readers["frames"]._chunks) <= 3


def test_store_travels_to_another_process(store):
    expected = store.read("states", np.arange(STEPS))
    copy = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(copy.read("states", np.arange(STEPS)), expected)
    assert copy.digest == store.digest


def test_files_are_opened_again_after_a_fork(store, monkeypatch):
    store.read("frames", np.arange(STEPS))
    before = store._readers["frames"]._shards[0]
    monkeypatch.setattr(os, "getpid", lambda: -1)
    store.read("frames", [0])
    assert store._readers["frames"]._shards[0] is not before
