"""The cache of exported graphs: made once, whole, by whomever first; never trusted blindly."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from cait_viz._cache import CONTENTS, entries, shrink
from cait_viz.engine import graphs
from cait_viz.engine.names import NETWORK
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.errors import ProcessDiedError
from cait_viz.weights.resolve import resolve

GRAPH, WEIGHTS = f"{NETWORK}.xml", f"{NETWORK}.bin"
IMAGES = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def weights(make_small_weights):
    return make_small_weights(5)


@pytest.fixture(scope="module")
def filled(weights, tmp_path_factory):
    """A cache that holds the network, and what the network answers."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder))
        return folder, answer(weights)


@pytest.fixture
def expected(filled):
    return filled[1]


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "cait-viz" / "graphs"


@pytest.fixture
def entry(filled, cache):
    """The network in a cache of this test's own."""
    shutil.copytree(filled[0], cache.parents[1], dirs_exist_ok=True)
    [entry] = entries(graphs.folder())
    return entry.folder


def answer(weights):
    return OpenVINOEngine(resolve(weights=weights)).forward(IMAGES)[0]


def contents(cache):
    return {path: path.stat().st_mtime_ns for path in cache.rglob("*") if path.name != "contents.json"}


def test_a_graph_is_made_once(cache, entry, weights, expected):
    made = contents(cache)
    np.testing.assert_array_equal(answer(weights), expected)
    assert contents(cache) == made
    [listed] = entries(graphs.folder())
    assert listed.name == weights.stem
    assert listed.size == sum(file.stat().st_size for file in entry.iterdir())


def test_a_graph_is_made_once_whatever_the_umask(cache, weights, expected):
    before = os.umask(0o002)
    try:
        np.testing.assert_array_equal(answer(weights), expected)
        made = contents(cache)
        np.testing.assert_array_equal(answer(weights), expected)
    finally:
        os.umask(before)
    assert contents(cache) == made


def test_a_cache_on_another_disk_is_used_and_an_entry_that_is_a_link_is_made_anew(
    cache, entry, weights, expected, tmp_path
):
    cache.rename(tmp_path / "disk")
    cache.symlink_to(tmp_path / "disk")
    made = contents(tmp_path / "disk")
    np.testing.assert_array_equal(answer(weights), expected)
    assert contents(tmp_path / "disk") == made
    (cache / entry.name).rename(tmp_path / "elsewhere")
    (cache / entry.name).symlink_to(tmp_path / "elsewhere")
    np.testing.assert_array_equal(answer(weights), expected)
    assert not (cache / entry.name).is_symlink()
    assert (tmp_path / "elsewhere" / GRAPH).is_file()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a folder of another user")
def test_nothing_is_read_from_a_folder_of_another_user(cache, entry, weights, expected):
    cache.chmod(0o777)
    os.chown(cache, 65534, 65534)
    (entry / GRAPH).write_text("not to be read")
    np.testing.assert_array_equal(answer(weights), expected)


def test_nothing_is_imported_from_the_folder_in_which_a_person_is(
    cache, weights, expected, tmp_path, monkeypatch
):
    here = tmp_path / "here"
    here.mkdir()
    (here / "keras.py").write_text("raise SystemExit('a file of the person's own was run')")
    monkeypatch.chdir(here)
    np.testing.assert_array_equal(answer(weights), expected)


@pytest.mark.parametrize("text", ["{}", "[]", "{", '{"name": 3}'])
def test_an_entry_that_is_no_entry_is_listed_and_removed_and_troubles_no_other(
    cache, entry, weights, expected, text, succeed
):
    foreign = cache / "foreign"
    foreign.mkdir()
    (foreign / CONTENTS).write_text(text)
    (foreign / WEIGHTS).write_bytes(bytes(10**6))
    assert "1 MB" in succeed("cache")
    np.testing.assert_array_equal(answer(weights), expected)
    shrink(graphs.folder(), limit=10**6)
    assert not foreign.exists()
    assert entry.exists()
    assert "removed" in succeed("cache", "--clear")
    assert not list(cache.iterdir())


def cut(entry):
    with (entry / WEIGHTS).open("rb+") as file:
        file.truncate(100)


def overwrite(entry):
    with (entry / WEIGHTS).open("rb+") as file:
        file.seek(1000)
        file.write(b"\x12\x34\x56\x78")


def lose_contents(entry):
    (entry / CONTENTS).write_text("[]")


def empty_graph(entry):
    (entry / GRAPH).write_text("")


def open_to_all(entry):
    (entry / GRAPH).chmod(0o666)


def be_a_file(entry):
    for file in entry.iterdir():
        file.unlink()
    entry.rmdir()
    entry.write_text("no folder")


def make_once_more(entry):
    """What a process leaves that was killed while it wrote."""
    (entry.parent / ".cait-viz-0123456789abcdef.part").mkdir()
    (entry / WEIGHTS).unlink()


@pytest.mark.parametrize(
    "damage", [cut, overwrite, lose_contents, empty_graph, open_to_all, be_a_file, make_once_more]
)
def test_what_is_damaged_or_may_be_somebody_elses_is_made_anew(entry, weights, expected, damage):
    damage(entry)
    np.testing.assert_array_equal(answer(weights), expected)
    assert not (entry / GRAPH).stat().st_mode & 0o022
    assert (entry / WEIGHTS).stat().st_size > 1000


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch, weights, expected):
    (tmp_path / "cait-viz").write_text("in the way")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    np.testing.assert_array_equal(answer(weights), expected)
    assert (tmp_path / "cait-viz").read_text() == "in the way"


def test_two_processes_at_once_leave_one_whole_entry(cache, weights, expected, environment):
    script = """
import sys
import numpy as np
from cait_viz.engine.openvino import OpenVINOEngine
from cait_viz.weights.resolve import resolve
images = np.random.default_rng(0).standard_normal((1, 64, 64, 3)).astype(np.float32)
print(repr(OpenVINOEngine(resolve(weights=sys.argv[1])).forward(images)[0].tolist()))
"""
    command = [sys.executable, "-c", script, str(weights)]
    both = environment | {"XDG_CACHE_HOME": str(cache.parents[1])}
    processes = [subprocess.Popen(command, env=both, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    for process in processes:
        out, _ = process.communicate()
        assert process.returncode == 0
        np.testing.assert_array_equal(np.array(json.loads(out), np.float32), expected)
    assert len(list(cache.iterdir())) == 1
    np.testing.assert_array_equal(answer(weights), expected)


def test_an_export_that_dies_leaves_nothing(cache, weights, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ProcessDiedError):
        answer(weights)
    assert not list(cache.iterdir())


def make_entry(cache, name, size, used):
    folder = cache / name
    folder.mkdir(parents=True)
    (folder / WEIGHTS).write_bytes(bytes(size))
    (folder / CONTENTS).write_text(json.dumps({"name": name}))
    os.utime(folder / CONTENTS, (used, used))
    return folder


def test_the_cache_keeps_what_was_used_last_within_its_limit(cache):
    folders = [make_entry(cache, name, 1000, used) for name, used in (("old", 1), ("new", 3), ("mid", 2))]
    assert [entry.name for entry in entries(graphs.folder())] == ["new", "mid", "old"]
    shrink(graphs.folder(), limit=2100, keep=folders[0])
    assert {entry.name for entry in entries(graphs.folder())} == {"new", "old"}
    assert shrink(graphs.folder(), limit=0) > 2000
    assert entries(graphs.folder()) == []


def test_what_is_older_than_what_has_no_room_goes_too(cache):
    make_entry(cache, "newest", 1000, 3)
    make_entry(cache, "middle", 2000, 2)
    make_entry(cache, "oldest", 500, 1)
    shrink(graphs.folder(), limit=2000)
    assert [entry.name for entry in entries(graphs.folder())] == ["newest"]


def test_nothing_is_removed_but_graphs(cache):
    make_entry(cache, "old", 10, 1)
    other = cache.parent / "converted"
    other.mkdir()
    (cache / "notes.txt").write_text("mine")
    shrink(graphs.folder(), limit=0)
    assert other.is_dir()
    assert (cache / "notes.txt").exists()
