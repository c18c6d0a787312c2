"""Images in buckets of S3's and Google's kind, named one by one, by folder, by pattern and in a list."""

import json

import pyarrow.parquet as pq
import pytest
from bucket_server import BucketServer
from image_helpers import blobs

# Where the buckets are, and the lists in them that are made for each.
PLACES = {"s3://bucket/": "s3", "gs://anonymous@bucket/": "gs"}
KEYS = ["photos/2025/a b.png", "photos/2025/c#%.png", "photos/d.png", "photos/é?.png"]


@pytest.fixture(scope="module")
def server():
    files = {key: blobs(number) for number, key in enumerate(KEYS)}
    files |= {"photos/.hidden.png": blobs(9), "photos/notes.txt.png": b"no image", "other/x.png": blobs(8)}
    for place, name in PLACES.items():
        lines = [f"{place}photos/d.png", "", f"{place}photos/2025/", f"{place}gone.png"]
        files[f"lists/{name}.txt"] = "\r\n".join(lines).encode()
    with BucketServer(files) as server:
        yield server


@pytest.fixture
def rows(run_python, server, small, tmp_path):
    """The rows of a run that was given these addresses, by their image's."""

    def rows(*images):
        script = (
            "import json, os, sys\n"
            "os.environ |= json.loads(sys.argv[1])\n"
            "from cait_viz.cli.main import main\n"
            "main(['batch', *sys.argv[2:]])"
        )
        _, err = run_python(script, json.dumps(server.settings), *images, "-o", tmp_path / "out", *small)
        if not (tmp_path / "out").exists():
            return err
        return {row["image"]: row for row in pq.read_table(tmp_path / "out" / "images.parquet").to_pylist()}

    return rows


@pytest.mark.parametrize("place", PLACES)
def test_folders_patterns_and_lists_of_a_bucket_are_read_as_those_on_the_disk_are(
    place, rows, run, small, tmp_path
):
    found = rows(f"{place}photos", f"{place}photos/**/*d.png", f"{place}lists/{PLACES[place]}.txt")
    expected = [*sorted([*KEYS, "photos/notes.txt.png"]), "gone.png"]
    assert [name.removeprefix(place) for name in found] == expected
    (tmp_path / "d.png").write_bytes(blobs(2))
    run("batch", tmp_path / "d.png", "-o", tmp_path / "here", *small)
    [here] = pq.read_table(tmp_path / "here" / "images.parquet").to_pylist()
    assert found[f"{place}photos/d.png"] | {"image": ""} == here | {"image": ""}
    bad = {name.removeprefix(place): row["error"] for name, row in found.items() if row["error"]}
    assert bad.pop("gone.png") == "gone.png: there is no such file; check its name and folder"
    assert bad.pop("photos/notes.txt.png").startswith("notes.txt.png: this is not an image")
    assert not bad


def test_a_pattern_means_the_files_that_match_it(rows):
    assert list(rows("s3://bucket/photos/2025/*.png")) == [f"s3://bucket/{key}" for key in KEYS[:2]]


@pytest.mark.parametrize("address", ["bucket/none/*.png", "bucket/none/", "bucket/none.txt"])
def test_where_a_bucket_has_nothing_one_line_says_so(address, rows):
    err = rows(f"s3://{address}")
    assert isinstance(err, str)
    assert err.count("\n") == 1
    assert "none" in err
