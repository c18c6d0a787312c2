"""The rooms import only what they may, so that reading and drawing cost no TensorFlow start-up."""

import ast
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import cait_viz

ROOT = Path(cait_viz.__file__).parent.parent
APP = ROOT / "app.py"
FILES = {path.stem: path for path in sorted((ROOT / "cait_viz").glob("*.py"))} | {"app": APP}
ROOMS = {name for name in FILES if not name.startswith("__")}

NETWORK = {"layers", "model", "weights", "inference", "learner", "logs", "runs", "training"}
# Of the network, what runs on every backend of Keras.
ANY_BACKEND = {"layers", "model", "weights", "learner", "logs", "runs", "training"}
# What a training is shown, and what is made of it.
SHOWING = {"datasets", "augmentation", "recipe", "batches", "teacher", "validation"}
STARTS_THE_NETWORK = {"quiet", "worker"}  # within functions alone
TIES_BOTH_HALVES = {"pipeline"}
READING = {"images", "containers", "preprocessing"}
DRAWING = {"maps", "rendering", "pages", "layouts", "figures"}
MEASURING = {"faithfulness"}
DOORS = {"arguments", "cli", "server", "app"}
HEAVY = {"keras", "tensorflow"}


class Import(NamedTuple):
    module: str  # with dots
    place: str  # "top", "function" or "types"


def imports(path):
    """Everything that a file imports, with the names taken from a package as modules of it."""
    found = []

    def visit(node, place):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = "function"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            place = "types"
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, place) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports by a relative path"
            found.append(Import(node.module, place))
            found.extend(Import(f"{node.module}.{alias.name}", place) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, place)

    visit(ast.parse(path.read_text(encoding="utf-8")), "top")
    return found


IMPORTS = {name: imports(path) for name, path in FILES.items()}


def packages(name, *places):
    """The packages that a room imports in those places, anywhere if none is given."""
    return {found.module.partition(".")[0] for found in IMPORTS[name] if not places or found.place in places}


def rooms(name, *places):
    """The rooms that a room imports in those places, anywhere if none is given."""
    modules = {found.module for found in IMPORTS[name] if not places or found.place in places}
    return {
        parts[1] for module in modules if (parts := module.split("."))[0] == "cait_viz" and len(parts) > 1
    } & ROOMS


def reached(name):
    """The rooms that importing a room imports."""
    seen, ahead = set(), {name}
    while ahead:
        room = ahead.pop()
        seen.add(room)
        ahead |= rooms(room, "top") - seen
    return seen


@pytest.mark.parametrize("name", sorted(FILES))
def test_keras_is_imported_by_the_network_and_by_nobody_else(name):
    if name not in NETWORK:
        assert not packages(name, "top", "types") & HEAVY
    if name not in NETWORK | STARTS_THE_NETWORK:
        assert not packages(name) & HEAVY


@pytest.mark.parametrize("name", sorted(set(FILES) - NETWORK - TIES_BOTH_HALVES))
def test_a_room_outside_the_network_reaches_it_within_functions_alone(name):
    assert not reached(name) & (NETWORK | TIES_BOTH_HALVES)


@pytest.mark.parametrize("name", sorted(ANY_BACKEND))
def test_training_knows_no_backend_but_through_keras(name):
    assert "tensorflow" not in packages(name)
    assert not packages(name, "top") & {"torch", "jax"}
    assert "inference" not in reached(name)


@pytest.mark.parametrize("name", sorted(SHOWING))
def test_what_a_training_is_shown_is_made_without_keras(name):
    assert not reached(name) & (NETWORK | DRAWING | DOORS)
    assert not packages(name) & HEAVY


def test_streamlit_is_imported_by_the_app_alone():
    assert {name for name in FILES if "streamlit" in packages(name)} == {"app"}


def test_the_app_reaches_the_model_through_the_worker_alone():
    assert not rooms("app") & (NETWORK | TIES_BOTH_HALVES)
    assert "worker" in rooms("app")


def test_the_app_holds_no_arithmetic():
    assert "numpy" not in packages("app")


def test_pyplot_is_imported_by_nobody():
    stateful = ("matplotlib.pyplot", "matplotlib.pylab", "pylab")
    assert not [name for name in FILES if any(found.module.startswith(stateful) for found in IMPORTS[name])]


@pytest.mark.parametrize("name", sorted((READING | DRAWING | MEASURING) & ROOMS))
def test_reading_drawing_and_measuring_know_numpy_pillow_and_matplotlib_and_nothing_else(name):
    known = {"cait_viz", "numpy", "PIL", "matplotlib", "pillow_heif", *sys.stdlib_module_names}
    assert packages(name) <= known


@pytest.mark.parametrize("name", sorted(READING & ROOMS))
def test_reading_knows_nothing_of_drawing_and_results(name):
    assert not reached(name) & (DRAWING | DOORS | {"analysis", "checkpoints", "hub"})


@pytest.mark.parametrize("name", sorted((DRAWING | MEASURING) & ROOMS))
def test_drawing_and_measuring_know_nothing_of_weights_and_results(name):
    assert not reached(name) & (DOORS | {"analysis", "checkpoints", "hub", "worker"})


@pytest.mark.parametrize("name", sorted(ROOMS - DOORS))
def test_the_house_does_not_know_its_doors(name):
    assert not rooms(name) & DOORS


@pytest.mark.parametrize("name", sorted(ROOMS))
def test_imports_go_one_way(name):
    assert not [room for room in rooms(name, "top") if name in reached(room)]


def test_every_room_of_the_plan_is_there():
    planned = NETWORK | SHOWING | STARTS_THE_NETWORK | TIES_BOTH_HALVES | {"images", "preprocessing"}
    assert planned | {"maps", "rendering", "analysis", "variants", "labels", "cli", "app"} <= ROOMS


def test_every_public_name_is_listed_and_can_be_had():
    assert list(cait_viz.__all__) == sorted(cait_viz.__all__, key=lambda name: (not name.isupper(), name))
    assert set(cait_viz.__all__) <= set(dir(cait_viz))
    for name in cait_viz.__all__:
        assert getattr(cait_viz, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cait_viz.no_such_name


def test_reading_and_drawing_start_no_tensorflow(run_python, photo, tmp_path):
    (tmp_path / "photo.png").write_bytes(photo)
    script = """
import json, sys
import numpy as np
import cait_viz
from cait_viz.analysis import ModelInfo
from cait_viz.preprocessing import prepare, seen_box

assert set(sys.modules).isdisjoint({"keras", "tensorflow"})
picture = cait_viz.read_image(sys.argv[1])
prepare(sys.argv[1], 64)
analysis = cait_viz.Analysis(
    picture=np.asarray(picture), picture_name="photo.png", picture_sha256="0" * 64,
    model=ModelInfo("mine", "mine.safetensors", "0" * 64, 0, 64, 16), view="crop",
    box=seen_box(picture.size, 64, "crop"), labels=("a", "b"),
    probabilities=np.full(2, 0.5, np.float32), logits=np.zeros(2, np.float32),
    class_attention={"ca_ffn_block_0_att": np.full((2, 17), 1 / 17, np.float32)},
)
analysis.png(), analysis.archive(), analysis.npz(), analysis.figure("heads", "svg")
import cait_viz.cli, cait_viz.checkpoints, cait_viz.worker
print(json.dumps(sorted(sys.modules)))
"""
    modules = set(json.loads(run_python(script, tmp_path / "photo.png")[0]))
    assert not modules & {"keras", "tensorflow", "streamlit", "torch", "matplotlib.pyplot"}
