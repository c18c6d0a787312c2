"""What a file may import follows from where it stands; the rules hold for new files too."""

import ast
import json
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

import cait_viz

PACKAGE = Path(cait_viz.__file__).parent
ROOT = PACKAGE.parent

# What a folder, or a module beside the folders, may import of the package beside itself and `HELPERS`, which
# import nothing but each other. The innermost folder with a row decides.
HELPERS = {
    "errors",
    "_text",
    "_files",
    "_cache",
    "_checks",
    "_resources",
    "_backend",
    "_process",
    "_sizes",
    "_version",
    "_keras",
}
RULES: dict[str, set[str]] = {
    **{helper: set() for helper in HELPERS},
    "__init__": set(),
    "images": set(),
    "model": set(),
    "attention": set(),
    "weights": {"model"},
    "engine": {"model", "attention", "weights"},
    "drawing": {"images", "attention"},
    "metrics": {"images", "attention"},
    "results": {"images", "attention", "drawing", "metrics"},
    "training": {"images", "model", "attention", "weights", "metrics", "drawing"},
    "api": {"images", "model", "attention", "weights", "engine", "results"},
    "questions": {"images", "model", "attention", "engine", "metrics", "results", "api"},
    "tutorial": {"images", "model", "attention", "weights", "engine", "results", "api"},
    "batch": {"images", "model", "attention", "weights", "engine", "drawing", "metrics", "results"}
    | {"training", "api", "questions"},
    "serving": {"images", "model", "attention", "weights", "engine", "drawing", "results", "api"},
    "serving/page": {"images", "attention", "weights", "drawing", "metrics", "results", "api", "questions"}
    | {"serving"},
    "app": {"images", "weights", "drawing", "results", "serving"},  # app.py, beside the package
    "cli": {"images", "model", "attention", "weights", "engine", "drawing", "metrics", "results", "training"}
    | {"api", "questions", "batch", "serving"},
    "__main__": {"cli"},
}

# Who may import a library, or a function that imports it. What is not named here is free.
MAY_IMPORT: dict[str, set[str]] = {
    "keras": {"_keras", "_backend", "model/export", "engine/tape", "engine/export"},
    "cait_viz._keras": {"model", "training", "tutorial", "engine/keras"},
    "tensorflow": {"_backend", "engine/keras", "engine/tape", "model/export", "weights/savedmodel"},
    "torch": {"_backend", "engine/keras", "training/trainer", "weights/pytorch"},
    "jax": set(),
    "openvino": {"_backend"},
    "ray": {"batch/ray"},
    "cait_viz._backend.import_keras": {"engine", "cli"},
    "cait_viz._backend.import_openvino": {"engine"},
    "cait_viz._backend.openvino_core": {"engine", "training/teacher"},
    "streamlit": {"app", "serving/page"},
    "matplotlib.pyplot": set(),
    "matplotlib.pylab": set(),
    "pylab": set(),
}
# These libraries are imported in functions alone, but for those named after them.
HEAVY = {"keras", "tensorflow", "torch", "jax", "openvino", "ray"}
MAY_IMPORT_AT_ONCE = {"keras": {"_keras", "model", "training", "tutorial", "engine/keras"}}
LIGHT = {"numpy", "PIL", "matplotlib", "pillow_heif", "httpx2"}


class Import(NamedTuple):
    module: str  # with dots, and with the name that is taken from it
    place: str  # "top", "function" or "types"


def imports(text):
    """Everything that a Python file imports: by a statement, by a call, or as an attribute of a package."""
    tree = ast.parse(text)
    meant = imported_names(tree)
    found = set()
    for node, place in nodes(tree, "top"):
        match node:
            case ast.Import():
                found |= {Import(alias.name, place) for alias in node.names}
            case ast.ImportFrom():
                found |= {Import(f"{node.module}.{alias.name}", place) for alias in node.names}
            case ast.Attribute():
                first, *rest = ast.unparse(node).split(".")
                if first in meant:
                    found.add(Import(".".join((meant[first], *rest)), place))
            case ast.Call(args=[ast.Constant(value=str(module)), *_]):
                first, *rest = ast.unparse(node.func).split(".")
                if ".".join((meant.get(first, first), *rest)) in ("importlib.import_module", "__import__"):
                    found.add(Import(module, place))
    return found


def imported_names(tree):
    """What each name that a file imports stands for, with dots."""
    meant = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = {alias.name.partition(".")[0] for alias in node.names if not alias.asname}
            meant |= {name: name for name in names}
            meant |= {alias.asname: alias.name for alias in node.names if alias.asname}
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, "a relative import hides where it leads"
            assert node.names[0].name != "*", "a star hides what is imported"
            meant |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return meant


def nodes(node, place):
    """Everything in a syntax tree, with its place."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        place = "function"
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        place = "types"
    yield node, place
    for child in ast.iter_child_nodes(node):
        yield from nodes(child, place)


def beginnings(text, separator):
    """All beginnings of a text in parts, the longest first: "a.b" and "a" of "a.b"."""
    parts = text.split(separator)
    return [separator.join(parts[:count]) for count in range(len(parts), 0, -1)]


FILES = {path.relative_to(PACKAGE).as_posix(): path for path in sorted(PACKAGE.rglob("*.py"))}
MODULES = {
    f"cait_viz.{name.removesuffix('.py')}".replace("/", ".").removesuffix(".__init__"): name for name in FILES
}
IMPORTS = {
    name: imports(path.read_text(encoding="utf-8"))
    for name, path in {**FILES, "app.py": ROOT / "app.py"}.items()
}
# Where the names come from that a package hands on, at once or when they are first used.
HANDED_ON = {
    f"{package}.{one.module.rpartition('.')[2]}": one.module
    for package, name in MODULES.items()
    for one in IMPORTS[name]
    if name.endswith("__init__.py") and one.place != "function" and one.module.startswith("cait_viz.")
}


def source(module):
    """The file of the package in which an imported name is defined, or None."""
    for beginning in beginnings(module, "."):
        if beginning in MODULES:
            return MODULES[beginning]
        if beginning in HANDED_ON:
            return source(HANDED_ON[beginning])
    return None


def sources(name, *places):
    """The files of the package that a file imports."""
    wanted = (one.module for one in IMPORTS[name] if not places or one.place in places)
    return {file for file in map(source, wanted) if file}


def row(name, table):
    """The innermost part of a file's path that has a row in a table, or None."""
    return next((place for place in beginnings(name.removesuffix(".py"), "/") if place in table), None)


def place(name):
    """The folder that a file stands in, or the file itself beside them."""
    return name.partition("/")[0].removesuffix(".py")


def reached(files, follow):
    """These files and all that they lead to."""
    seen, ahead = set(), set(files)
    while ahead:
        file = ahead.pop()
        seen.add(file)
        ahead |= follow(file) - seen
    return seen


def heavy(name):
    """Whether importing a file imports a heavy library, itself or through what it imports at its top."""
    files = reached({name}, lambda file: sources(file, "top"))
    return any(one.place == "top" and package(one) in HEAVY for file in files for one in IMPORTS[file])


def package(one):
    return one.module.partition(".")[0]


def packages(name):
    return set(map(package, IMPORTS[name]))


@pytest.mark.parametrize("name", IMPORTS)
def test_a_file_imports_what_its_folder_may(name):
    assert row(name, RULES), "a new folder needs a rule"
    places = ("top", "function") if name == "__init__.py" else ()  # as types it has the public names
    allowed = RULES[row(name, RULES)] | HELPERS | {place(name)}
    assert set(map(place, sources(name, *places))) <= allowed


@pytest.mark.parametrize("name", FILES)
def test_no_import_goes_in_a_circle_not_even_within_a_function_or_for_types(name):
    assert name not in reached(sources(name), sources)


@pytest.mark.parametrize("name", IMPORTS)
def test_a_library_is_imported_where_it_may_be(name):
    def found(library, *places):
        return {
            one
            for one in IMPORTS[name]
            if f"{one.module}.".startswith(f"{library}.") and (not places or one.place in places)
        }

    for library, places in MAY_IMPORT.items():
        assert row(name, places) or not found(library)
    for library in HEAVY:
        assert row(name, MAY_IMPORT_AT_ONCE.get(library, ())) or not found(library, "top", "types")


@pytest.mark.parametrize("name", IMPORTS)
def test_what_imports_nothing_heavy_itself_does_so_through_no_other_file_and_no_package_does(name):
    if name.endswith("__init__.py") or not row(name, MAY_IMPORT_AT_ONCE["keras"]):
        assert not heavy(name)


@pytest.mark.parametrize(
    ("text", "module"),
    [
        ("from cait_viz import analyze", "api"),
        ("def f():\n    from cait_viz import Analysis as Result", "results/analysis"),
        ("import cait_viz as c\ndef f():\n    return c.load_model()", "api"),
        ("from cait_viz import training\ntraining.finetune", "training/api"),
        ("from cait_viz.training import Stage, distil", "training/api"),
        ("import importlib\nimportlib.import_module('cait_viz.api')", "api"),
        ("from importlib import import_module\nimport_module('cait_viz.model.cait')", "model/cait"),
        ("__import__('cait_viz.serving.state')", "serving/state"),
    ],
)
def test_an_import_is_seen_however_it_is_written(text, module):
    assert f"{module}.py" in {source(one.module) for one in imports(text)}


@pytest.mark.parametrize(
    "name", [name for name in FILES if place(name) in ("images", "attention", "drawing")]
)
def test_reading_and_drawing_know_numpy_pillow_matplotlib_and_httpx2_and_no_other_library(name):
    assert packages(name) <= LIGHT | {"cait_viz", *sys.stdlib_module_names}


@pytest.mark.parametrize("name", [name for name in IMPORTS if row(name, {"app", "serving/page"})])
def test_the_page_holds_no_arithmetic(name):
    assert "numpy" not in packages(name)


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
from cait_viz.results.analysis import ModelInfo
from cait_viz.images.preprocess import prepare, seen_box

for module in sys.argv[2:]:
    importlib.import_module(module)
picture = cait_viz.read_image(sys.argv[1])
prepare(sys.argv[1], 64)
analysis = cait_viz.Analysis(
    image=np.asarray(picture), image_name="photo.png", file_sha256="0" * 64,
    model=ModelInfo("mine", "mine.safetensors", "0" * 64, 0, 64, 16, 64), view="crop",
    box=seen_box(picture.size, 64, "crop"), labels=("a", "b"),
    probabilities=np.full(2, 0.5, np.float32), logits=np.zeros(2, np.float32),
    class_attention={"ca_ffn_block_0_att": np.full((2, 17), 1 / 17, np.float32)},
)
analysis.png(), analysis.archive(), analysis.npz(), analysis.figure("heads", "svg")
print(json.dumps(sorted(sys.modules)))
"""
    apart = {"__init__", "__main__", "serving/page"}
    light = [module for module, name in MODULES.items() if not heavy(name) and not row(name, apart)]
    assert len(light) > 25
    modules = set(json.loads(run_python(script, tmp_path / "photo.png", *light)[0]))
    assert not modules & {*HEAVY, "streamlit", "matplotlib.pyplot"}
