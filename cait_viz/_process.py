"""Run a module of this program in a process of its own, for what must not enter this one."""

import os
import subprocess
import sys
from pathlib import Path

from cait_viz._text import one_line
from cait_viz.errors import CaitVizError


def run_module(name: str, *arguments: str, **environment: str) -> None:
    """Run it and wait for it.

    Args:
        name: the module, with dots. A refusal is a sentence on its standard output and another status than 0.
        *arguments: its command line.
        **environment: variables that it gets beside this process's.

    Raises:
        CaitVizError: it refused, or died.
        OSError: it cannot be started.
    """
    root = str(Path(__file__).resolve().parents[1])
    search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", name, *arguments],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
        env=os.environ | {"PYTHONPATH": search, "TF_CPP_MIN_LOG_LEVEL": "3"} | environment,
    )
    if done.returncode:
        last = done.stderr.strip().rpartition("\n")[2] or f"exit status {done.returncode}"
        reason = done.stdout.strip() or f"the process that ran {name} died ({last})"
        raise CaitVizError(one_line(reason, 600))
