"""Paths that lead to no image are refused in a sentence."""

import os
import stat
from pathlib import Path

import pytest
from hostile_files import encoded, half, png

from cait_viz.errors import ImageError
from cait_viz.images.read import load_image, read_image


def refusal(path) -> str:
    with pytest.raises(ImageError) as caught:
        load_image(path)
    sentence = str(caught.value)
    assert "\n" not in sentence
    assert sentence.count(": ") >= 1
    return sentence


def test_a_folder_is_refused(tmp_path):
    folder = tmp_path / "images.png"
    folder.mkdir()
    assert refusal(folder) == "images.png: this is a folder; give an image inside it"
    for path in ("/", "."):
        assert refusal(path).startswith(f"{path}: this is a folder")


def test_a_missing_file_is_refused_by_name(tmp_path):
    assert refusal(tmp_path / "gone.jpg").startswith("gone.jpg: there is no such file")
    assert refusal(tmp_path / "no folder" / "gone.jpg").startswith("gone.jpg: there is no such file")
    assert refusal("").startswith("the image: ")


@pytest.mark.parametrize("name", ["a\0b.png", "x" * 5000 + ".png", "\n"])
def test_a_name_that_no_file_can_have_is_refused(name):
    refusal(name)


def test_a_file_where_a_folder_should_be_is_refused(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(encoded("JPEG"))
    assert refusal(tmp_path / "photo.jpg" / "photo.jpg").startswith("photo.jpg: ")


def test_a_file_that_may_not_be_read_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "private.png"
    path.write_bytes(encoded("PNG"))
    path.chmod(0)
    if os.access(path, os.R_OK):  # as root, or on a file system without permissions

        def denied(*_args, **_kwargs):
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", denied)
    assert refusal(path).startswith("private.png: the file may not be read")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_pipe_that_nobody_writes_to_is_refused_at_once(tmp_path):
    pipe = tmp_path / "pipe.png"
    os.mkfifo(pipe)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert "device or a pipe" in refusal(pipe)
    if Path("/dev/zero").exists():
        assert "device or a pipe" in refusal("/dev/zero")


def test_links_that_lead_nowhere_are_refused(tmp_path):
    (tmp_path / "nowhere.png").symlink_to(tmp_path / "gone.png")
    (tmp_path / "circle.png").symlink_to(tmp_path / "circle.png")
    assert refusal(tmp_path / "nowhere.png").startswith("nowhere.png: ")
    assert refusal(tmp_path / "circle.png").startswith("circle.png: ")


def test_a_file_above_the_limit_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "huge.tif"
    with path.open("wb") as file:
        file.write(b"II*\0")
        file.truncate(5_000_000_000)
    monkeypatch.setattr(Path, "open", None)
    assert refusal(path) == "huge.tif: the file has 5000 MB, more than 200; save a smaller copy"


def test_a_refusal_shows_nothing_of_the_error_beneath_it(tmp_path):
    for data in (half(encoded("PNG")), png(0, 9)):
        with pytest.raises(ImageError) as caught:
            read_image(data)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None
    with pytest.raises(ImageError) as caught:
        read_image(tmp_path / "gone.png")
    assert caught.value.__suppress_context__
