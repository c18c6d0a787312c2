"""The app in a browser: a server started as a person starts it, and visitors of its page."""

import contextlib
import io
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from PIL import Image

from cait_viz._resources import SAMPLES
from cait_viz.weights.registry import BUNDLED

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None
)
# Silent on the network, and able to run in a container.
ARGUMENTS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
]  # fmt: skip

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
# The last thing on the page; where it stands the rest does too.
LAST = "What you are looking at"
MAPS = 'img[alt^="Where "]'
# Milliseconds. A model that has to be loaded takes seconds, on a busy machine many.
PATIENCE = 90_000


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextlib.contextmanager
def started(folder, environment, *arguments, hub=None, base=""):
    """`cait-viz app` with these arguments, run in that folder; without a hub, none is within reach.

    `base` is the path under which it answers, such as "/cait".
    """
    port = free_port()
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "cait_viz", "app", "--port", str(port), "--host", "127.0.0.1", *arguments,
             *(("--", "--server.baseUrlPath", base) if base else ())],
            cwd=folder,
            env=environment | hub_environment(folder, hub or f"http://127.0.0.1:{free_port()}"),
            stdout=log,
            stderr=log,
        )  # fmt: skip
    process.log, process.url = folder / "log", f"http://127.0.0.1:{port}{base}"
    try:
        wait_until_healthy(process)
        yield process
    finally:
        process.terminate()
        process.wait(30)


def hub_environment(folder, endpoint):
    """An empty cache, and the hub's address."""
    return {
        "HF_HOME": str(folder),
        "HF_ENDPOINT": endpoint,
        "no_proxy": "127.0.0.1,localhost",
    }


def wait_until_healthy(process):
    for _ in range(240):
        if process.poll() is not None:
            pytest.fail(f"the app ended at once: {process.log.read_text()}")
        try:
            with urllib.request.urlopen(f"{process.url}/_stcore/health", timeout=5):
                return
        except OSError:
            time.sleep(0.25)
    pytest.fail("the app did not answer within a minute")


class Visitor:
    """One person at the page, with a browser session of their own.

    Of a context that was used before, only the cache of the server's files is left.
    """

    def __init__(self, browser, url, context=None, **options):
        self.url = url
        self.complaints, self.outside, self.runs = [], [], 0
        self.context = context or browser.new_context(**{"viewport": WIDE} | options)
        self.page = self.context.new_page()
        stored = {"origin": url, "storageTypes": "all"}
        self.context.new_cdp_session(self.page).send("Storage.clearDataForOrigin", stored)
        self.page.set_default_timeout(PATIENCE)
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", self._request)
        self.page.on("websocket", lambda socket: socket.on("framereceived", self._frame))

    def _console(self, message):
        if message.type == "error":
            self.complaints.append(message.text)

    def _request(self, request):
        if not request.url.startswith((self.url, "data:", "blob:")):
            self.outside.append(request.url)

    def _frame(self, frame):
        """Count the runs of the script: the server tells the page when one has ended."""
        from streamlit.proto.ForwardMsg_pb2 import ForwardMsg

        message = ForwardMsg()
        message.ParseFromString(frame)
        self.runs += message.WhichOneof("type") == "script_finished"

    def open(self, address=""):
        self.page.goto(f"{self.url}/{address}")
        self.settle()
        return self

    def open_until(self, address, button):
        """Open an address at which that button is the last to come."""
        self.page.goto(f"{self.url}/{address}")
        self.page.get_by_role("button", name=button).wait_for()
        self.rest()

    def settle(self):
        """Wait until the page is whole: every kind of element comes in a file of its own."""
        self.page.get_by_text(LAST).wait_for()
        self.page.locator(MAPS).nth(BUNDLED.config.ca_ffn_layers * (BUNDLED.config.num_heads + 1)).wait_for()
        self.rest()

    def rest(self):
        # Streamlit loads the code of a kind of widget when it first meets one; a gray box stands there.
        self.page.wait_for_function(
            "document.querySelector('[data-testid=stApp]').dataset.testScriptState === 'notRunning'"
            " && !document.querySelector('[data-testid=stSkeleton]')"
        )

    def after(self, action):
        """Do something that runs the script, and wait until it has run."""
        before = self.runs
        action()
        while self.runs == before:
            self.page.wait_for_timeout(20)
        self.rest()

    def upload(self, name, content):
        file = {"name": name, "mimeType": "image/png", "buffer": content}
        self.after(lambda: self.page.locator("input[type=file]").set_input_files(file))

    def choose(self, label, option):
        def pick():
            box = self.page.get_by_role("combobox", name=label, exact=True)
            box.scroll_into_view_if_needed()  # a list that is open closes when the page moves
            self.calm(box.bounding_box)
            box.click()
            self.page.get_by_role("option", name=option, exact=True).click()

        self.after(pick)

    def take_sample(self, slug):
        self.after(self.page.locator(f"input[value={slug}] + img").click)

    def take_head(self, block, head):
        """Click on the small map of a head, both counted from 0; the head may be "mean"."""
        self.after(self.page.locator(f"input[value='{block}_{head}'] + img").click)

    def press(self, name):
        self.after(self.page.get_by_role("radio", name=name, exact=True).click)

    def download(self, label):
        """(file name, content) of what a button gives."""
        with self.page.expect_download() as download:
            self.page.get_by_role("button", name=label).click()
        return download.value.suggested_filename, Path(download.value.path()).read_bytes()

    @property
    def maps(self):
        """The texts in place of the maps, the large one's first."""
        alts = "images => images.map(image => image.alt)"
        return self.calm(lambda: self.page.locator(MAPS).evaluate_all(alts))

    @property
    def notices(self):
        """The sentences that stand out."""
        return self.calm(self.page.locator(".notice").all_inner_texts)

    def calm(self, read):
        """What can be read from the page, once it has stopped to change: it is drawn after it has come."""
        before = read()
        while True:
            self.page.wait_for_timeout(150)
            now = read()
            if now == before:
                return now
            before = now


def photograph(name, size):
    """A photograph that is none of the samples: a part of one, as a PNG."""
    with Image.open(SAMPLES / name) as picture:
        file = io.BytesIO()
        picture.convert("RGB").crop((20, 10, 20 + size[0], 10 + size[1])).save(file, "PNG")
    return file.getvalue()
