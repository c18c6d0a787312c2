"""What `cait-viz batch` takes for an image."""

import io
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from image_helpers import all_images, blobs

from cait_viz.errors import SelectionError


def test_a_name_that_no_system_would_take_is_a_row(batch, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "loop.png").symlink_to("loop.png")
    (tmp_path / "photos" / "image.png").write_bytes(blobs(1))
    (tmp_path / "list.txt").write_text(f"{'x' * 300}.png\n{tmp_path}/photos/image.png/within.png\n")
    status, _, rows = batch(tmp_path / "list.txt", tmp_path / "photos")
    assert status == 1
    assert [row["error"] is None for row in rows] == [False, False, True, False]


def test_a_list_on_standard_input_may_hold_names_that_are_no_text(folder, small, tmp_path, environment):
    command = [sys.executable, "-m", "cait_viz", "batch", "-", "-o", tmp_path / "out", *small]
    subprocess.run(
        list(map(str, command)),
        input=bytes(folder / "odd") + b"/100 \xff.png\n",
        env=environment | {"PYTHONIOENCODING": "utf-8:strict"},
        check=True,
    )


def test_a_mistyped_option_is_no_image(run, folder, small, tmp_path):
    status, _, err = run("batch", folder, "--mpas", "-o", tmp_path / "out", *small)
    assert (status, err) == (
        2,
        "cait-viz: there is no option --mpas, and no such file; see cait-viz batch --help\n",
    )
    status, _, err = run("batch", folder, "-o", tmp_path / "out", *small, "--ray-cores", 2)
    assert status == 2
    assert "--ray-cores is for --ray" in err


def test_what_a_run_wrote_among_its_images_is_none_of_them(run, small, folder, tmp_path):
    (tmp_path / "images").mkdir()
    shutil.copy(folder / "odd" / "033.png", tmp_path / "images")
    output = tmp_path / "images" / "out"
    command = ["batch", tmp_path / "images", "-o", output, *small, "--maps"]
    assert run(*command)[0] == 0
    (tmp_path / "link").symlink_to("images")
    roundabout = tmp_path / "images" / ".." / "images" / "out"
    for source, out in [("images", output), ("images", roundabout), ("link", output), ("images", "link/out")]:
        again = ["batch", tmp_path / source, "-o", tmp_path / out, *small, "--maps", "--resume"]
        assert run(*again)[0] == 0
    assert len(list((output / "maps").iterdir())) == 2  # of the image and, by another name, through the link
    assert "not empty" in run("batch", tmp_path / "images", "-o", tmp_path / "images", *small)[2]


def test_images_are_listed_once_in_their_order(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder)
    # As Windows' Notepad writes it, with a mark at its beginning.
    (tmp_path / "list.txt").write_text("odd/003.png\n\neven\nhttps://example.org/x.png\n", "utf-8-sig")
    names = all_images(["odd/0*1.png", str(tmp_path / "list.txt"), "odd/001.png", "no such.png"])
    assert names[:10] == [f"odd/0{tens}1.png" for tens in range(10)]
    assert names[10:12] == ["odd/003.png", "even/000.png"]
    assert names[-2:] == ["https://example.org/x.png", "no such.png"]
    assert len(names) == len(set(names)) == 10 + 1 + 51 + 2
    monkeypatch.setattr(sys, "stdin", io.StringIO("\ufeffodd/001.png\neven/000.png\n"))
    assert all_images(["-"]) == ["odd/001.png", "even/000.png"]
    assert len(all_images(["**/*.png"])) == 101
    assert all_images([str(folder / "od?" / "001.png")]) == [str(folder / "odd" / "001.png")]
    assert len(all_images(["o*", "even/000.png"])) == 52  # a folder that matches is gone through


@pytest.mark.parametrize("name", ["*.bmp", "no such list.txt", "empty"])
def test_a_name_that_means_no_image_is_wrong_usage(run, small, tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    status, _, err = run("batch", name, "-o", "out", *small)
    assert status == 2
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_what_is_no_image_by_its_ending_is_left_out_of_a_folder_and_named(batch, folder, tmp_path):
    (tmp_path / "photos").mkdir()
    for name in ("033.png", "photo of no ending", "README.md", "labels.csv", "Thumbs.db", "notes.csv"):
        shutil.copy(folder / "odd" / "033.png", tmp_path / "photos" / name)
    status, err, rows = batch(tmp_path / "photos")
    assert (status, [Path(row["image"]).name for row in rows]) == (0, ["033.png", "photo of no ending"])
    assert "left out of folders, no images by their endings: 2 .csv, 1 .md, 1 .db" in err.replace(
        "1 .db, 1 .md", "1 .md, 1 .db"
    )
    _, _, rows = batch(tmp_path / "photos" / "README.md", output=tmp_path / "named")
    assert len(rows) == 1


def test_a_list_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SelectionError, match="it is no UTF-8 text"):
        all_images([str(tmp_path / "list.txt")])
