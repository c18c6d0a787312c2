"""What is delivered: pins, the files of the wheel, the Dockerfile, the commands of the README."""

import ast
import json
import re
import shlex
import socket
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from hatchling.builders.sdist import SdistBuilder
from hatchling.builders.wheel import WheelBuilder
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import cait_viz
from cait_viz import _resources as resources
from cait_viz.cli.main import main

ROOT = Path(cait_viz.__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
TEXT = (".py", ".js", ".css", ".md", ".toml", ".txt", ".json", ".cff")
LARGEST = 30 * 2**20

# What a person would meet, were the pins of one of these kinds of machine to lack something.
MACHINES = [
    {"sys_platform": "linux", "platform_machine": "x86_64"},
    {"sys_platform": "linux", "platform_machine": "aarch64"},
    {"sys_platform": "darwin", "platform_machine": "arm64"},
    {"sys_platform": "win32", "platform_machine": "AMD64"},
]


def requirements(lines):
    """The requirements of some lines, without comments."""
    return [Requirement(line) for line in lines if line and not line.lstrip().startswith("#")]


def pins(name, machine):
    """The versions, by project, that a file of requirements pins for a kind of machine."""
    found = {}
    for requirement in requirements((ROOT / name).read_text().splitlines()):
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        if requirement.marker is None or requirement.marker.evaluate(machine):
            assert canonicalize_name(requirement.name) not in found, requirement
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


@pytest.fixture(scope="module")
def tracked():
    """The files under version control, or all of them where this is no clone."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a clone")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The wheel's path; it is built from the source distribution, which so has all that it takes."""
    folder = tmp_path_factory.mktemp("built")
    (archive,) = SdistBuilder(str(ROOT)).build(directory=str(folder))
    with tarfile.open(archive) as file:
        file.extractall(folder, filter="data")
    (wheel,) = WheelBuilder(archive.removesuffix(".tar.gz")).build(
        directory=str(folder), versions=["standard"]
    )
    return Path(wheel)


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_the_pins_have_a_version_in_range_for_every_dependency(machine):
    pinned = pins("requirements.txt", machine)
    needed = [
        wish
        for wish in requirements(PROJECT["dependencies"])
        if not wish.marker or wish.marker.evaluate(machine)
    ]
    assert {canonicalize_name(wish.name) for wish in needed} <= set(pinned)
    assert [str(wish) for wish in needed if pinned[canonicalize_name(wish.name)] not in wish.specifier] == []


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_just_one_tensorflow_is_pinned_for_a_machine(machine):
    has_cpu_wheel = machine["sys_platform"] == "win32" or machine["platform_machine"] == "x86_64"
    expected = {"tensorflow-cpu"} if has_cpu_wheel else {"tensorflow"}
    assert {"tensorflow", "tensorflow-cpu"} & set(pins("requirements.txt", machine)) == expected


@pytest.mark.parametrize("machine", MACHINES, ids=lambda machine: "-".join(machine.values()))
def test_both_files_of_pins_agree(machine):
    run, test = (pins(name, machine) for name in ("requirements.txt", "requirements-dev.txt"))
    assert {name: test[name] for name in run.keys() & test.keys()} == {
        name: run[name] for name in run.keys() & test.keys()
    }


@pytest.mark.parametrize(
    "tool",
    ["pytest", "hypothesis", "ruff", "mypy", "playwright", "hatchling", "pillow-heif", "torch", "mkdocs"],
)
def test_running_the_app_installs_no_tool_of_the_tests(tool):
    assert all(tool not in pins("requirements.txt", machine) for machine in MACHINES)


def test_every_package_that_is_imported_is_declared():
    imported = set()
    for path in [*(ROOT / "cait_viz").rglob("*.py"), ROOT / "app.py"]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                imported.add(node.module.partition(".")[0])
    distributions = packages_distributions()
    foreign = imported - set(sys.stdlib_module_names) - {"cait_viz"}
    wishes = [*PROJECT["dependencies"], *chain.from_iterable(PROJECT["optional-dependencies"].values())]
    declared = {canonicalize_name(wish.name) for wish in requirements(wishes)}
    undeclared = {
        name
        for name in foreign
        if not declared & {canonicalize_name(d) for d in distributions.get(name, [name])}
    }
    assert undeclared == set()


def test_every_file_that_the_program_names_is_there():
    for path in (resources.APP, resources.BUNDLED_WEIGHTS, resources.IMAGENET_LABELS, resources.SAMPLES):
        assert path.exists()
    assert resources.ROOT == ROOT, "cait_viz/_bundle is for wheels; in a checkout it would hide the files"


def test_every_sample_is_there_with_its_licence():
    samples = json.loads((resources.SAMPLES / "samples.json").read_text(encoding="utf-8"))
    assert len(samples) >= 6
    for sample in samples:
        assert (resources.SAMPLES / sample["file"]).is_file()
        assert sample["license"]
        assert sample["license_url"].startswith("https://")
        assert sample["source"].startswith("https://")
    images = {path.name for path in resources.SAMPLES.glob("*.jpg")}
    assert images == {sample["file"] for sample in samples}


def test_no_file_is_too_large_to_keep_in_git(tracked):
    assert [path.name for path in tracked if path.stat().st_size > LARGEST] == []


def test_text_ends_its_lines_as_unix_does(tracked):
    assert [path.name for path in tracked if path.suffix in TEXT and b"\r\n" in path.read_bytes()] == []


def test_the_wheel_holds_all_that_the_program_names(built):
    with zipfile.ZipFile(built) as wheel:
        names = {name for name in wheel.namelist() if not name.startswith("cait_viz-")}
    beside = [ROOT / "app.py", ROOT / ".streamlit" / "config.toml"]
    beside += [path for path in (ROOT / "assets").rglob("*") if path.is_file()]
    expected = {f"cait_viz/_bundle/{path.relative_to(ROOT).as_posix()}" for path in beside}
    code = [path for path in (ROOT / "cait_viz").rglob("*") if path.suffix in (".py", ".js", ".css")]
    expected |= {path.relative_to(ROOT).as_posix() for path in code}
    assert names == expected


def test_an_installed_wheel_finds_its_own_files(built, tmp_path, run_python):
    with zipfile.ZipFile(built) as wheel:
        wheel.extractall(tmp_path)
    script = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from cait_viz import _resources as r; from cait_viz.weights import labels\n"
        "print(r.APP, r.BUNDLED_WEIGHTS.stat().st_size, len(labels.class_names(1000)), sep='\\n')"
    )
    app, size, classes = run_python(script, tmp_path)[0].split("\n")[:3]
    assert Path(app) == tmp_path / "cait_viz" / "_bundle" / "app.py"
    assert int(size) == resources.BUNDLED_WEIGHTS.stat().st_size
    assert int(classes) == 1000


def test_the_version_is_the_same_everywhere(built):
    assert f"-{cait_viz.__version__}-" in built.name
    assert f"\nversion: {cait_viz.__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\n## [{cait_viz.__version__}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


# Starts the app as `streamlit run` does, up to where its server would begin, and prints its settings.
SETTINGS_OF_THE_APP = """
import json, sys
from streamlit import get_option
from streamlit.web import bootstrap, cli
names = sys.argv[2:]
bootstrap.run_asgi_app = lambda *_, **__: print(json.dumps({name: get_option(name) for name in names}))
cli.main(["run", sys.argv[1]])
"""


def test_the_app_keeps_to_itself_from_any_folder(tmp_path):
    wanted = {
        "server.address": "localhost",
        "server.maxUploadSize": 20,
        "server.enableXsrfProtection": True,
        "browser.gatherUsageStats": False,
        # Set, so that Streamlit does not ask a server elsewhere for this machine's public address.
        "browser.serverAddress": "localhost",
    }
    command = [sys.executable, "-c", SETTINGS_OF_THE_APP, resources.APP, *wanted]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    assert json.loads(done.stdout) == wanted


@pytest.fixture(scope="module")
def dockerfile():
    """The arguments of the Dockerfile's instructions, in their order, by the instruction's name."""
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    found = {}
    for line in re.sub(r"^#.*\n|\\\n\s*", "", text, flags=re.MULTILINE).splitlines():
        name, _, argument = line.partition(" ")
        found.setdefault(name, []).append(argument)
    return found


def test_the_image_is_made_of_files_that_are_there_and_no_others_reach_the_engine(dockerfile):
    sources = {source for argument in dockerfile["COPY"] for source in argument.split()[:-1]}
    assert [source for source in sources if not (ROOT / source).exists()] == []
    rules = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert "*" in rules
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == sources


def test_the_image_installs_what_the_makefile_installs_and_does_not_run_as_root(dockerfile):
    install, _, compile_all, export = dockerfile["RUN"]
    assert main(shlex.split(export)[3:]) == 0
    assert install.startswith("pip install ")
    assert install.removeprefix("pip install ") in (ROOT / "Makefile").read_text(encoding="utf-8")
    assert all((ROOT / source).exists() for source in compile_all.partition("-q ")[2].split())
    assert dockerfile["USER"][0] not in ("root", "0")


@pytest.mark.parametrize("options", [[], ["--", "--server.baseUrlPath", "/cait"]])
def test_what_the_image_starts_becomes_healthy(dockerfile, environment, tmp_path, options):
    entrypoint, command = (json.loads(dockerfile[name][0]) for name in ("ENTRYPOINT", "CMD"))
    probe = json.loads(dockerfile["HEALTHCHECK"][0].partition("CMD ")[2])
    (port,) = dockerfile["EXPOSE"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        other = str(free.getsockname()[1])
    here = {"python": sys.executable, "0.0.0.0": "127.0.0.1", port: other}
    start = [here.get(word, word) for word in (*entrypoint, *command, *options)]
    ask = [here.get(word, word.replace(port, other)) for word in probe]
    assert other in start
    server = subprocess.Popen(start, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL)
    try:
        while subprocess.run(ask, stderr=subprocess.DEVNULL, check=False).returncode:
            assert server.poll() is None
            time.sleep(0.5)
    finally:
        server.terminate()
        server.wait()


def test_every_command_of_the_readme_is_one(capsys):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```.*?\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^cait-viz (.*)$", "".join(blocks), re.MULTILINE)
    assert len(commands) >= 5
    for command in commands:
        # With an option that is none, nothing is run; any other fault would be reported in its place.
        assert main([*shlex.split(command, comments=True), "--no-such-option"]) == 2
        assert "--no-such-option" in capsys.readouterr().err, command


def test_every_file_that_the_readme_names_is_there():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", readme)
    assert [link for link in links if not (ROOT / link).exists()] == []
    targets = set(re.findall(r"^make ([a-z-]+)", readme, re.MULTILINE))
    assert targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
