"""Images from web addresses, asked of servers on this machine."""

import io
import socket
import socketserver
import ssl
import subprocess
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from cait_viz.errors import ImageError
from cait_viz.images import web
from cait_viz.images.read import load_image
from cait_viz.images.web import fetch, is_web_address

PUBLIC, PUBLIC_IPV6 = "93.184.215.14", "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


def png() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (20, 10), (200, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    def log_message(self, *_arguments):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def trickle(self, piece):
        """For a second: much longer than the tests allow, and then over."""
        for _ in range(20):
            self.wfile.write(piece)
            self.wfile.flush()
            time.sleep(0.05)

    def do_GET(self):
        self.server.requests.append((self.path, dict(self.headers)))
        path = self.path.partition("?")[0]
        if path.startswith("/to/"):
            self.answer(307, Location=path.removeprefix("/to/"))
        elif path.startswith("/hops/"):
            left = int(path.removeprefix("/hops/"))
            self.answer(302, Location=f"/hops/{left - 1}" if left > 1 else "/at the end.png")
        elif path.endswith(".png"):
            # What the header says of the type does not matter.
            self.answer(200, png(), **{"Content-Type": "text/plain"})
        elif path in ANSWERS:
            status, body, headers = ANSWERS[path]
            self.answer(status, body, **headers)
        elif path == "/endless.jpg":
            self.answer(200, bytes(100_000_000))
        elif path == "/slow.jpg":
            self.answer(200)
            self.trickle(b"\xff\xd8\xff")
        elif path == "/slow-headers.jpg":
            self.trickle(b"H")
        else:
            self.answer(404)


ANSWERS = {
    "/loop": (302, b"", {"Location": "/loop"}),
    "/page.jpg": (200, b"<!DOCTYPE html><html></html>", {"Content-Type": "image/jpeg"}),
    "/empty.jpg": (200, b"", {}),
    "/broken.jpg": (200, png(), {"Content-Length": "100000"}),
}


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments):  # the other side has hung up
        pass


class ServerOfIPv6(Server):
    address_family = socket.AF_INET6


@pytest.fixture
def serve():
    """Start a server; its address, and the requests it has had as (path, headers)."""
    started = []

    def start(kind=Server, host="127.0.0.1", context=None):
        server = kind((host, 0), Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        server.requests = []
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        started.append(server)
        return server

    yield start
    for server in started:
        server.shutdown()
        server.server_close()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch):
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def site(serve):
    server = serve()
    server.url = f"http://127.0.0.1:{server.server_port}"
    return server


def refusal(url, allow_private=True) -> str:
    with pytest.raises(ImageError) as caught:
        fetch(url, allow_private=allow_private)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert "; " in sentence
    return sentence


@pytest.mark.parametrize("text", ["http://a/b.jpg", "https://a", "HTTPS://A/B.JPG"])
def test_what_begins_like_a_web_address_is_one(text):
    assert is_web_address(text)


@pytest.mark.parametrize("text", ["", "photo.jpg", "/http://a", "ftp://a", "file:///etc/passwd", "https:/a"])
def test_anything_else_is_none(text):
    assert not is_web_address(text)


def test_an_image_is_loaded_from_its_address_and_named_after_it(site):
    loaded = load_image(f"{site.url}/my%20holiday/red%20cat.png?size=9#top")
    assert loaded.image.getpixel((0, 0)) == (200, 100, 50)
    assert loaded.name == "red cat.png"
    assert load_image(f"{site.url}/cat.png", "mine").name == "mine"
    assert loaded.file_sha256 == load_image(png()).file_sha256
    assert site.requests[0][1]["User-Agent"].startswith("cait-viz/")


def test_redirects_are_followed_up_to_a_limit(site):
    assert fetch(f"{site.url}/hops/5", allow_private=True) == png()
    assert refusal(f"{site.url}/hops/6").startswith("6: more than 5 redirects")
    assert refusal(f"{site.url}/loop").startswith("loop: more than 5 redirects")
    assert refusal(f"{site.url}/to/file:///etc/passwd").startswith(
        "passwd: redirects to what is no https or http"
    )


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("gone.jpg", "the server answers 404 Not Found"),
        ("page.jpg", "this is a web page, not an image"),
        ("empty.jpg", "this is not an image"),
        ("broken.jpg", "cannot be fetched"),
    ],
)
def test_what_is_no_image_is_refused_by_what_it_is(site, path, words):
    assert refusal(f"{site.url}/{path}").startswith(f"{path}: {words}")


def test_a_body_without_end_is_refused_at_the_limit(site):
    assert refusal(f"{site.url}/endless.jpg") == "endless.jpg: has more than 20 MB; give a smaller image"


@pytest.mark.parametrize("path", ["slow.jpg", "slow-headers.jpg"])
def test_what_trickles_in_is_given_up(site, path, monkeypatch):
    monkeypatch.setattr(web, "MAX_SECONDS", 0.2)
    assert refusal(f"{site.url}/{path}").startswith(f"{path}: timed out after 0.2 s")


def test_a_server_that_says_nothing_is_given_up(serve, monkeypatch):
    monkeypatch.setattr(web, "MAX_SECONDS", 0.2)
    with socketserver.TCPServer(("127.0.0.1", 0), None) as silent:
        sentence = refusal(f"http://127.0.0.1:{silent.server_address[1]}/a.jpg")
        assert sentence.startswith("a.jpg: timed out after 0.2 s")


def test_a_name_that_is_looked_up_for_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(web, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_a, **_k: time.sleep(1))
    for allow_private in (True, False):
        assert "timed out" in refusal("http://images.test/a.jpg", allow_private)


@pytest.mark.parametrize(
    "url",
    [
        "http://",
        "http:///a.jpg",
        "http://[::1/a.jpg",
        "http://a b/a.jpg",
        "http://127.0.0.1:99999/a.jpg",
        "http://127.0.0.1:1/a.jpg",
        "http://" + "a" * 300 + "/a.jpg",
        "http://a\n.test/a.jpg",
        "http://\ud800/a.jpg",
        "http://no-such-host.invalid/a.jpg",
    ],
)
@pytest.mark.parametrize("allow_private", [True, False])
def test_an_address_that_leads_nowhere_is_refused_in_one_line(url, allow_private):
    refusal(url, allow_private)


def test_a_password_is_used_and_never_shown(site):
    address = site.url.replace("http://", "http://me:secret@")
    assert fetch(f"{address}/a.png", allow_private=True) == png()
    assert site.requests[0][1]["Authorization"].startswith("Basic ")
    assert "secret" not in refusal(f"{address}/gone.jpg")
    assert "secret" not in refusal("http://me:secret@127.0.0.1:1/")
    assert "secret" not in refusal("http://me:secret@127.0.0.1/", allow_private=False)


# --- without private networks -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f.1",
        "127.1",
        "0",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "224.0.0.1",
        "255.255.255.255",
        "[::1]",
        "[::]",
        "[fe80::1]",
        "[fc00::1]",
        "[fec0::1]",
        "[ff02::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[2002:7f00:1::1]",
        "me:password@127.0.0.1",
        "example.org@127.0.0.1",
        "example.org%40127.0.0.1@127.0.0.1",
    ],
)
def test_a_private_address_is_never_asked(host, monkeypatch):
    monkeypatch.setattr(socket, "create_connection", None)
    for scheme in ("http", "https"):
        sentence = refusal(f"{scheme}://{host}/a.jpg", allow_private=False)
        assert sentence == "a.jpg: is on a private network; upload the image instead"


@pytest.fixture
def internet(monkeypatch):
    """Names of the internet and their addresses; what is connected to reaches the server given for it."""
    names: dict[str, list[str]] = {}
    servers: dict[str, int] = {}
    asked: list[str] = []
    look_up, connect = socket.getaddrinfo, socket.create_connection

    def getaddrinfo(host, port, *arguments, **options):
        if host not in names:
            return look_up(host, port, *arguments, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, port)) for one in names[host]]

    def create_connection(address, *arguments, **options):
        asked.append(address[0])
        return connect(("127.0.0.1", servers[address[0]]), *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket, "create_connection", create_connection)
    return names, servers, asked


def test_a_public_name_is_asked_at_the_address_that_was_checked(site, internet):
    names, servers, asked = internet
    names["images.test"] = [PUBLIC]
    servers[PUBLIC] = site.server_port
    assert fetch("http://images.test/hops/3", allow_private=False) == png()
    assert set(asked) == {PUBLIC}
    assert {headers["Host"] for _, headers in site.requests} == {"images.test"}
    assert [path for path, _ in site.requests] == ["/hops/3", "/hops/2", "/hops/1", "/at%20the%20end.png"]


def test_a_name_that_changes_between_two_looks_is_connected_to_as_checked(site, internet, monkeypatch):
    _, servers, asked = internet
    servers[PUBLIC] = site.server_port
    answers = iter([PUBLIC, "127.0.0.1"])

    def rebinding(host, port, *_arguments, **_options):
        address = next(answers) if host == "images.test" else host
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))]

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    assert fetch("http://images.test/a.png", allow_private=False) == png()
    assert asked == [PUBLIC]


def test_a_public_address_of_ipv6_is_asked(site, internet):
    _, servers, asked = internet
    servers[PUBLIC_IPV6] = site.server_port
    assert fetch(f"http://[{PUBLIC_IPV6}]/a.png", allow_private=False) == png()
    assert asked == [PUBLIC_IPV6]


@pytest.mark.parametrize(
    "addresses", [["127.0.0.1"], [PUBLIC, "10.0.0.1"], ["::1"], ["fe80::1%eth0", PUBLIC]]
)
def test_a_name_that_leads_into_a_private_network_is_refused(internet, addresses):
    names, _, asked = internet
    names["images.test"] = addresses
    assert "private network" in refusal("http://images.test/a.jpg", allow_private=False)
    assert not asked


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1/a.png", "//localhost/a.png", "http://inside.test/a.png"]
)
def test_a_redirect_into_a_private_network_is_not_followed(site, internet, target):
    names, servers, asked = internet
    names |= {"images.test": [PUBLIC], "inside.test": ["192.168.0.1"]}
    servers[PUBLIC] = site.server_port
    assert "private network" in refusal(f"http://images.test/to/{target}", allow_private=False)
    assert asked == [PUBLIC]


def test_the_proxy_of_the_environment_is_asked_but_not_where_private_networks_are_out(
    site, internet, monkeypatch
):
    names, servers, asked = internet
    names["images.test"] = [PUBLIC]
    servers |= {PUBLIC: site.server_port, "proxy.test": site.server_port}
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    assert fetch("http://images.test/a.png", allow_private=True) == png()
    assert fetch("http://images.test/a.png", allow_private=False) == png()
    assert asked == ["proxy.test", PUBLIC]


def test_private_networks_are_asked_where_they_may(serve, site):
    assert fetch(f"http://localhost:{site.server_port}/a.png", allow_private=True) == png()
    try:
        server = serve(ServerOfIPv6, "::1")
    except OSError:
        pytest.skip("no IPv6 here")
    assert fetch(f"http://[::1]:{server.server_port}/a.png", allow_private=True) == png()


def test_a_certificate_is_held_to_the_name_and_not_to_the_address(serve, internet, tmp_path, monkeypatch):
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = [
        "openssl",
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "2",
        "-subj",
        "/CN=images",
    ]
    command += ["-addext", "subjectAltName=DNS:images.test", "-keyout", key, "-out", certificate]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no openssl here to make a certificate")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    server = serve(context=context)
    names, servers, _ = internet
    names |= {"images.test": [PUBLIC], "other.test": [PUBLIC]}
    servers[PUBLIC] = server.server_port
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert fetch("https://images.test/a.png", allow_private=False) == png()
    assert "certificate" in refusal("https://other.test/a.png", allow_private=False)
