"""What a person keeps who uploads an image in a browser: each file is the library's own.

Needs Chromium. Without it these tests are skipped, or fail where CAIT_VIZ_REQUIRE_BROWSER=1 is set.
"""

import io
import json
import zipfile

import numpy as np
import pytest
from browser_visitor import Visitor, photograph
from PIL import Image

pytestmark = pytest.mark.browser


PHOTOGRAPH = photograph("coffee.jpg", (310, 200))


@pytest.fixture(scope="module")
def kept(app, browser):
    """What a person keeps who uploads a picture, and chooses block 1 and head 3 in the style of the paper."""
    visitor = Visitor(browser, app.url, accept_downloads=True).open()
    visitor.upload("my cup.png", PHOTOGRAPH)
    visitor.press("CA block 1")
    visitor.choose("Head", "Head 3")
    visitor.press("Paper")
    visitor.choose("Format of the figures", "SVG")
    runs = visitor.runs
    files = dict(
        visitor.download(label)
        for label in ("This map (PNG)", "Figure 6", "Figure 7", "Every map (ZIP)", "The numbers (NPZ)")
    )
    visitor.page.wait_for_timeout(500)
    reruns = visitor.runs - runs
    visitor.choose("Format of the figures", "PDF")
    files |= dict(visitor.download(label) for label in ("Figure 6", "Figure 7"))
    yield {"files": files, "reruns": reruns, "alt": visitor.maps[0], "address": visitor.page.url}
    assert visitor.complaints == visitor.outside == []
    visitor.context.close()


@pytest.fixture(scope="module")
def own(bundled):
    """The library's own analysis of the picture that was uploaded."""
    from cait_viz.api import analyze

    return analyze(PHOTOGRAPH, bundled, name="my cup.png")


def test_the_page_shows_the_block_and_head_that_were_chosen(kept):
    assert kept["alt"] == ("Where bundled looked in my cup.png: class-attention block 1, head 3.")


def test_an_upload_is_not_in_the_address_bar(kept):
    assert "block=0&head=2&style=paper" in kept["address"]
    assert "sample" not in kept["address"]
    assert "cup" not in kept["address"]


def test_a_download_does_not_run_the_page_again(kept):
    assert kept["reruns"] == 0


def test_files_are_named_after_the_image_the_model_the_block_and_the_head(kept):
    assert set(kept["files"]) == {
        "my-cup_bundled_ca0_head2_paper.png",
        "my-cup_bundled_heads.svg", "my-cup_bundled_ca0_saliency.svg",
        "my-cup_bundled_heads.pdf", "my-cup_bundled_ca0_saliency.pdf",
        "my-cup_bundled_maps.zip", "my-cup_bundled.npz",
    }  # fmt: skip


def assert_same_picture(found, expected):
    """Equal up to the last bit of the network's float32, which may tip a level of the color table."""
    found, expected = (np.asarray(picture, np.int16) for picture in (found, expected))
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= 4
    assert (difference > 0).mean() < 0.01


def test_the_downloaded_map_is_the_librarys_own_drawing_pixel_by_pixel(kept, own):
    found = Image.open(io.BytesIO(kept["files"]["my-cup_bundled_ca0_head2_paper.png"]))
    assert found.size == own.size
    dimmed = float(found.text["dim_unseen"])
    assert dimmed > 0
    assert_same_picture(found, own.overlay(0, 2, style="paper", dim_unseen=dimmed))
    assert found.text["image_sha256"] == own.image_sha256
    assert (found.text["block"], found.text["head"]) == ("0", "2")


def test_the_archive_holds_every_map_and_a_manifest_of_them(kept, own):
    with zipfile.ZipFile(io.BytesIO(kept["files"]["my-cup_bundled_maps.zip"])) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        names = set(archive.namelist()) - {"manifest.json"}
        mean = Image.open(io.BytesIO(archive.read("my-cup_bundled_ca1_mean.png")))
        mean.load()
    assert names == {entry["file"] for entry in manifest["files"]}
    assert len(names) == own.blocks * (own.heads + 1)
    assert manifest["weights_sha256"] == own.model.weights_sha256
    assert manifest["image_size"] == [310, 200]
    appearance = {key: manifest[key] for key in ("style", "dim_unseen")}
    assert_same_picture(mean, own.overlay(1, **appearance))


def test_the_numbers_are_the_networks_own(kept, own):
    with np.load(io.BytesIO(kept["files"]["my-cup_bundled.npz"])) as numbers:
        for key, attention in own.class_attention.items():
            np.testing.assert_allclose(numbers[key], attention, atol=1e-6)
        np.testing.assert_allclose(numbers["logits"], own.logits, atol=1e-4)


def test_the_figures_are_drawings_that_scale(kept):
    for kind in ("heads", "ca0_saliency"):
        assert b"<svg" in kept["files"][f"my-cup_bundled_{kind}.svg"][:1000]
        assert kept["files"][f"my-cup_bundled_{kind}.pdf"].startswith(b"%PDF-")
