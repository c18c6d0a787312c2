"""Fixtures for the tests of `cait-viz batch`, which conftest.py takes in."""

import pyarrow.parquet as pq
import pytest
from image_helpers import many_images


@pytest.fixture(scope="session", name="folder")
def folder_of_images(tmp_path_factory):
    """A hundred small images of many shapes, in two folders, and files that are none."""
    place = tmp_path_factory.mktemp("many")
    many_images(place, 100)
    return place


@pytest.fixture
def batch(run, small, tmp_path):
    """Run the command on images; gives (status, standard error, the rows)."""

    def batch(*images, output=tmp_path / "out", options=()):
        status, _, err = run("batch", *images, "-o", output, *small, *options)
        return status, err, pq.read_table(output / "images.parquet").to_pylist()

    return batch
