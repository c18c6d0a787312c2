"""Models, images and processes that more than one file of tests needs; made when first asked for."""

import collections
import contextlib
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from batch_runs import batch, folder_of_images  # noqa: F401
from browser_visitor import ARGUMENTS, CHROMIUM, Visitor, started
from hypothesis import settings
from image_helpers import blobs
from PIL import Image
from reference import lively_weights, timm_shapes
from safetensors.numpy import save_file

from cait_viz.model.config import CaiTConfig

# A shell starts what it puts in the background with Ctrl-C ignored, and every process below inherits that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Each process of tests keeps to one core: threads of two processes on the same cores wait for each other.
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[int(worker.removeprefix("gw")) % len(cores)]})

# No test asserts a time, Hypothesis' own limit included.
settings.register_profile("no deadline", deadline=None)
settings.load_profile("no deadline")

# Before anything imports them: TensorFlow silent, Keras on TensorFlow.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")

ROOT = Path(__file__).parent.parent
SAMPLES = ROOT / "assets" / "samples"


@pytest.fixture(scope="session", autouse=True)
def user_cache(tmp_path_factory):
    """A cache of the program's own for one run of the tests, so that each network is exported once."""
    folder = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        folder = folder.parent  # all workers share it
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(folder / "user_cache"))
        yield


def pytest_configure(config):
    # Keras' variables do not know NumPy 2's keyword yet.
    config.addinivalue_line("filterwarnings", "ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(scope="session")
def bundled():
    """The bundled model."""
    from cait_viz.api import load_model

    return load_model()


@pytest.fixture(scope="session")
def tiny_config():
    """A small architecture whose image size, patch, width, depth, heads and classes all differ."""
    return CaiTConfig(
        image_size=64, projection_dim=48, sa_ffn_layers=3, ca_ffn_layers=2, num_heads=4, num_classes=10
    )


@pytest.fixture(scope="session")
def tiny_weights(tiny_config, tmp_path_factory):
    """The path of a checkpoint of `tiny_config` whose every branch matters."""
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_file(lively_weights(timm_shapes(tiny_config)), path)
    return path


@pytest.fixture(scope="session")
def weights(tiny_config):
    """The tensors of `tiny_weights`, by timm's names."""
    return lively_weights(timm_shapes(tiny_config))


@pytest.fixture
def write_weights(tmp_path):
    """Save tensors as a safetensors file and give its path."""

    def write(tensors, name="my model.safetensors"):
        save_file(dict(tensors), tmp_path / name)
        return tmp_path / name

    return write


@pytest.fixture(scope="session")
def make_small_weights(tmp_path_factory):
    """Make a checkpoint of few blocks: each takes a second or more to compile, at every resolution anew."""

    def make(num_classes):
        config = CaiTConfig(
            image_size=64,
            projection_dim=48,
            sa_ffn_layers=1,
            ca_ffn_layers=1,
            num_heads=4,
            num_classes=num_classes,
        )
        path = tmp_path_factory.mktemp("weights") / "small.safetensors"
        save_file(lively_weights(timm_shapes(config)), path)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_model(tiny_weights):
    """The network of `tiny_weights`; tests may call it but not change it."""
    from cait_viz.api import load_model

    return load_model(weights=tiny_weights)


@pytest.fixture(scope="session")
def make_teacher(tmp_path_factory):
    """Make a teacher as `training_runs.save_teacher` does."""

    def make(**options):
        from training_runs import save_teacher

        return save_teacher(tmp_path_factory.mktemp("teacher") / "teacher.onnx", **options)

    return make


@pytest.fixture(scope="session")
def teacher_file(make_teacher):
    """The path of such a teacher."""
    return make_teacher()


@pytest.fixture(scope="session")
def gray_images(tmp_path_factory):
    """Twelve decoded images, each of one gray: ten times its number."""
    from cait_viz.training.cache import decode

    folder = tmp_path_factory.mktemp("coloured")
    files = [folder / f"{number:02}.png" for number in range(12)]
    for number, path in enumerate(files):
        Image.new("RGB", (40, 40 + number), (10 * number,) * 3).save(path)
    return decode(files, 64, folder / "cache", print)


@pytest.fixture
def eagerly():
    """TensorFlow makes no graph of a training."""
    from training_runs import eager_steps

    with eager_steps():
        yield


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory):
    """Two classes of five images smaller than the input, a file that is not an image, an empty class."""
    place = tmp_path_factory.mktemp("images")
    for name, color in {"red": (220, 30, 30), "green": (30, 220, 30)}.items():
        (place / name).mkdir()
        for number in range(5):
            Image.new("RGB", (30 + number, 40), color).save(place / name / f"{number}.png")
    (place / "red" / "broken.jpg").write_bytes(b"not an image")
    (place / "blue").mkdir()
    return place


@pytest.fixture(scope="session")
def small_weights(make_small_weights):
    """A checkpoint of few blocks and ten classes."""
    return make_small_weights(10)


@pytest.fixture(scope="session")
def photo():
    """The bytes of a small PNG, wider than high."""
    pixels = np.random.default_rng(0).integers(0, 256, (9, 13, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((130, 90), Image.Resampling.BICUBIC).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="session")
def bundled_engine(user_cache):
    """The bundled model, ready to look."""
    import cait_viz

    return cait_viz.load_engine()


@pytest.fixture(scope="session")
def bundled_cat(user_cache):
    """What the bundled model makes of the sample `cat.jpg`."""
    import cait_viz

    return cait_viz.analyze(SAMPLES / "cat.jpg", cait_viz.load_engine())


@pytest.fixture(scope="session")
def small_cat(user_cache, tiny_weights):
    """The same of the tiny model."""
    import cait_viz

    return cait_viz.analyze(SAMPLES / "cat.jpg", cait_viz.load_engine(weights=tiny_weights))


@pytest.fixture
def small(tiny_weights):
    """The options that choose a network which is loaded in a second."""
    return "--weights", tiny_weights


@pytest.fixture
def run(capsys):
    """Run a command in this process and give its (status, standard output, standard error)."""
    from cait_viz.cli.main import main

    return lambda *arguments: (main([str(argument) for argument in arguments]), *capsys.readouterr())


@pytest.fixture
def succeed(run):
    """Run a command that ends well and give its standard output."""

    def succeed(*arguments):
        status, out, err = run(*arguments)
        assert (status, err) == (0, "")
        return out

    return succeed


@pytest.fixture(scope="session")
def kinds_file(tmp_path_factory):
    """A file of names for the ten classes of `tiny_weights`."""
    path = tmp_path_factory.mktemp("labels") / "kinds.txt"
    path.write_text("".join(f"kind {number}\n" for number in range(10)), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def kinds_folder(tmp_path_factory):
    """Three folders of classes, one of them empty; in them a file that is no image, and a hidden one."""
    folder = tmp_path_factory.mktemp("classes")
    for kind, count in ((3, 5), (4, 0), (7, 6)):
        (folder / f"kind {kind}").mkdir()
        for number in range(count):
            (folder / f"kind {kind}" / f"{number}.png").write_bytes(blobs(10 * kind + number))
    (folder / "kind 7" / "broken.png").write_bytes(b"no image")
    (folder / "kind 7" / ".DS_Store").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="session")
def environment(user_cache):
    """The environment of a fresh interpreter that knows the package and nothing of these tests."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("TF_", "KERAS_"))}
    return kept | {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="session")
def run_python(environment):
    """Run a script in a fresh interpreter and give its (standard output, standard error)."""

    def run(script, *arguments):
        command = [sys.executable, "-c", script, *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout, done.stderr

    return run


class Counted:
    """An analyzer, what it was asked, and the answer to give in place of its own, if there is one."""

    def __init__(self, analyzer):
        self.analyzer = analyzer
        self.requests = []
        self.answer = None

    def ask(self, request):
        self.requests.append(request)
        return self.answer or self.analyzer.ask(request)


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """An empty home for the hub's cache, of this process and of those it starts."""
    from huggingface_hub import constants

    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HOME", str(folder))
        patch.setattr(constants, "HF_HUB_CACHE", str(folder / "hub"))
        patch.setattr(constants, "HF_HUB_OFFLINE", False)
        yield folder


@pytest.fixture(scope="module")
def analyzer(home):
    """What analyzes images in the app, for all tests of a file."""
    from cait_viz.serving.engines import Analyzer, Engines, ModelChoice, load_choice

    analyzer = Analyzer(Engines(10**9, load_choice), first=ModelChoice("bundled"))
    yield analyzer
    analyzer.stop()


@pytest.fixture
def counted(analyzer):
    """What analyzes images in a server that was started for this test."""
    from cait_viz.serving import state

    counted = Counted(analyzer)
    state.start(analyzer=counted)
    return counted


@pytest.fixture
def small_app(counted, tiny_weights, kinds_file):
    """A server that opens on the model of `tiny_weights`, which answers in no time."""
    from cait_viz.serving import state
    from cait_viz.serving.models import user_model
    from cait_viz.weights.resolve import resolve

    state.start(user_model(resolve(weights=tiny_weights), kinds_file), analyzer=counted)


@pytest.fixture
def asked(counted):
    """The requests in this test."""
    return counted.requests


@pytest.fixture(scope="module")
def browser():
    """Chromium; without it the test is skipped, or fails where CAIT_VIZ_REQUIRE_BROWSER=1 is set."""
    unavailable = pytest.fail if os.environ.get("CAIT_VIZ_REQUIRE_BROWSER") == "1" else pytest.skip
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        unavailable("playwright is not installed")
    if CHROMIUM is None:
        unavailable("there is no Chromium on this machine")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def app(browser, environment, tmp_path_factory):
    """A running `cait-viz app`, started in a folder of no importance, with no hub within reach."""
    with started(tmp_path_factory.mktemp("app"), environment) as process:
        yield process
        assert "Traceback" not in process.log.read_text()


@pytest.fixture(scope="module")
def contexts(browser):
    """The contexts of visitors who left, by their options: the next find Streamlit's files in the cache."""
    return collections.defaultdict(list)


@pytest.fixture
def visitors(app, browser, contexts):
    """Make visitors. However they fare, no page may complain, and nothing may be asked of anybody else."""
    known = []

    def make(**options):
        left = contexts[str(options)]
        known.append(Visitor(browser, app.url, left.pop() if left else None, **options))
        leaving.callback(left.append, known[-1].context)
        leaving.callback(known[-1].page.close)
        return known[-1]

    with contextlib.ExitStack() as leaving:
        yield make
    assert [visitor.complaints for visitor in known] == [[]] * len(known)
    assert [visitor.outside for visitor in known] == [[]] * len(known)


@pytest.fixture
def visitor(visitors):
    """One visitor, at the first screen."""
    return visitors().open()
