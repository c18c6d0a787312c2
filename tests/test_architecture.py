"""What a folder may import follows from where it stands; the rules hold for new files too."""

import ast
import json
from pathlib import Path
from typing import NamedTuple

import pytest

import cait_viz

PACKAGE = Path(cait_viz.__file__).parent
ROOT = PACKAGE.parent
HEAVY = {"keras", "tensorflow", "torch", "jax"}

# Each folder, or module beside them, with what it may import of the package and of heavy libraries.
# `shared` are the helpers beside the folders, `all` what stands in a row above.
SHARED = {"errors", "_text", "_files", "_checks", "_resources", "_backend", "_process", "__init__"}
RULES: dict[str, set[str]] = {
    "errors": set(),
    "_text": set(),
    "_files": set(),
    "_checks": set(),
    "_resources": set(),
    "_backend": set(),
    "_process": set(),
    "__init__": set(),
    "images": set(),
    "model": set(),
    "attention": set(),
    "weights": {"model"},
    "engine": {"model", "weights"},
    "drawing": {"images", "attention"},
    "metrics": {"images", "attention"},
    "result": {"images", "attention"},
    "analysis": {"images", "attention", "drawing", "result"},
    "training": {"images", "model", "attention", "weights", "metrics", "drawing"},
    "api": {"images", "model", "attention", "weights", "engine", "analysis"},
    "tutorial": {"images", "model", "attention", "weights", "engine", "analysis", "api"},
    "evaluation": {"images", "model", "attention", "weights", "engine", "metrics", "training"},
    "serving": {"images", "model", "attention", "weights", "engine", "drawing", "analysis", "api"},
    "cli": {"images", "model", "attention", "weights", "engine", "drawing", "metrics", "analysis", "training"}
    | {"api", "serving", "evaluation"},
    "__main__": {"cli"},
}
# Folders whose modules may import Keras at their top; `_backend` and `serving` do so within functions.
NETWORK = {"model", "engine", "training", "api", "tutorial"}
# Modules that import heavy libraries in functions: what they do there runs in a process of its own.
CONVERTERS = {"weights/pytorch.py", "weights/savedmodel.py"}
LIGHT = {"numpy", "PIL", "matplotlib", "pillow_heif", "httpx2"}


class Import(NamedTuple):
    module: str  # with dots
    place: str  # "top", "function" or "types"


def imports(path):
    """Everything that a file imports, wherever in it."""
    found = []

    def visit(node, place):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            place = "function"
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            place = "types"
        if isinstance(node, ast.Import):
            found.extend(Import(alias.name, place) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports by a relative path"
            found.append(Import(node.module, place))
            if node.module.partition(".")[0] == "cait_viz":
                found.extend(Import(f"{node.module}.{alias.name}", place) for alias in node.names)
        for child in ast.iter_child_nodes(node):
            visit(child, place)

    visit(ast.parse(path.read_text(encoding="utf-8")), "top")
    return found


FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
IMPORTS = {name: imports(path) for name, path in FILES.items()}
APP = imports(ROOT / "app.py")


def place(name):
    """The folder that a file stands in, or the file itself beside them."""
    return name.partition("/")[0].removesuffix(".py")


def packages(found, *places):
    return {one.module.partition(".")[0] for one in found if not places or one.place in places}


def places_used(found, *places):
    """The folders and modules of the package that are imported."""
    parts = [one.module.split(".") for one in found if not places or one.place in places]
    known = {place(name) for name in FILES}
    return {part[1] for part in parts if part[0] == "cait_viz" and len(part) > 1 and part[1] in known}


@pytest.mark.parametrize("name", FILES)
def test_a_file_imports_what_its_folder_may(name):
    assert place(name) in RULES, "a new folder needs a rule"
    allowed = RULES[place(name)] | SHARED | {place(name)}
    if name in ("__init__.py", "training/__init__.py"):  # the lazy public names
        allowed |= set(RULES)
    assert places_used(IMPORTS[name]) <= allowed


@pytest.mark.parametrize("name", FILES)
def test_no_import_goes_in_a_circle_not_even_within_a_function(name):
    def modules(file):
        known = {file.removesuffix(".py").removesuffix("/__init__").replace("/", "."): file for file in FILES}
        wanted = {one.module.removeprefix("cait_viz.") for one in IMPORTS[file] if one.module != "cait_viz"}
        return {known[module] for module in wanted & set(known)} - {"__init__.py", "training/__init__.py"}

    seen, ahead = set(), modules(name)
    while ahead:
        file = ahead.pop()
        seen.add(file)
        ahead |= modules(file) - seen
    assert name not in seen


@pytest.mark.parametrize("name", FILES)
def test_keras_stays_in_the_network(name):
    if place(name) not in NETWORK:
        assert not packages(IMPORTS[name], "top", "types") & HEAVY
    if place(name) not in NETWORK | {"_backend", "serving"} and name not in CONVERTERS:
        assert not packages(IMPORTS[name]) & HEAVY


@pytest.mark.parametrize("name", [name for name in FILES if place(name) in ("model", "training")])
def test_the_network_and_its_training_know_no_backend_but_through_keras(name):
    if name != "model/export.py":  # two formats are TensorFlow's
        assert "tensorflow" not in packages(IMPORTS[name])
    assert not packages(IMPORTS[name], "top") & HEAVY - {"keras"}


def test_the_tutorials_door_knows_no_backend_but_through_keras():
    assert packages(IMPORTS["tutorial.py"]) & HEAVY == {"keras"}


@pytest.mark.parametrize(
    "name", [name for name in FILES if place(name) in ("images", "attention", "drawing")]
)
def test_reading_and_drawing_know_numpy_pillow_matplotlib_and_httpx2_and_no_other_library(name):
    import sys

    assert packages(IMPORTS[name]) <= LIGHT | {"cait_viz", *sys.stdlib_module_names}


def test_streamlit_is_imported_by_the_page_alone_and_pyplot_by_nobody():
    page = {name for name in FILES if name.startswith("serving/page/")}
    assert not [name for name in set(FILES) - page if "streamlit" in packages(IMPORTS[name])]
    stateful = ("matplotlib.pyplot", "matplotlib.pylab", "pylab")
    assert not [
        found for file in (*IMPORTS.values(), APP) for found in file if found.module.startswith(stateful)
    ]


@pytest.mark.parametrize("name", ["app.py", *(name for name in FILES if name.startswith("serving/page/"))])
def test_the_page_holds_no_arithmetic_and_reaches_the_model_through_its_worker_alone(name):
    found = IMPORTS.get(name, APP)
    assert not packages(found) & {*HEAVY, "numpy"}
    assert not places_used(found) & {"api", "engine", "training", "cli"}
    assert not [
        one for one in found if one.module.startswith(("cait_viz.model.cait", "cait_viz.model.layers"))
    ]


def test_every_public_name_is_listed_and_can_be_had():
    assert list(cait_viz.__all__) == sorted(cait_viz.__all__, key=lambda name: (not name.isupper(), name))
    assert set(cait_viz.__all__) <= set(dir(cait_viz))
    for name in cait_viz.__all__:
        assert getattr(cait_viz, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = cait_viz.no_such_name


def test_all_but_the_network_imports_without_keras_and_streamlit(run_python, photo, tmp_path):
    """Every file outside the network is imported, and reading and drawing are done."""
    (tmp_path / "photo.png").write_bytes(photo)
    script = """
import importlib, json, sys
import numpy as np
import cait_viz
from cait_viz.analysis import ModelInfo
from cait_viz.images.preprocess import prepare, seen_box

for module in sys.argv[2:]:
    importlib.import_module(module)
picture = cait_viz.read_image(sys.argv[1])
prepare(sys.argv[1], 64)
analysis = cait_viz.Analysis(
    image=np.asarray(picture), image_name="photo.png", file_sha256="0" * 64,
    model=ModelInfo("mine", "mine.safetensors", "0" * 64, 0, 64, 16), view="crop",
    box=seen_box(picture.size, 64, "crop"), labels=("a", "b"),
    probabilities=np.full(2, 0.5, np.float32), logits=np.zeros(2, np.float32),
    class_attention={"ca_ffn_block_0_att": np.full((2, 17), 1 / 17, np.float32)},
)
analysis.png(), analysis.archive(), analysis.npz(), analysis.figure("heads", "svg")
print(json.dumps(sorted(sys.modules)))
"""
    light = [
        name
        for name in FILES
        if not place(name).startswith("__") and not heavy(name) and not name.startswith("serving/page/")
    ]
    names = [
        f"cait_viz.{name.removesuffix('.py').removesuffix('/__init__').replace('/', '.')}" for name in light
    ]
    assert len(names) > 25
    modules = set(json.loads(run_python(script, tmp_path / "photo.png", *names)[0]))
    assert not modules & {*HEAVY, "streamlit", "matplotlib.pyplot"}


def heavy(name):
    """Whether importing a file imports Keras, by itself or through what it imports at its top."""
    seen, ahead = set(), {name}
    while ahead:
        file = ahead.pop()
        seen.add(file)
        if packages(IMPORTS[file], "top") & HEAVY:
            return True
        wanted = {
            one.module.removeprefix("cait_viz.").replace(".", "/")
            for one in IMPORTS[file]
            if one.place == "top"
        }
        ahead |= {other for other in FILES if other.removesuffix(".py") in wanted} - seen
    return False
