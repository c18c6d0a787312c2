"""Time whole processes of the command line, as a person waits for them.

    python benchmarks/startup.py [--rounds N]

Prints the median and slowest seconds of `cait-viz --help`, of `cait-viz predict` with an empty cache, as
after the installation, and with the network exported before, and the memory of the largest process.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
PREDICT = ["predict", str(ROOT / "assets" / "samples" / "cat.jpg")]


def run(words: list[str], cache: str) -> float:
    """Seconds of one process, whose cache is that folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": cache}
    start = time.perf_counter()
    command = [sys.executable, "-m", "cait_viz", *words]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Read the arguments and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    seconds: dict[str, list[float]] = {"--help": [], "predict, first": [], "predict, later": []}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            seconds["--help"].append(run(["--help"], cache))
            seconds["predict, first"].append(run(PREDICT, cache))
            seconds["predict, later"].append(run(PREDICT, cache))
    print("| process | median | slowest |\n|---|---|---|")
    for name, times in seconds.items():
        print(f"| {name} | {statistics.median(times):.2f} s | {max(times):.2f} s |")
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(f"\nLargest process: {peak / 1000:.0f} MB.")


if __name__ == "__main__":
    main()
