"""Time the page as a person meets it, in headless Chromium, and watch the server's memory.

    python benchmarks/page.py [--rounds N] [--images N]
    python benchmarks/page.py --screenshot docs/screenshot.png

- Start: from starting the program to the first analyzed image in the browser.
- Image: from handing over a new image (640 × 480 noise, JPEG) to its map on the page.
- Script: how long the script runs after a new block, head or color, without the browser.
- Memory: of the server and of what it started after 20 images and after N.

With --screenshot nothing is measured: it keeps the first screen.
"""

import argparse
import io
import os
import resource
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from PIL import Image
from playwright.sync_api import Error, FilePayload, Page, ViewportSize, sync_playwright
from streamlit.testing.v1 import AppTest

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
# Stands on the page as soon as an image is analyzed, and not before.
ANALYZED = "Every head"
PATIENCE = 60_000  # milliseconds
SETTLED = 20  # images, after which memory should grow no more
# A laptop's window.
WINDOW: ViewportSize = {"width": 1440, "height": 900}


@contextmanager
def server() -> Iterator[tuple[int, str]]:
    """The app's process and address."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cait_viz", "app", "--port", str(port)]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        yield process.pid, f"http://localhost:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


@contextmanager
def page() -> Iterator[Page]:
    """A browser's page."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--disable-gpu"])
        yield browser.new_page()
        browser.close()


def open_page(page: Page, address: str) -> None:
    """Open the app, trying until it answers, and wait for the first analyzed image."""
    while True:
        with suppress(Error):  # refused
            page.goto(address)
            break
        time.sleep(0.05)
    page.get_by_text(ANALYZED).wait_for(timeout=PATIENCE)


def image(number: int) -> bytes:
    """A JPEG file that is like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def upload(page: Page, number: int) -> float:
    """Seconds from handing over an image to its map on the page."""
    name = f"noise {number}.jpg"
    payload: FilePayload = {"name": name, "mimeType": "image/jpeg", "buffer": image(number)}
    start = time.perf_counter()
    page.locator("input[type=file]").first.set_input_files(payload)
    page.locator(f'img[alt*="{name}: class-attention"]').first.wait_for(timeout=PATIENCE)
    return time.perf_counter() - start


def resident(pid: int) -> int:
    """Megabytes of memory that a process holds."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * resource.getpagesize() // 2**20


def family(pid: int) -> list[int]:
    """A process and all that it started."""
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    children = {int(child) for path in lists for child in path.read_text().split()}
    return [pid, *(member for child in children for member in family(child))]


def memory(pid: int) -> str:
    """What the server and what its other processes hold."""
    server, *others = map(resident, family(pid))
    return f"server {server} MB, its processes {sum(others)} MB"


def report(what: str, times: list[float]) -> None:
    """One line of figures."""
    slowest = f"slowest {max(times):.2f} s"
    print(f"{what}: median {statistics.median(times):.2f} s of {len(times)} ({slowest})", flush=True)


def report_scripts(rounds: int) -> None:
    """Time a rerun of the script after a new block, head, color."""
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=120).run()
    colors = ("viridis", "cividis", "magma")
    changes: dict[str, Callable[[int], object]] = {
        "block": lambda number: app.button_group(key="block").set_value(number % 2),
        "head": lambda number: app.selectbox(key="head").set_value(number % 4),
        "color": lambda number: app.selectbox(key="colormap").set_value(colors[number % 3]),
    }
    for what, change in changes.items():
        times = []
        for number in range(rounds):
            change(number)
            start = time.perf_counter()
            app.run()
            times.append(time.perf_counter() - start)
        report(f"script after a new {what}", times)


def take_screenshot(path: str) -> None:
    """Keep the first screen as a PNG file."""
    with server() as (_, address), page() as browser:
        browser.set_viewport_size(WINDOW)
        open_page(browser, address)
        browser.wait_for_load_state("networkidle")  # the images are there too
        browser.screenshot(path=path)


def measure(rounds: int, images: int) -> None:
    """Measure and print."""
    starts = []
    with page() as browser:
        for _ in range(rounds):
            begin = time.perf_counter()
            with server() as (_, address):
                open_page(browser, address)
                starts.append(time.perf_counter() - begin)
        report("start to first analyzed image", starts)
        with server() as (pid, address):
            open_page(browser, address)
            times = []
            for number in range(images):
                times.append(upload(browser, number))
                if number + 1 in (SETTLED, images):
                    print(f"memory after {number + 1} images: {memory(pid)}", flush=True)
            report("new image", times)
    report_scripts(4 * rounds)


def main() -> None:
    """Read the arguments and do what they ask."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--screenshot", metavar="PNG", help="take the README's screenshot instead")
    arguments = parser.parse_args()
    if arguments.screenshot:
        take_screenshot(arguments.screenshot)
    else:
        measure(arguments.rounds, arguments.images)


if __name__ == "__main__":
    main()
