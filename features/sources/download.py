"""Files over HTTP from a server that is slow, busy or far: streamed, resumed, bounded, and polite.

A download grows in ``.NAME.part``. Beside it stands what the server said identifies the content (a strong
``ETag``, else ``Last-Modified``): a later attempt asks for the rest with ``Range`` and ``If-Range`` (RFC 9110,
§13.1.5 and §14.2), so that a server whose file has changed sends all of it instead of a false rest.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import unquote
from urllib.request import getproxies, proxy_bypass

from urllib3 import PoolManager, ProxyManager
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    MaxRetryError,
    NewConnectionError,
    ProtocolError,
    ProxyError,
    ReadTimeoutError,
    SSLError,
)
from urllib3.response import BaseHTTPResponse
from urllib3.util import Retry, Timeout, Url, make_headers, parse_url

from features.errors import DataInvalid, Interrupted, UsageError

__all__ = ["Client", "Manners", "NotPublished", "TransferFailed", "Unreachable", "discard"]

CHUNK: Final = 2**16
# A stretch this long proves that a connection works: what failed before no longer counts.
PROGRESS: Final = 2**20
BUSY: Final = (429, 500, 502, 503, 504)

T = TypeVar("T")


class NotPublished(DataInvalid):
    """The server has no such file."""


class TransferFailed(DataInvalid):
    """The server has the file but does not hand it over whole."""


class Unreachable(Interrupted):
    """No connection to the server can be made."""


@dataclass(frozen=True)
class Manners:
    """How a server is asked.

    ``connections`` at a time, each pausing ``pause`` seconds before a request; time-outs in seconds; ``slowest``: the
    seconds that a MiB may take (3.5 KiB a second); after a failure ``backoff`` × 2ⁿ seconds with jitter, or what the
    server's ``Retry-After`` says up to ``longest_wait``, ``attempts`` times in all.
    """

    connections: int = 1
    pause: float = 0.05
    connect_timeout: float = 10.0
    read_timeout: float = 30.0
    slowest: float = 300.0
    attempts: int = 6
    backoff: float = 0.5
    longest_wait: int = 300


class Client:
    """Reads files of one server."""

    def __init__(self, base_url: str, manners: Manners) -> None:
        address = _address(base_url)
        self.base_url = base_url.rstrip("/")
        agent = f"forecaster/{version('forecaster')} (reader of the public archive)"
        self._headers = {"User-Agent": agent, "Accept-Encoding": "identity"}
        self._manners = manners
        self._retry = Retry(
            total=manners.attempts - 1,
            redirect=3,
            allowed_methods=("GET",),
            status_forcelist=BUSY,
            backoff_factor=manners.backoff,
            backoff_jitter=manners.backoff,
            retry_after_max=manners.longest_wait,
        )
        self._pool = _pool(
            address,
            maxsize=manners.connections,
            timeout=Timeout(connect=manners.connect_timeout, read=manners.read_timeout),
        )

    def read(self, path: str, limit: int, fresh: bool = False) -> bytes:
        """A small file of at most ``limit`` bytes; ``fresh``: past any cache on the way.

        Raises
        ------
        NotPublished, TransferFailed, Unreachable
            It is not there; it cannot be had; no server answers.
        """

        def once() -> bytes:
            content = b""
            with self._get(path, _uncached(fresh)) as response:
                for chunk in self._body(response):
                    content += chunk
                    if len(content) > limit:
                        raise _too_large(path, limit)
            return content

        return self._persistently(path, once, lambda: 0)

    def download(self, path: str, part: Path, limit: int, fresh: bool = False) -> str | None:
        """Bring the whole file into ``part``, going on where an earlier attempt stopped; returns its ``ETag``.

        Nothing is known about its soundness yet. ``fresh`` begins anew, past any cache on the way. Raises as
        ``read``; the part that came stays for the next attempt.
        """
        if fresh:
            discard(part)
        return self._persistently(path, lambda: self._receive(path, part, limit, fresh), lambda: _size(part))

    def _persistently(self, path: str, once: Callable[[], T], size: Callable[[], int]) -> T:
        """Call ``once`` until it succeeds; urllib3 repeats requests, here broken bodies are tried again."""
        retry = self._retry
        while True:
            before = size()
            try:
                return once()
            except MaxRetryError as fault:
                unreachable = (NewConnectionError, ConnectTimeoutError, SSLError, ProxyError)
                if isinstance(fault.reason, unreachable):
                    raise Unreachable(f"{self.base_url} cannot be reached ({_told(fault.reason)})") from None
                raise TransferFailed(f"{path} cannot be had ({_told(fault.reason)})") from None
            except (ProtocolError, ReadTimeoutError) as fault:
                if size() - before >= PROGRESS:
                    retry = self._retry
                try:
                    retry = retry.increment("GET", path, error=fault)
                except MaxRetryError:
                    raise TransferFailed(f"{path} breaks off each time ({_told(fault)})") from None
                retry.sleep()
            except (HTTPError, ValueError) as fault:  # an answer that HTTP does not know, such as a bad Retry-After
                raise TransferFailed(f"{path} cannot be had ({_told(fault)})") from None

    def _get(self, path: str, headers: dict[str, str]) -> BaseHTTPResponse:
        """The answer to one request, its body unread; the first urllib3 accepts as no passing trouble."""
        time.sleep(self._manners.pause)
        url = f"{self.base_url}/{path}"
        response = self._pool.request(
            "GET", url, headers=self._headers | headers, preload_content=False, retries=self._retry
        )
        if response.status in {200, 206, 416}:
            return response
        with response:
            response.read(CHUNK, decode_content=False)  # so that the connection can be used again
        if response.status == 404:
            raise NotPublished(f"{path} is not published")
        raise TransferFailed(f"{path} is answered with status {response.status}")

    def _receive(self, path: str, part: Path, limit: int, fresh: bool) -> str | None:
        """One request for what is missing of the file."""
        held, validator = _size(part), _read_validator(part)
        resuming = held > 0 and validator is not None
        asked = {"Range": f"bytes={held}-", "If-Range": str(validator)} if resuming else {}
        with self._get(path, asked | _uncached(fresh)) as response:
            stated = response.headers.get("Content-Range", "")
            if response.status == 416 and stated == f"bytes */{held}":
                return response.headers.get("ETag")
            if response.status != 200 and not stated.startswith(f"bytes {held}-"):
                discard(part)
                raise ProtocolError(f"answered {response.status} with another range than was asked for")
            if response.status == 200:
                part.parent.mkdir(parents=True, exist_ok=True)
                discard(part)
                held = 0
                _write_validator(part, response)
            length = response.headers.get("Content-Length", "0")
            with part.open("ab") as file:
                if held + int(length if length.isdecimal() else 0) > limit:
                    discard(part)
                    raise _too_large(path, limit)
                for chunk in self._body(response):
                    file.write(chunk)
                    if file.tell() > limit:
                        discard(part)
                        raise _too_large(path, limit)
                file.flush()
                os.fsync(file.fileno())
            return response.headers.get("ETag")

    def _body(self, response: BaseHTTPResponse) -> Iterator[bytes]:
        """The bytes of an answer as they come; ``ProtocolError`` where they come too slowly."""
        due, rest = time.monotonic() + self._manners.slowest, PROGRESS
        while chunk := response.read1(CHUNK, decode_content=False):
            yield chunk
            rest -= len(chunk)
            if rest <= 0:
                due, rest = time.monotonic() + self._manners.slowest, PROGRESS
            elif time.monotonic() > due:
                raise ProtocolError(f"slower than {self._manners.slowest:g} seconds a MiB")


def _too_large(path: str, limit: int) -> TransferFailed:
    return TransferFailed(f"{path} is larger than {limit:,} bytes, more than such a file ever is")


def discard(part: Path) -> None:
    """Forget a download, and what identified it."""
    _validator(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _address(base_url: str) -> Url:
    """An address parsed; ``UsageError``, which shows neither passwords nor keys, if it is not that of an archive."""
    try:
        address = parse_url(base_url)
    except ValueError:
        address = Url()
    if address.scheme not in {"http", "https"} or not address.host:
        fault = "is no address"
    elif address.auth is not None:
        fault = "carries a user name, which the archive does not ask for"
    elif address.query is not None or address.fragment is not None:
        fault = "goes on behind the path, where the names of files must follow"
    else:
        return address
    shown = re.split("[?#]", base_url.rpartition("@")[2])[0]
    raise UsageError(f"--base-url {shown!r} {fault}; write one such as https://data.binance.vision")


def _pool(address: Url, **options: Any) -> PoolManager:
    """Connections to a server, by way of the proxy that the environment names for it."""
    proxy = None if proxy_bypass(str(address.host)) else getproxies().get(str(address.scheme))
    if proxy is None:
        return PoolManager(**options)
    try:
        place = parse_url(proxy)
        if not place.host:
            raise ValueError
        headers = make_headers(proxy_basic_auth=unquote(place.auth)) if place.auth else {}
        return ProxyManager(place._replace(auth=None).url, proxy_headers=headers, **options)
    except (HTTPError, ValueError):  # nothing of it is shown, for it may hold a password
        name = f"{address.scheme}_proxy".upper()
        raise UsageError(
            f"the environment variable {name} names no proxy that can be used: write it as http://HOST:PORT; "
            "SOCKS is not supported"
        ) from None


def _uncached(fresh: bool) -> dict[str, str]:
    return {"Cache-Control": "no-cache"} if fresh else {}


def _told(fault: BaseException | None) -> str:
    """The words of an error, without the objects that urllib3 puts in front of them."""
    return str(fault).rsplit("): ", 1)[-1] or type(fault).__name__


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _validator(part: Path) -> Path:
    return part.with_name(part.name + ".validator")


def _read_validator(part: Path) -> str | None:
    place = _validator(part)
    return place.read_text(encoding="utf-8") if place.exists() else None


def _write_validator(part: Path, response: BaseHTTPResponse) -> None:
    etag = response.headers.get("ETag", "")
    # A weak tag does not promise the same bytes, so it may not stand in If-Range.
    strong = etag if etag.startswith('"') else response.headers.get("Last-Modified")
    if strong:
        _validator(part).write_text(strong, encoding="utf-8")
