"""A bucket on this machine, as much of S3 and of Google's storage as Arrow asks for: to list and to read.

    with BucketServer({"photos/a.png": content}) as server:
        ...                          # a program with the environment `server.settings`; s3://bucket/photos

The bucket is called "bucket".
"""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

BUCKET = "bucket"
_DATE = "2026-01-01T00:00:00.000Z"


class BucketServer:
    """Serves files, by their keys, until the block ends."""

    def __init__(self, files):
        self.files = files
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"files": files}))

    def __enter__(self):
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._server.server_close()

    @property
    def settings(self):
        endpoint = f"http://127.0.0.1:{self._server.server_port}"
        return {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "CLOUD_STORAGE_EMULATOR_ENDPOINT": endpoint,
        }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urlsplit(self.path)
        asked = {key: values[0] for key, values in parse_qs(url.query, keep_blank_values=True).items()}
        for beginning in (f"/storage/v1/b/{BUCKET}/o", f"/download/storage/v1/b/{BUCKET}/o"):
            if url.path.startswith(beginning):
                return self._google(unquote(url.path.removeprefix(beginning).lstrip("/")), asked)
        key = unquote(url.path).removeprefix(f"/{BUCKET}").lstrip("/")
        if "list-type" in asked:
            return self._send(self._listing(asked), "application/xml")
        if not key:
            return self._send(b"", "text/plain")
        return self._file(key)

    def _google(self, key, asked):
        if not key:
            keys, folders = self._below(asked)
            body = {"items": [self._resource(key) for key in keys], "prefixes": folders}
            return self._send(json.dumps(body).encode(), "application/json")
        if asked.get("alt") == "media":
            return self._file(key)
        if key not in self.files:
            return self._missing()
        return self._send(json.dumps(self._resource(key)).encode(), "application/json")

    def _resource(self, key):
        size = str(len(self.files[key]))
        return {
            "kind": "storage#object", "name": key, "bucket": BUCKET, "size": size, "generation": "1",
            "timeCreated": _DATE, "updated": _DATE,
        }  # fmt: skip

    def _below(self, asked):
        """The keys that begin as asked, and the folders, if these are to be told apart."""
        prefix, delimiter = asked.get("prefix", ""), asked.get("delimiter", "")
        keys, folders = [], []
        for key in sorted(self.files):
            if key.startswith(prefix):
                first, found, _ = key.removeprefix(prefix).partition(delimiter or "\0")
                (folders if found else keys).append(prefix + first + found if found else key)
        return keys, list(dict.fromkeys(folders))

    def _listing(self, asked):
        keys, folders = self._below(asked)
        contents = "".join(
            f"<Contents><Key>{escape(key)}</Key><LastModified>{_DATE}</LastModified>"
            f"<Size>{len(self.files[key])}</Size></Contents>"
            for key in keys
        )
        below = "".join(f"<CommonPrefixes><Prefix>{escape(one)}</Prefix></CommonPrefixes>" for one in folders)
        return (
            f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name>'
            f"<KeyCount>{len(keys) + len(folders)}</KeyCount><IsTruncated>false</IsTruncated>"
            f"{contents}{below}</ListBucketResult>"
        ).encode()

    def _file(self, key):
        if key not in self.files:
            return self._missing()
        content, status, extra = self.files[key], 200, {"Accept-Ranges": "bytes", "x-goog-generation": "1"}
        if asked := self.headers.get("Range"):
            first, _, last = asked.removeprefix("bytes=").partition("-")
            end = min(int(last) + 1 if last else len(content), len(content))
            extra["Content-Range"] = f"bytes {first}-{end - 1}/{len(content)}"
            content, status = content[int(first) : end], 206
        return self._send(content, "application/octet-stream", status, extra)

    def _missing(self):
        return self._send(b"", "text/plain", 404)

    def _send(self, body, kind, status=200, extra=None):
        self.send_response(status)
        for name, value in {
            "Content-Type": kind,
            "Content-Length": len(body),
            "Last-Modified": "Thu, 01 Jan 2026 00:00:00 GMT",
            "ETag": '"1"',
            **(extra or {}),
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass
