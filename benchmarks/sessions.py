"""Many visitors at once, each with images of their own: how long they wait, and whose image they see.

    python benchmarks/sessions.py [--sessions N] [--browsers N] [--rounds N] [--url ADDRESS]

Each session opens the page. Then, in each round, all hand over an image at the same moment (640 × 480 noise,
JPEG, no two alike): by Streamlit's own upload and websocket, whose messages the clients speak, or in headless
Chromium. A wait ends when the image's map and its classes are there. They are compared with what the network
says of that image by itself. The exit status is 1 where anything failed or another image was shown.

The app is started for it, unless the address of one that runs is given.
"""

import argparse
import asyncio
import base64
import html
import io
import json
import os
import re
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx2
import numpy as np
import psutil
import websockets
from PIL import Image
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.Element_pb2 import Element
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from streamlit.proto.WidgetStates_pb2 import WidgetState

import cait_viz
from cait_viz.drawing.figures import percent

if TYPE_CHECKING:
    from playwright.async_api import Browser, Page

ROOT = Path(__file__).parents[1]
CHROMIUM = "/usr/bin/chromium"
PATIENCE = 300  # seconds
# Mean difference of two images in gray levels from which on they are not the same, one of them a JPEG of the
# other; two of these noises differ by 80.
ANOTHER = 20


@dataclass
class Answer:
    """What a session was shown for an image, and when."""

    name: str
    content: bytes
    seconds: float = 0.0
    classes: list[tuple[str, str]] = field(default_factory=list)  # the first five, with their shares as text
    shown: Image.Image | None = None  # the photograph beside the map
    error: str = ""


class ProtocolSession:
    """A visitor who speaks Streamlit's protocol, without a browser.

    Args:
        url: of the page.
    """

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._http = httpx2.AsyncClient(trust_env=False, timeout=PATIENCE)
        self._socket: Any = None
        self._token = self._session = self._uploader = ""

    async def open(self) -> None:
        """Open the page, and wait until it is whole."""
        # The page's own script gets its token from here too.
        await self._http.get(f"{self._url}/_stcore/health")
        self._token = self._http.cookies["_streamlit_xsrf"]
        where = urlsplit(self._url)
        self._socket = await websockets.connect(
            f"ws://{where.netloc}{where.path}/_stcore/stream",
            subprotocols=["streamlit", self._token],  # type: ignore[list-item]
            additional_headers={"Cookie": f"_streamlit_xsrf={self._token}"},
            max_size=None,
            proxy=None,
        )
        message = BackMsg()
        message.rerun_script.SetInParent()
        await self._socket.send(message.SerializeToString())
        async for _ in self._run():
            pass

    async def give(self, name: str, content: bytes) -> Answer:
        """Hand over an image and wait for its map and its classes."""
        answer, began = Answer(name, content), time.perf_counter()
        await self._press(name, content)
        async for element in self._run():
            if element.WhichOneof("type") == "exception":
                answer.error = element.exception.message
            elif text := html_of(element):
                answer.error = answer.error or notice_in(text)
                answer.classes = classes_in(text) or answer.classes
            elif (pictures := pictures_in(element)) and name in pictures[1]["alt"]:
                answer.shown = opened(pictures[0]["image"])
            if answer.shown and answer.classes and not answer.seconds:
                answer.seconds = time.perf_counter() - began
        return answer

    async def close(self) -> None:
        """Leave the page."""
        await self._socket.close()
        await self._http.aclose()

    async def _press(self, name: str, content: bytes) -> None:
        """Upload a file and tell the script that it is there."""
        ask = BackMsg()
        ask.file_urls_request.request_id = name
        ask.file_urls_request.file_names.append(name)
        ask.file_urls_request.session_id = self._session
        await self._socket.send(ask.SerializeToString())
        async for message in self._messages():
            if message.WhichOneof("type") == "file_urls_response":
                [urls] = message.file_urls_response.file_urls
                break
        sent = await self._http.put(
            f"{self._url}{urls.upload_url}",
            files={"file": (name, content, "image/jpeg")},
            headers={"X-Xsrftoken": self._token},
        )
        sent.raise_for_status()
        state = WidgetState(id=self._uploader)
        state.file_uploader_state_value.uploaded_file_info.add(
            name=name, size=len(content), file_id=urls.file_id, file_urls=urls
        )
        press = BackMsg()
        press.rerun_script.widget_states.widgets.append(state)
        await self._socket.send(press.SerializeToString())

    async def _run(self) -> AsyncIterator[Element]:
        """What the script draws until it ends."""
        async for message in self._messages():
            kind = message.WhichOneof("type")
            if kind == "new_session":
                self._session = message.new_session.initialize.session_id
            elif kind == "delta" and message.delta.WhichOneof("type") == "new_element":
                element = message.delta.new_element
                if element.WhichOneof("type") == "file_uploader":
                    self._uploader = element.file_uploader.id  # another one after each upload
                yield element
            elif kind == "script_finished" and message.script_finished == ForwardMsg.FINISHED_SUCCESSFULLY:
                return

    async def _messages(self) -> AsyncIterator[ForwardMsg]:
        while True:
            message = ForwardMsg()
            message.ParseFromString(await asyncio.wait_for(self._socket.recv(), PATIENCE))
            yield message


class BrowserSession:
    """A visitor with a browser.

    Args:
        browser: that runs.
        url: of the page.
    """

    def __init__(self, browser: "Browser", url: str) -> None:
        self._browser, self._url = browser, url
        self._page: Page | None = None

    async def open(self) -> None:
        """Open the page, and wait until it is whole."""
        self._page = await (await self._browser.new_context()).new_page()
        self._page.set_default_timeout(1000 * PATIENCE)
        await self._page.goto(self._url)
        await self._page.get_by_text("What you are looking at").wait_for()

    async def give(self, name: str, content: bytes) -> Answer:
        """Hand over an image and wait for its map and its classes."""
        page, answer, began = self._page, Answer(name, content), time.perf_counter()
        assert page is not None
        before = await page.locator(".predictions").inner_html()
        await page.locator("input[type=file]").set_input_files(
            {"name": name, "mimeType": "image/jpeg", "buffer": content}
        )
        await page.locator(f'img[alt="The image {name}"]').wait_for()
        await page.wait_for_function(
            "before => (document.querySelector('.predictions') ?? {}).innerHTML !== before", arg=before
        )
        answer.seconds = time.perf_counter() - began
        answer.classes = classes_in(
            f'<ol class="ranked predictions">{await page.locator(".predictions").inner_html()}'
        )
        answer.shown = opened(await page.locator(f'img[alt="The image {name}"]').get_attribute("src") or "")
        answer.error = " ".join(await page.locator(".notice").all_inner_texts())
        return answer

    async def close(self) -> None:
        """Leave the page."""
        assert self._page is not None
        await self._page.context.close()


def html_of(element: Element) -> str:
    """The HTML that an element draws, or ""."""
    return element.html.body if element.WhichOneof("type") == "html" else ""


def notice_in(text: str) -> str:
    """The sentence of an error, or ""."""
    found = re.search(r'<p class="notice"[^>]*>(.*?)</p>', text)
    return html.unescape(found[1]) if found else ""


def classes_in(text: str) -> list[tuple[str, str]]:
    """The first five classes and their shares, if this is their list."""
    _, _, rows = text.partition('class="ranked predictions"')
    found = re.findall(r'<span>(.*?)</span><span class="share">(.*?)</span>', rows)
    return [(html.unescape(label), share) for label, share in found[:5]]


def pictures_in(element: Element) -> list[dict[str, str]]:
    """The photograph and its map, if this is the component that holds them."""
    component = element.bidi_component
    if not component.id.endswith("-pictures_of_map"):
        return []
    pictures: list[dict[str, str]] = json.loads(component.json)["pictures"]
    return pictures


def opened(address: str) -> Image.Image:
    """The image that an address holds."""
    return Image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))).convert("RGB")


def image(number: int) -> bytes:
    """A JPEG file that is like no other."""
    pixels = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).resize((640, 480), Image.Resampling.NEAREST).save(file, "JPEG", quality=90)
    return file.getvalue()


def trouble(answer: Answer, engine: Any) -> str:
    """What is wrong with an answer, or "".

    Args:
        answer: that a session was shown.
        engine: the network that the app asks.
    """
    if answer.error:
        return f"{answer.name}: {answer.error}"
    if answer.shown is None or not answer.classes:
        return f"{answer.name}: no map or no classes"
    with Image.open(io.BytesIO(answer.content)) as own:
        given = own.convert("RGB").resize(answer.shown.size)
    if np.abs(np.asarray(given, int) - np.asarray(answer.shown, int)).mean() > ANOTHER:
        return f"{answer.name}: another image is shown"
    analysis = cait_viz.analyze(answer.content, engine)
    expected = [(label, percent(share)) for label, share in analysis.top(5)]
    return "" if answer.classes == expected else f"{answer.name}: {answer.classes} in place of {expected}"


async def visit(
    url: str, sessions: int, browsers: int, rounds: int, began: Callable[[], object] = lambda: None
) -> list[list[Answer]]:
    """What all sessions were shown, round by round; those in a browser come first.

    `began` is called when all pages are open.
    """
    async with AsyncExitStack() as stack:
        visitors: list[ProtocolSession | BrowserSession] = []
        if browsers:
            from playwright.async_api import async_playwright

            driver = await stack.enter_async_context(async_playwright())
            browser = await driver.chromium.launch(
                executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
            )
            visitors += [BrowserSession(browser, url) for _ in range(browsers)]
        visitors += [ProtocolSession(url) for _ in range(sessions - browsers)]
        for visitor in visitors:
            await visitor.open()
            stack.push_async_callback(visitor.close)
        began()
        answers = []
        for number in range(rounds):
            first = number * sessions
            files = [(f"own_{first + one}.jpg", image(first + one)) for one in range(sessions)]
            pressed = (visitor.give(*file) for visitor, file in zip(visitors, files, strict=True))
            answers.append(list(await asyncio.gather(*pressed)))
        return answers


@contextmanager
def server() -> Iterator[tuple[str, psutil.Process]]:
    """The app's address and process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "cait_viz", "app", "--port", str(port), "--host", "127.0.0.1"]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    url = f"http://127.0.0.1:{port}"
    try:
        while True:
            try:
                if "bundled" in httpx2.get(f"{url}/health", trust_env=False).json()["models"]:
                    break
            except httpx2.TransportError:
                pass
            time.sleep(0.1)
        yield url, psutil.Process(process.pid)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--sessions", type=int, default=30)
    parser.add_argument("--browsers", type=int, default=0, help="so many of the sessions are in Chromium")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--url", help="of an app that runs")
    options = parser.parse_args()
    spent: list[float] = []
    with nullcontext((options.url, None)) if options.url else server() as (url, process):

        def note() -> None:
            if process is not None:
                spent.append(sum(process.cpu_times()[:2]))

        answers = asyncio.run(visit(url, options.sessions, options.browsers, options.rounds, note))
        note()
    engine, together = cait_viz.load_engine(), list(chain.from_iterable(answers))
    troubles = [told for answer in together if (told := trouble(answer, engine))]
    for told in troubles:
        print(told)
    for number, each in enumerate(answers, 1):
        report(f"round {number}", each)
    report("all", together)
    if options.browsers:
        report("in a browser", [answer for each in answers for answer in each[: options.browsers]])
    if spent:
        print(f"the server's processor time: {(spent[1] - spent[0]) / len(together):.2f} s an image")
    print(f"{len(troubles)} errors or answers about another image")
    sys.exit(bool(troubles))


def report(name: str, answers: list[Answer]) -> None:
    """Print the median and the slowest wait."""
    waits = [answer.seconds for answer in answers]
    print(
        f"{name}: median {statistics.median(waits):.2f} s, slowest {max(waits):.2f} s of {len(waits)} waits"
    )


if __name__ == "__main__":
    main()
