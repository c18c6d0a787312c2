"""How the memory and the time of `cait-viz batch` follow the length of the list, here and on Ray.

    python benchmarks/lists.py [--images N,…] [--rows N,…] [--sides local,ray]

First whole runs, each a process of its own, on a list of files: small PNG files of 32 pixels, of which a
thousand differ and the rest are further names of theirs, and a tiny network, so that nearly all of the time
is spent outside the network. The memory is that of the process that reads the list and writes the rows, at
its peak: its own, and with what it shares with Ray's object store and the files that it has mapped. On Ray
(`--ray local`) two actors of one core each look at the images.

Then the writer by itself, with ready rows of the bundled network's width that come in an order of their own:
names and rows a second, bytes of each, and the memory.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image
from safetensors.numpy import save_file

DIFFERENT = 1000  # files, and names in a folder
ROWS, TOGETHER = 8192, 256  # different rows, and how many come together


def write_weights(path: Path) -> None:
    """A network that takes next to no time."""
    from cait_viz.model.config import CaiTConfig
    from cait_viz.model.timm_names import timm_tensors

    random = np.random.default_rng(0)
    config = CaiTConfig(
        image_size=32, projection_dim=48, sa_ffn_layers=1, ca_ffn_layers=1, num_heads=4, num_classes=10
    )
    tensors = timm_tensors(config).items()
    save_file({name: random.normal(0, 0.02, one.shape).astype("f") for name, one in tensors}, path)


def make_images(folder: Path, count: int) -> None:
    """Many names of a thousand files, a thousand in a folder."""
    random = np.random.default_rng(0)
    for start in range(0, count, DIFFERENT):
        place = folder / f"{start // DIFFERENT:04}"
        place.mkdir()
        for number in range(min(DIFFERENT, count - start)):
            path = place / f"{number:03}.png"
            if start:
                path.hardlink_to(folder / "0000" / path.name)
            else:
                Image.fromarray(random.integers(0, 256, (32, 32, 3), np.uint8)).save(path)


def memory(process: int) -> tuple[int, int]:
    """A process's own memory and all that it holds, in kB; nothing of one that has ended."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="ascii")
    except OSError:
        return 0, 0
    found = dict(re.findall(r"(RssAnon|VmRSS):\s*(\d+) kB", status))
    return int(found.get("RssAnon", 0)), int(found.get("VmRSS", 0))


def index_bytes() -> int:
    """The size of SQLite's temporary files of this process."""
    links = [link for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
    return sum(link.stat().st_size for link in links if "etilqs" in str(link.readlink()))


class Peak(threading.Thread):
    """Follows the own memory of a process until it ends, or until it is told to stop."""

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self.own = self.whole = 0
        self._process, self._end = process, threading.Event()
        self.start()

    def run(self) -> None:
        """Look again and again."""
        while not self._end.wait(0.02):
            own, whole = memory(self._process)
            self.own, self.whole = max(self.own, own), max(self.whole, whole)

    def stop(self) -> "Peak":
        """Look no more."""
        self._end.set()
        self.join()
        return self


def run(side: str, count: int, folder: Path) -> str:
    """A row of the table of whole runs."""
    images, weights = folder / f"{count}", folder / "tiny.safetensors"
    images.mkdir(exist_ok=True)
    if not any(images.iterdir()):
        make_images(images, count)
    with tempfile.TemporaryDirectory(dir=folder) as out:
        command = [sys.executable, "-m", "cait_viz", "batch", str(images), "-o", f"{out}/out"]
        command += ["--weights", str(weights), *(["--ray", "local"] if side == "ray" else [])]
        root = str(Path(__file__).parents[1])
        environment = os.environ | {"XDG_CACHE_HOME": str(folder), "PYTHONPATH": root}
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
        peak = Peak(process.pid)
        process.wait()
        peak.stop()
        taken = time.perf_counter() - begun
        if process.returncode:
            sys.exit(f"{side}, {count} images: status {process.returncode}")
    cells = [side, f"{count:,}", f"{taken:.0f} s", f"{count / taken:.0f}"]
    cells += [f"{peak.own / 1e3:.0f} MB", f"{peak.whole / 1e3:.0f} MB"]
    return f"| {' | '.join(cells)} |"


def write_rows(count: int) -> str:
    """A row of the table of the writer."""
    import pyarrow as pa

    from cait_viz.api import load_engine
    from cait_viz.batch.index import Index
    from cait_viz.batch.rows import Rows, Seen
    from cait_viz.batch.store import Store
    from cait_viz.engine.names import ca_keys

    engine = load_engine()
    rows, config, random = Rows(engine, 5), engine.config, np.random.default_rng(0)
    made = []
    for _ in range(ROWS):
        logits = random.normal(0, 3, config.num_classes).astype("f")
        shares = random.dirichlet(np.full(1 + config.num_patches, 0.1), (config.num_heads, 1)).astype("f")
        made.append(rows.row(Seen("", (640, 480)), logits, dict.fromkeys(ca_keys(config), shares)))
    ready = pa.Table.from_pylist(made, rows.schema).drop(["image"])
    del made
    names = (f"/data/photographs/{number // 1000:06}/{number % 1000:03}.jpg" for number in range(count))
    before = memory(os.getpid())[0]
    begun = time.perf_counter()
    index = Index(names)
    listed = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder) / "out", {}, rows.schema, index, resume=False)
        peak = Peak(os.getpid())
        missing = index.missing()
        while names_now := list(islice(missing, 8 * TOGETHER)):
            parts = [names_now[start : start + TOGETHER] for start in range(0, len(names_now), TOGETHER)]
            for part in reversed(parts):  # as actors are done, before one another
                table = ready.slice(random.integers(ROWS - TOGETHER), len(part))
                store.add(table.add_column(0, "image", pa.array(part)))
        store.flush()
        kept = time.perf_counter()
        on_disk = sum(path.stat().st_size for path in (Path(folder) / "out" / "unfinished").iterdir())
        store.finish()
        done = time.perf_counter()
        own = peak.stop().own
        size = (Path(folder) / "out" / "images.parquet").stat().st_size
        listing = index_bytes()
    rates = [f"{count / seconds:,.0f}" for seconds in (listed - begun, kept - listed, done - kept)]
    sizes = [f"{one / count:.0f}" for one in (listing, on_disk, size)] + [f"{(own - before) / 1e3:.0f} MB"]
    return f"| {' | '.join([f'{count:,}', *rates, *sizes])} |"


def main() -> None:
    """Print both tables."""

    def numbers(text: str) -> list[int]:
        return [int(number) for number in text.split(",") if number]

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--images", type=numbers, default=[10_000, 100_000])
    parser.add_argument("--rows", type=numbers, default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--sides", default="local,ray")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        print(write_rows(arguments.serve))
        return
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    print("| side | images | time | images a second | own memory | all memory |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_weights(Path(folder) / "tiny.safetensors")
        for side in arguments.sides.split(",") if arguments.images else ():
            for count in arguments.images:
                print(run(side, count, Path(folder)), flush=True)
    print()
    print(
        "| rows | names a second | rows a second, kept | … into the Parquet | bytes a name, listed | "
        "bytes a row, kept | … in the Parquet | memory |\n|---|---|---|---|---|---|---|---|"
    )
    for count in arguments.rows:
        subprocess.run([sys.executable, __file__, "--serve", str(count)], check=True)


if __name__ == "__main__":
    main()
