"""An image from a web address: bounded in size and time, and on request from public addresses alone."""

import ipaddress
import re
import socket
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from cait_viz._text import one_line
from cait_viz._version import __version__
from cait_viz.errors import ImageError
from cait_viz.images.formats import require_format

if TYPE_CHECKING:
    import httpx2

MAX_BYTES = 20_000_000
MAX_SECONDS = 10
MAX_REDIRECTS = 5

_PUBLIC_IPV6 = ipaddress.ip_network("2000::/3")
# Addresses of IPv4 in a network that has only IPv6 (RFC 6052).
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


def is_web_address(text: str) -> bool:
    """Whether a text is meant as the address of something in the web."""
    return re.match("https?://", text, re.IGNORECASE) is not None


def address_name(url: str) -> str:
    """What to call what is at an address: the last part of its path, else its host."""
    try:
        parts = urlsplit(url)
        return one_line(unquote(parts.path).rpartition("/")[2] or parts.hostname or "") or "the image"
    except ValueError:
        return "the image"


def fetch(url: str, *, allow_private: bool) -> bytes:
    """The bytes of an image at a web address.

    Args:
        url: begins with "https://" or "http://"; redirects are followed.
        allow_private: whether private networks may be asked, and through the proxy that the environment
            names. Without, each host is resolved once, refused if any of its addresses is not public, and
            asked directly at the address that was checked.

    Raises:
        ImageError: there is no image, it is larger than 20 MB, or it takes longer than 10 s.
    """
    import httpx2

    name = address_name(url)
    client = httpx2.Client(
        # A transport of its own keeps the client from the environment's proxies.
        transport=None if allow_private else httpx2.HTTPTransport(),
        timeout=MAX_SECONDS,
        headers={"User-Agent": f"cait-viz/{__version__}", "Accept": "image/*"},
    )
    outcome: Future[bytes] = Future()

    def work() -> None:
        try:
            outcome.set_result(_download(client, url, name, allow_private))
        except BaseException as error:
            outcome.set_exception(error)

    try:
        # In a thread, because neither a look-up of a name nor headers that trickle in can be bounded in time.
        threading.Thread(target=work, daemon=True).start()
        data = outcome.result(MAX_SECONDS)
    except (TimeoutError, httpx2.TimeoutException):
        raise ImageError(
            f"{name}: timed out after {MAX_SECONDS} s; try again, or download it and give the file"
        ) from None
    except ImageError:  # a ValueError too
        raise
    except (httpx2.HTTPError, httpx2.InvalidURL, OSError, ValueError) as error:
        reason = one_line(re.sub(r"\[Errno -?\d+\] ", "", str(error))) or type(error).__name__
        raise ImageError(
            f"{name}: cannot be fetched ({reason}); check the address and the internet connection"
        ) from None
    finally:
        client.close()  # which ends the thread too
    require_format(data, name)
    return data


def _download(client: "httpx2.Client", url: str, name: str, allow_private: bool) -> bytes:
    for redirects in range(MAX_REDIRECTS + 1):
        if not is_web_address(url):
            what = "redirects to what" if redirects else "this"
            raise ImageError(f"{name}: {what} is no https or http address; give the image's own")
        request = client.build_request("GET", url)
        asked = request.url
        if not allow_private:
            address = _public_address(asked, name)
            request.extensions["sni_hostname"] = asked.host
            request.url = asked.copy_with(host=address)
        response = client.send(request, stream=True)
        if response.has_redirect_location:
            url = str(asked.join(response.headers["Location"]))
            response.close()
            continue
        if not response.is_success:
            answer = one_line(f"{response.status_code} {response.reason_phrase}", 60)
            raise ImageError(f"{name}: the server answers {answer}; check the address")
        data = bytearray()
        for chunk in response.iter_bytes():
            data += chunk
            if len(data) > MAX_BYTES:
                raise ImageError(f"{name}: has more than {MAX_BYTES // 10**6} MB; give a smaller image")
        return bytes(data)
    raise ImageError(f"{name}: more than {MAX_REDIRECTS} redirects; give the image's own address")


def _public_address(url: "httpx2.URL", name: str) -> str:
    """The address to connect to for a host, all of whose addresses are public."""
    found = socket.getaddrinfo(url.raw_host.decode("ascii"), url.port, type=socket.SOCK_STREAM)
    addresses = [str(entry[4][0]) for entry in found]
    if not all(map(_is_public, addresses)):
        raise ImageError(f"{name}: is on a private network; upload the image instead")
    return addresses[0]


def _is_public(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    if ip in _NAT64:
        ip = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
    # The rest of IPv6 is local, or holds an IPv4 address that a gateway would ask.
    if isinstance(ip, ipaddress.IPv6Address) and (ip not in _PUBLIC_IPV6 or ip.sixtofour):
        return False
    return ip.is_global and not ip.is_multicast
