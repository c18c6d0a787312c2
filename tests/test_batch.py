"""Many images: one row an image, whatever is in the way, and the same bytes however often it was begun."""

import hashlib
import io
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from folder_server import serving
from image_helpers import all_images, blobs
from PIL import Image

import cait_viz
from cait_viz.batch.index import Index
from cait_viz.batch.local import run_batch
from cait_viz.batch.store import Store
from cait_viz.errors import OutputError


def written(place):
    return {
        path.relative_to(place).as_posix(): path.read_bytes() for path in place.rglob("*") if path.is_file()
    }


def test_a_row_has_the_numbers_that_the_library_gives(batch, folder, tiny_weights):
    image = folder / "odd" / "033.png"
    status, err, [row] = batch(image, options=["--top", 3])
    assert (status, err) == (0, "")
    analysis = cait_viz.analyze(image, cait_viz.load_engine(weights=tiny_weights))
    assert row["image"] == str(image)
    assert (row["width"], row["height"], row["error"], row["remark"]) == (73, 60, None, None)
    assert list(zip(row["labels"], row["probabilities"], strict=True)) == [
        (label, pytest.approx(share, abs=1e-5)) for label, share in analysis.top(3)
    ]
    assert row["classes"] == analysis.ranking[:3].tolist()
    for block in range(2):
        expected = {
            "class_token": analysis.class_token_attention(block),
            "entropy": analysis.entropy(block),
            "center_x": analysis.center(block)[:, 0],
            "center_y": analysis.center(block)[:, 1],
            "spread": analysis.spread(block),
        }
        for name, numbers in expected.items():
            np.testing.assert_allclose(row[f"ca{block}_{name}"], numbers, atol=1e-5)


def test_kinds_are_listed_where_they_are_known(run, folder, tmp_path):
    image = folder / "odd" / "033.png"
    assert run("batch", image, "-o", tmp_path / "out")[0] == 0
    [row] = pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()
    kinds = cait_viz.analyze(image, cait_viz.load_engine()).kinds()[:5]
    assert row["kinds"] == [kind for kind, _ in kinds]
    assert row["kind_probabilities"] == pytest.approx([share for _, share in kinds], abs=1e-5)


def test_every_file_is_a_row_in_its_place_and_a_bad_one_says_why(batch, folder):
    status, err, rows = batch(folder)
    assert status == 1
    assert "1 of 102 images could not be read; their rows say why" in err
    names = [Path(row["image"]).name for row in rows]
    assert names == sorted(names[:51]) + sorted(names[51:])
    assert names[-1] == r"100 \udcff.png"
    [bad] = [row for row in rows if row["error"]]
    assert bad["image"].endswith("044 notes.jpg")
    assert "this is not an image" in bad["error"]
    assert bad["labels"] is None
    assert all(len(row["labels"]) == 5 for row in rows if row is not bad)


def test_the_page_takes_no_digest_of_pixels(batch, tmp_path, monkeypatch):
    Image.new("RGB", (300, 250)).save(tmp_path / "black.png")  # smaller on the page
    hashed, sha256 = [], hashlib.sha256
    monkeypatch.setattr(hashlib, "sha256", lambda data=b"", **_: hashed.append(len(data)) or sha256(data))
    assert batch(tmp_path / "black.png", options=["--sheet"])[0] == 0
    assert 300 * 250 * 3 not in hashed


def test_maps_arrays_and_the_page_are_written_for_each_image(batch, folder, tmp_path, tiny_weights):
    options = ["--maps", "--npz", "--sheet", "--block", 1, "--head", 2, "--style", "map"]
    status, _, rows = batch(folder / "odd", options=options)
    assert status == 0
    out = tmp_path / "out"
    analysis = cait_viz.analyze(folder / "odd" / "033.png", cait_viz.load_engine(weights=tiny_weights))
    [path] = (out / "maps").glob("033_*.png")
    with Image.open(path) as drawn:
        expected = analysis.overlay(1, 2, style="map")
        assert np.abs(np.asarray(drawn, int) - np.asarray(expected, int)).mean() < 0.1
        assert drawn.text["Title"] == analysis.title(1, 2)
        assert json.loads(drawn.text["image_size"]) == [73, 60]
        assert drawn.text["image_sha256"] == analysis.image_sha256
        with Image.open(io.BytesIO(analysis.png(1, 2, style="map"))) as alone:
            assert drawn.text.keys() >= alone.text.keys()
            assert (drawn.text["block"], drawn.text["head"]) == ("1", "2")
    [path] = (out / "npz").glob("033_*.npz")
    with np.load(path) as arrays:
        for key, attention in analysis.class_attention.items():
            np.testing.assert_allclose(arrays[key], attention, atol=1e-6)
        np.testing.assert_allclose(arrays["box"], analysis.box)
    page = (out / "index.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == len(rows) == 51
    for thumbnail in (out / "sheet").iterdir():
        assert f'src="sheet/{thumbnail.name}"' in page
    assert len(list((out / "sheet").iterdir())) == 51


def test_names_and_labels_on_the_page_are_text(batch, tmp_path, kinds_file):
    image = tmp_path / "<script>alert(1)<script>&'\".png"
    image.write_bytes(blobs(3))
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"<b>{number}</b>\n" for number in range(10)))
    assert batch(image, options=["--sheet", "--labels", labels])[0] == 0
    page = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "<b><b>" not in page


class StoppedError(Exception):
    pass


@pytest.mark.parametrize("after", [0, 1, 40, 70, 101])
def test_a_run_that_was_interrupted_and_resumed_writes_the_same_bytes(folder, tiny_weights, tmp_path, after):
    engine, images = cait_viz.load_engine(weights=tiny_weights), all_images([str(folder)])
    run_batch(images, engine, tmp_path / "whole")
    seen = []

    def stop(count, before):
        seen.append(0 if before else count)
        if sum(seen) >= after:
            raise StoppedError

    with pytest.raises(StoppedError):
        run_batch(images, engine, tmp_path / "parts", step=stop)
    resumed = []
    run_batch(
        images,
        engine,
        tmp_path / "parts",
        resume=True,
        step=lambda count, before: resumed.append((count, before)),
    )
    assert resumed[0][1]
    assert sum(count for count, _ in resumed) == len(images)
    assert resumed[0][0] >= min(after, len(images)) // 32 * 32
    assert written(tmp_path / "parts") == written(tmp_path / "whole")


def test_a_run_that_was_killed_is_resumed(folder, small, tmp_path, environment, run):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    many = tmp_path / "many"
    for number in range(4):
        shutil.copytree(folder, many / str(number))
    assert run("batch", many, "-o", whole, *small, "--maps")[0] == 1
    command = [
        sys.executable,
        "-m",
        "cait_viz",
        "batch",
        str(many),
        "-o",
        str(parts),
        *map(str, small),
        "--maps",
    ]
    for end in (signal.SIGINT, signal.SIGKILL):
        process = subprocess.Popen([*command, "--resume"], env=environment, stderr=subprocess.DEVNULL)
        before = len(list(parts.glob("maps/*.png")))
        while process.poll() is None and len(list(parts.glob("maps/*.png"))) < before + 100:
            time.sleep(0.01)
        process.send_signal(end)
        process.wait(60)
    left = list(parts.glob("maps/*.png"))
    for path in left:
        Image.open(path).load()
    assert 0 < len(left) < 404
    assert run("batch", many, "-o", parts, *small, "--maps", "--resume")[0] == 1
    assert written(parts) == written(whole)


def test_what_is_there_is_not_asked_again_and_what_is_new_is_put_in_its_place(folder, tiny_weights, tmp_path):
    engine = cait_viz.load_engine(weights=tiny_weights)
    images = all_images([str(folder / "odd")])
    run_batch(images[10:], engine, tmp_path / "out")
    counts = []
    run_batch(
        images,
        engine,
        tmp_path / "out",
        resume=True,
        step=lambda count, before: counts.append((count, before)),
    )
    assert counts == [(41, True), (10, False)]
    run_batch(images, engine, tmp_path / "whole")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_what_could_not_be_read_is_tried_again_when_the_run_is_resumed(batch, tmp_path):
    (tmp_path / "site").mkdir()
    (tmp_path / "bad.png").write_bytes(b"no image")
    with serving(tmp_path / "site") as site:
        images = [f"{site}/late.png", tmp_path / "bad.png", f"{site}/never.png", tmp_path / "late.png"]
        before = batch(*images)[2]
        (tmp_path / "site" / "late.png").write_bytes(blobs(1))
        (tmp_path / "bad.png").write_bytes(blobs(1))
        (tmp_path / "late.png").write_bytes(blobs(1))
        after = batch(*images, options=["--resume"])[2]
    assert [bool(row["error"]) for row in before] == [True] * 4
    assert [row["image"] for row in after] == list(map(str, images))
    assert [bool(row["labels"]) for row in after] == [True, True, False, True]
    assert after[2] == before[2]


def test_rows_of_images_that_are_not_given_again_are_kept(batch, folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    before = batch(folder / "odd", bad)[2]
    some = sorted((folder / "odd").glob("*.png"))[10:20]
    status, err, after = batch(*some, options=["--resume"])
    assert status == 0  # what could not be read and is not given again is gone
    assert "41 rows of images that are not given this time, kept as before" in err
    assert len(before) == 52
    by_name = {row["image"]: row for row in before}
    assert [row["image"] for row in after[:10]] == list(map(str, some))
    assert {row["image"]: row for row in after} == {
        name: row for name, row in by_name.items() if name != str(bad)
    }


def test_two_runs_do_not_write_into_one_folder(tmp_path):
    schema = pa.schema([pa.field("image", pa.string(), nullable=False), ("error", pa.string())])
    first = Store(tmp_path / "out", {}, schema, Index(["a.png"]), resume=False)
    with pytest.raises(OutputError, match="another run writes here"):
        Store(tmp_path / "out", {}, schema, Index(["b.png"]), resume=True)
    first.close()
    Store(tmp_path / "out", {}, schema, Index(["b.png"]), resume=True).close()


@pytest.mark.parametrize(
    "options",
    [["--top", 3], ["--maps"], ["--view", "squash"], ["--engine", "keras"], ["--labels", "names.txt"]],
)
def test_another_run_is_not_gone_on_with(batch, run, folder, small, tmp_path, monkeypatch, options):
    monkeypatch.chdir(tmp_path)
    Path("names.txt").write_text("".join(f"{index}\n" for index in range(10)))
    image = folder / "odd" / "033.png"
    batch(image)
    before = written(tmp_path / "out")
    status, _, err = run("batch", image, "-o", tmp_path / "out", *small, "--resume", *options)
    assert status == 1
    assert re.search(r"holds the rows of another model or other options \(\w+", err)
    status, _, err = run("batch", image, "-o", tmp_path / "out", *small)
    assert status == 1
    assert "already holds a run; continue it with --resume" in err
    assert written(tmp_path / "out") == before


def test_with_keras_too_an_interrupted_run_gives_the_same_numbers(folder, tiny_weights, tmp_path):
    engine = cait_viz.load_engine(weights=tiny_weights, engine="keras")
    images = all_images([str(folder / "odd")])
    run_batch(images[:45], engine, tmp_path / "out")
    run_batch(images, engine, tmp_path / "out", resume=True)
    run_batch(images, engine, tmp_path / "whole")
    assert written(tmp_path / "out") == written(tmp_path / "whole")


def test_rows_that_are_damaged_are_told(batch, run, folder, small, tmp_path):
    image = folder / "odd" / "033.png"
    batch(image)
    (tmp_path / "out" / "images.parquet").write_bytes(b"PAR1 not one")
    status, _, err = run("batch", image, "-o", tmp_path / "out", *small, "--resume")
    assert status == 1
    assert "images.parquet: is damaged" in err


def test_a_folder_that_cannot_be_made_is_refused(folder, tiny_weights, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="is a file"):
        run_batch(["x.png"], cait_viz.load_engine(weights=tiny_weights), tmp_path / "file")


def test_without_ray_one_line_tells_how_to_install_it(run, folder, small, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, err = run("batch", folder, *small, "-o", tmp_path / "out", "--ray", "auto")
    assert status == 1
    assert err.count("\n") == 1
    assert 'pip install "ray[data]"' in err
    assert not (tmp_path / "out").exists()


def test_a_run_on_this_machine_does_not_import_ray(run_python, folder, small, tmp_path):
    script = (
        "import sys; from cait_viz.cli.main import main\n"
        "assert main(['batch', *sys.argv[1:]]) == 0; print('ray' in sys.modules)"
    )
    out, _ = run_python(script, folder / "odd" / "033.png", "-o", tmp_path / "out", *small)
    assert out.splitlines()[-1] == "False"


def test_many_rows_come_in_any_order_and_are_written_in_that_of_the_list(tmp_path):
    schema = pa.schema(
        [pa.field("image", pa.string(), nullable=False), ("error", pa.string()), ("value", pa.string())]
    )
    names = [f"{number:06}.png" for number in range(20_000)]
    shuffled = np.random.default_rng(0).permutation(names)

    def fill(images, shown, *, resume):
        store = Store(tmp_path / "out", {}, schema, Index(images), resume=resume)
        for start in range(0, len(shown), 300):
            part = shown[start : start + 300]
            store.add(pa.table({"image": part, "error": [None] * len(part), "value": part}, schema))
        return store

    with closing(fill(names, shuffled[:9_000], resume=False)) as store:
        store.flush()
    assert len(list((tmp_path / "out" / "unfinished").iterdir())) < 30
    store = fill(names, shuffled[9_000:], resume=True)
    assert store.images.done() == 20_000
    store.finish()
    table = pq.read_table(tmp_path / "out" / "images.parquet")
    assert table["image"].to_pylist() == table["value"].to_pylist() == names
    assert store.errors() == 0
    some = fill(names[::3], [], resume=True)
    assert some.images.done() == 20_000
    some.finish()
    kept = [name for number, name in enumerate(names) if number % 3]
    assert pq.read_table(tmp_path / "out" / "images.parquet")["value"].to_pylist() == names[::3] + kept
