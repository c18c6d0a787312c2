"""A model hub on this machine, as much of one as huggingface_hub asks for, with faults to switch on.

    with HubServer({"timm/cait_xxs24_224.fb_dist_in1k": content}) as hub:
        hub.fault = "reset"          # see FAULTS
        ...                          # a program with HF_ENDPOINT=hub.endpoint
        assert hub.ranges == [None, 5_000_000]

Like the real one it answers a HEAD for a file with a redirect to another origin (its "CDN", here the
same server under the name localhost), together with the content's SHA-256, its size and the commit; it
serves ranges. `python tests/hub_server.py FILE…` serves files under the published names
(`cait_xxs24_224.safetensors` as timm/cait_xxs24_224.fb_dist_in1k) until it is interrupted.
"""

import hashlib
import re
import socket
import struct
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
FILENAME = "model.safetensors"

FAULTS = {
    "close": "the first transfer ends after `fault_after` bytes, its connection closed",
    "reset": "the first transfer ends after `fault_after` bytes, its connection reset",
    "dead": "every transfer ends before its first byte",
    "head reset": "the first question about a file is cut off",
    "other content": "what is sent has the announced length and another content",
    "short": "what is sent is shorter than announced and says so",
    "slow": "a kilobyte a moment, for as long as `fault` stays so",
    "unknown": "there is no such repository, told as to a person without an account (401)",
    "not found": "there is no such repository, told as to a person with one (404)",
    "no file": "the repository has no such file",
    "gated": "the owner wants terms to be accepted",
    "forbidden": "403 without a word",
    "bad token": "the access token is not valid",
    "error": "500 for everything",
    "error once": "503 for the first question",
    "error at the CDN": "503 for every transfer",
    "portal": "a login page for everything, as in a hotel",
}
_REFUSALS = {
    "unknown": (401, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "not found": (404, {"X-Error-Code": "RepoNotFound", "X-Error-Message": "Repository not found"}),
    "no file": (404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}),
    "gated": (403, {"X-Error-Code": "GatedRepo"}),
    "forbidden": (403, {}),
    "bad token": (401, {"X-Error-Message": "Invalid credentials in Authorization header"}),
    "error": (500, {}),
}


class HubServer:
    """Serves one file, model.safetensors, for each repository.

    Attributes:
        files: repository -> content, to be changed at will.
        fault: one of FAULTS, or None.
        fault_after: bytes after which a faulty transfer breaks.
        requests: what was asked so far, as (method, path).
        ranges: the start of each transfer so far, None where all was asked for.
    """

    def __init__(self, files=(), port=0):
        self.files = dict(files)
        self.fault = None
        self.fault_after = 1_000_000
        self.forget()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _Handler)
        self._server.daemon_threads = True
        self._server.hub = self
        self.port = self._server.server_address[1]
        self.endpoint = f"http://127.0.0.1:{self.port}"
        self.cdn = f"http://localhost:{self.port}"

    def forget(self):
        self.requests, self.ranges = [], []

    def __enter__(self):
        # A short poll, or every server that is shut down keeps its test for half a second.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_):
        self.stop()

    def stop(self):
        """Be gone: from now on connections are refused. Twice is as good as once."""
        self.fault = None
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def environment(self, home):
        """Environment variables for a process that is to use this hub and the cache under `home`."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "no_proxy": "127.0.0.1,localhost",
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """The tests read standard error."""

    @property
    def hub(self):
        return self.server.hub

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def answer(self):
        self.hub.requests.append((self.command, self.path))
        if not self.refused():
            self.serve()

    def refused(self):
        fault = self.hub.fault
        if fault in _REFUSALS:
            self.say(*_REFUSALS[fault])
        elif fault == "portal":
            self.say(200, {"Content-Type": "text/html"}, b"<!DOCTYPE html><title>Log in</title>")
        elif fault == "error at the CDN" and self.path.startswith("/cdn/"):
            self.say(503)
        elif fault == "error once":
            self.hub.fault = None
            self.say(503)
        elif fault == "head reset":
            self.hub.fault = None
            self.reset()
        else:
            return False
        return True

    def serve(self):
        match = re.fullmatch(r"(?:/cdn)?/([^/]+/[^/]+)/resolve/[^/]+/(.+)", self.path)
        content = self.hub.files.get(match[1]) if match else None
        if content is None:
            self.say(*_REFUSALS["not found"])
        elif match[2] != FILENAME:
            self.say(*_REFUSALS["no file"])
        elif self.path.startswith("/cdn/"):
            self.send(content)
        else:
            self.redirect(content)

    def say(self, status, headers=(), body=b""):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def redirect(self, content):
        announced = hashlib.sha256(content).hexdigest()
        headers = {
            "Location": f"{self.hub.cdn}/cdn{self.path}",
            "X-Repo-Commit": COMMIT,
            "X-Linked-Etag": f'"{announced}"',
            "X-Linked-Size": str(len(content)),
        }
        self.say(302, headers)

    def send(self, content):
        hub, fault = self.hub, self.hub.fault
        if fault == "other content":
            content = bytes([content[0] ^ 1]) + content[1:-1] + bytes([content[-1] ^ 1])
        elif fault == "short":
            content = content[:-1000]
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        hub.ranges.append(int(asked[1]) if asked else None)
        first = len(hub.ranges) == 1
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(content) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.end_headers()
        if fault == "dead":
            self.close()
        elif fault == "close" and first:
            self.wfile.write(content[start : start + hub.fault_after])
            self.close()
        elif fault == "reset" and first:
            self.wfile.write(content[start : start + hub.fault_after])
            time.sleep(0.3)  # or the reset would overtake what was sent
            self.reset()
        elif fault == "slow":
            self.trickle(content[start:])
        else:
            self.wfile.write(content[start:])

    def trickle(self, content):
        for at in range(0, len(content), 1024):
            self.wfile.write(content[at : at + 1024])
            if self.hub.fault == "slow":
                time.sleep(0.01)

    def close(self):
        self.close_connection = True

    def reset(self):
        """End the connection with a TCP reset, as a router does that has lost it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self):
        try:
            super().handle()
        except (OSError, ValueError):
            """The other side went away, or this one closed the connection."""


def _main(paths):
    files = {f"timm/{Path(path).stem}.fb_dist_in1k": Path(path).read_bytes() for path in paths}
    with HubServer(files) as hub:
        print(f"HF_ENDPOINT={hub.endpoint}", flush=True)
        threading.Event().wait()


if __name__ == "__main__":
    _main(sys.argv[1:])
