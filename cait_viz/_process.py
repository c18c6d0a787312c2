"""Run a module of this program in a process of its own, for what must not enter this one."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from cait_viz._text import one_line
from cait_viz.errors import CaitVizError, CheckpointError, ProcessDiedError

# The exit status of a process that says on its standard output why it refuses.
_REFUSED = 3


def run_module(name: str, *arguments: str) -> None:
    """Run it and wait for it.

    Args:
        name: the module, with dots. It does its work in `status_of`.
        *arguments: its command line.

    Raises:
        CheckpointError: it refused what it was given.
        ProcessDiedError: it died.
        OSError: it cannot be started.
    """
    root = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        # -P: nothing is imported from the folder in which a person happens to be.
        [sys.executable, "-P", "-m", name, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"PYTHONPATH": search, "TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    if done.returncode == _REFUSED and done.stdout.strip():
        raise CheckpointError(one_line(done.stdout, 600))
    if done.returncode:
        reason = done.stderr.strip().rpartition("\n")[2] or f"status {done.returncode}"
        raise ProcessDiedError(f"the process that ran {name} died ({one_line(reason, 300)})")


def status_of(work: Callable[..., object], *arguments: str) -> int:
    """Do the work of a module that `run_module` runs; gives its exit status, and prints why it refuses."""
    try:
        work(*arguments)
    except CaitVizError as error:
        print(error)
        return _REFUSED
    return 0
