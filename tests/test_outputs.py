import os
import stat

import numpy as np
import pytest

from cait_viz._files import atomic_write, check_output, remove_remains
from cait_viz.errors import OutputError, SelectionError


def test_an_output_takes_its_place_only_when_it_is_whole(tmp_path):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")
    with atomic_write(path) as file:
        file.write(b"new")
        file.flush()
        assert path.read_bytes() == b"old"
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError("broken"), KeyboardInterrupt()])
def test_nothing_is_left_of_an_output_that_failed(tmp_path, error):
    path = tmp_path / "out.png"
    path.write_bytes(b"old")

    def fail():
        with atomic_write(path) as file:
            file.write(b"half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_nothing_and_is_told(tmp_path):
    resource = pytest.importorskip("resource")
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, usual[1]))
    try:
        with (
            pytest.raises(OutputError, match=r"out\.npz: cannot be written \(File too large\)"),
            atomic_write(tmp_path / "out.npz") as file,
        ):
            np.savez(file, first=np.zeros(100), large=np.zeros(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="permissions of POSIX")
def test_a_new_output_has_the_usual_permissions_and_a_replaced_one_keeps_its_own(tmp_path):
    usual, private = tmp_path / "usual", tmp_path / "private"
    usual.touch()
    private.touch()
    private.chmod(0o600)
    for path in (tmp_path / "new", private):
        with atomic_write(path) as file:
            file.write(b"content")
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)
    assert stat.S_IMODE(private.stat().st_mode) == 0o600


def test_a_link_stays_a_link(tmp_path):
    link = tmp_path / "link"
    link.symlink_to("target")
    with atomic_write(link) as file:
        file.write(b"content")
    assert link.is_symlink()
    assert (tmp_path / "target").read_bytes() == b"content"


def test_a_good_output_is_accepted_and_not_made(tmp_path):
    check_output(tmp_path / "Out.PNG", [".png"], [tmp_path / "other.png"])
    assert not list(tmp_path.iterdir())


def test_an_unknown_ending_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(SelectionError, match=r"out\.gif.*use \.png, \.svg"):
        check_output(tmp_path / "out.gif", [".png", ".svg"])


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_or_file_that_may_not_be_written_is_refused(tmp_path):
    file = tmp_path / "out.png"
    file.touch(0o400)
    with pytest.raises(OutputError, match="is there already and may not be written"):
        check_output(file, [".png"])
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OutputError, match="may not be written; choose another"):
            check_output(tmp_path / "new.png", [".png"])
    finally:
        tmp_path.chmod(0o700)


def test_what_a_killed_program_left_half_written_is_taken_away_and_nothing_else(tmp_path):
    half = tmp_path / ".cait-viz-0123456789abcdef.part"
    half.mkdir()
    (half / "part.png").write_bytes(b"half")
    (tmp_path / ".cait-viz-mine.part").write_bytes(b"mine")
    remove_remains(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".cait-viz-mine.part"]
