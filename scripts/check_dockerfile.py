"""Run the Dockerfile's own steps without a container engine, and see the app healthy with no network.

    python scripts/check_dockerfile.py          (Linux, as root; 3 GB of room in the temporary folder)

An overlay on this machine's files stands in for the base image, with a fresh Python environment in the
place of the image's Python; everything that is written goes to a temporary folder. The steps are read
from the Dockerfile, COPY takes only what .dockerignore leaves, RUN runs in the overlay, and the program
then starts as the image's user where there is no network at all. What is not shown: that the base image
itself has all that the steps take from it.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BASE_IMAGE = "python:3.11-slim"
# The stand-in for the image's Python, and where the one it is made of may lie: not in somebody's home.
PYTHON = "/opt/image-python"
SYSTEM_PATH = "/usr/local/bin:/usr/bin"
# What a build is told and the image is not: proxies, and an index of packages of this machine's own.
BUILD_ENVIRONMENT = [
    f"{name}={value}"
    for name, value in os.environ.items()
    if name.lower().endswith("_proxy") or name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_CERT")
]
SAMPLE = "assets/samples/cat.jpg"
# Seconds: in which the app has to be healthy; and to end, after which Docker would kill it.
PATIENCE, GRACE = 60, 10


def instructions(dockerfile: str) -> Iterator[tuple[str, str]]:
    """The (name, argument) of each instruction, its lines joined, without comments."""
    lines = [line for line in dockerfile.splitlines() if not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            name, _, argument = line.strip().partition(" ")
            yield name.upper(), argument.strip()


def context(root: Path) -> list[Path]:
    """The files, relative to `root`, that .dockerignore hands to the engine."""
    rules = [line for line in (root / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
    offered = []
    for place, folders, names in os.walk(root):
        here = Path(place).relative_to(root)
        # No rule of ours takes back what lies in a folder that is left out; .venv is large.
        folders[:] = [name for name in folders if not _ignored(here / name, rules)]
        offered += [here / name for name in names if not _ignored(here / name, rules)]
    return offered


def _ignored(path: Path, rules: list[str]) -> bool:
    """Whether the last rule that names the file, or a folder it lies in, leaves it out."""
    names = [path.as_posix(), *(parent.as_posix() for parent in path.parents[:-1])]
    ignored = False
    for rule in rules:
        pattern = rule.removeprefix("!")
        # `**/x` is an x at any depth; any other pattern is told from the root, and * stays in a folder.
        if pattern.startswith("**/"):
            hit = any(fnmatchcase(Path(name).name, pattern[3:]) for name in names)
        else:
            hit = any(fnmatchcase(name, pattern) and name.count("/") == pattern.count("/") for name in names)
        if hit:
            ignored = not rule.startswith("!")
    return ignored


@dataclass
class Image:
    """What the steps have made so far."""

    files: Path
    environment: dict[str, str] = field(default_factory=dict)
    workdir: str = "/"
    user: str = "root"
    settings: dict[str, str] = field(default_factory=dict)

    def command(self, *arguments: str, user: str | None = None) -> list[str]:
        """What runs a command inside, with the image's environment and nothing of this one's."""
        user = user or self.user
        home = "/root" if user == "root" else f"/home/{user}"
        variables = {"HOME": home, "PATH": f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin", **self.environment}
        return [
            *("chroot", f"--userspec={user}:{user}", str(self.files)),
            *("env", "--ignore-environment", f"--chdir={self.workdir}"),
            *(f"{name}={value}" for name, value in variables.items()),
            *arguments,
        ]


def run_step(image: Image, name: str, argument: str) -> None:
    """Do one instruction.

    Raises:
        SystemExit: it is not known here, or it has failed.
    """
    if name == "FROM":
        if argument != BASE_IMAGE:
            sys.exit(f"FROM {argument}: this script stands in for {BASE_IMAGE}")
    elif name == "ENV":
        image.environment |= dict(word.split("=", 1) for word in shlex.split(argument))
    elif name == "WORKDIR":
        image.workdir = argument
        _inside(image, argument).mkdir(parents=True, exist_ok=True)
    elif name == "USER":
        image.user = argument
    elif name == "COPY":
        *sources, target = argument.split()
        for source in sources:
            _copy(image, source, target)
    elif name == "RUN":
        subprocess.run(image.command("env", *BUILD_ENVIRONMENT, "/bin/sh", "-c", argument), check=True)
    elif name in ("VOLUME", "EXPOSE", "HEALTHCHECK", "ENTRYPOINT", "CMD"):
        image.settings[name] = argument
    else:
        sys.exit(f"{name}: this script does not know that instruction")


def _inside(image: Image, path: str) -> Path:
    return image.files / Path(image.workdir, path).relative_to("/")


def _copy(image: Image, source: str, target: str) -> None:
    """Copy a file into the folder `target`, or a folder's content to it."""
    chosen = [path for path in context(ROOT) if path.is_relative_to(source)]
    if not chosen:
        sys.exit(f"COPY {source}: .dockerignore leaves nothing of it")
    for path in chosen:
        relative = path.relative_to(source) if (ROOT / source).is_dir() else Path(path.name)
        place = _inside(image, target) / relative
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / path, place)


def build(folder: Path) -> Image:
    """Do all the Dockerfile's steps in `folder`, on an overlay that only this process sees."""
    image = Image(folder / "root")
    layers = f"lowerdir=/,upperdir={folder / 'written'},workdir={folder / 'work'}"
    subprocess.run(["mount", "-t", "overlay", "overlay", "-o", layers, image.files], check=True)
    for mount in ("/proc", "/dev"):
        subprocess.run(["mount", "--rbind", mount, f"{image.files}{mount}"], check=True)
    # Nothing may come from the checkout but by COPY.
    subprocess.run(["mount", "-t", "tmpfs", "none", f"{image.files}{ROOT}"], check=True)
    python = shutil.which(BASE_IMAGE.removesuffix("-slim").replace(":", ""), path=SYSTEM_PATH)
    if python is None:
        sys.exit(f"{BASE_IMAGE}: no such Python in {SYSTEM_PATH} to stand in for it")
    subprocess.run(image.command(python, "-m", "venv", PYTHON), check=True)
    for name, argument in instructions((ROOT / "Dockerfile").read_text()):
        print(f"--- {name} {argument}", flush=True)
        run_step(image, name, argument)
    return image


def check(image: Image) -> None:
    """Start the program as the engine would, with no network.

    Raises:
        SystemExit: something does not hold.
    """
    entry, arguments = (json.loads(image.settings[name]) for name in ("ENTRYPOINT", "CMD"))
    health = json.loads(image.settings["HEALTHCHECK"].partition("CMD ")[2])
    alone = ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh"]
    begun = time.monotonic()
    server = subprocess.Popen([*alone, *image.command(*entry, *arguments)])
    try:
        beside = ["nsenter", "--net", f"--target={server.pid}"]
        probe = [*beside, *image.command(*health)]
        while subprocess.run(probe, stderr=subprocess.DEVNULL, check=False).returncode:
            if server.poll() is not None or time.monotonic() > begun + PATIENCE:
                sys.exit(f"not healthy after {time.monotonic() - begun:.0f} s")
            time.sleep(0.5)
        print(f"healthy after {time.monotonic() - begun:.1f} s")
        if Path(f"/proc/{server.pid}").stat().st_uid == 0:
            sys.exit("the server runs as root")
        cache = image.settings["VOLUME"]
        subprocess.run(image.command("test", "-w", cache, "-a", "!", "-w", image.workdir), check=True)
        subprocess.run([*beside, *image.command(*entry, "predict", SAMPLE)], check=True)
        begun = time.monotonic()
        server.terminate()
        server.wait(GRACE)
        print(f"ended {time.monotonic() - begun:.1f} s after it was told to")
    finally:
        server.kill()


def main() -> None:
    """Build and check in a mount namespace of its own, whose end unmounts everything."""
    if len(sys.argv) == 2:
        check(build(Path(sys.argv[1])))
        return
    if sys.platform != "linux" or os.geteuid() != 0:
        sys.exit("check_dockerfile.py: needs Linux and root, to mount an overlay that nobody else sees")
    with tempfile.TemporaryDirectory() as folder:
        for name in ("root", "written", "work"):
            Path(folder, name).mkdir()
        command = ["unshare", "--mount", sys.executable, __file__, folder]
        sys.exit(subprocess.run(command, check=False).returncode)


if __name__ == "__main__":
    main()
