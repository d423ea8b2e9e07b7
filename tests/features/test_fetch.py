"""The public archive, served on the loopback by a server that keeps its layout and misbehaves on demand."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import date
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.errors import DataInvalid, Interrupted, Locked, UsageError
from features.market import Market
from features.quality import check
from features.sources import import_data
from features.sources import trades as trade_source
from features.sources.download import Manners
from features.sources.fetch import FetchReport, fetch
from features.sources.ledger import Archive
from features.store import Store
from forecaster.cli import main

TODAY = date(2024, 4, 3)
FEBRUARY, MARCH, APRIL = date(2024, 2, 1), date(2024, 3, 1), date(2024, 4, 1)
QUICK = Manners(pause=0.0, connect_timeout=2.0, read_timeout=0.5, attempts=3, backoff=0.01, longest_wait=2)
METRICS_HEADER = (
    "create_time,symbol,sum_open_interest,sum_open_interest_value,count_toptrader_long_short_ratio,"
    "sum_toptrader_long_short_ratio,count_long_short_ratio,sum_taker_long_short_vol_ratio"
)
KLINES = "data/futures/um/monthly/klines/BTCUSDT/1h/BTCUSDT-1h-2024-03.zip"
# An address that only a proxy can know.
NOWHERE = "http://archive.invalid"
FIRST_DAY = "data/futures/um/daily/klines/BTCUSDT/1h/BTCUSDT-1h-2024-04-01.zip"

# --------------------------------------------------------------------------- what the archive holds

Rows = dict[tuple[str, str, pd.Timestamp], tuple[float, ...]]  # (table, symbol, clock) -> values


def zipped(name: str, lines: list[str]) -> bytes:
    """A zip with fixed time stamps, so that the same lines give the same bytes."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(zipfile.ZipInfo(f"{name}.csv", (2024, 1, 1, 0, 0, 0)), "\n".join(lines) + "\n")
    return content.getvalue()


def span(period: str) -> tuple[pd.Timestamp, pd.Timestamp]:
    start = pd.Timestamp(period, tz="UTC")
    return start, start + (pd.offsets.MonthBegin(1) if len(period) == 7 else pd.Timedelta(days=1))


def epoch(instant: pd.Timestamp) -> int:
    return int(instant.timestamp() * 1000)


def klines(table: str, symbol: str, period: str, skip: tuple[int, ...] = ()) -> tuple[list[str], Rows]:
    """Hourly bars whose prices depend on symbol and hour only; ``skip``: hours left out."""
    lines, rows, seed = [], {}, sum(f"{table}{symbol}".encode())
    for hour, opened in enumerate(pd.date_range(*span(period), freq="h", inclusive="left")):
        if hour in skip:
            continue
        open_, close, volume = (100 + np.sin(phase * (seed + epoch(opened) / 3_600_000)) for phase in (1.0, 2.3, 3.7))
        high, low = max(open_, close) + 1, min(open_, close) - 1
        fields = [epoch(opened), open_, high, low, close, volume, epoch(opened) + 3_599_999, volume * 100, 7]
        lines.append(",".join(map(str, [*fields, volume / 2, volume * 50, 0])))
        rows[table, symbol, opened + pd.Timedelta(hours=1)] = (open_, high, low, close)
    return lines, rows


def settlements(symbol: str, period: str) -> tuple[list[str], Rows]:
    lines, rows = ["calc_time,funding_interval_hours,last_funding_rate"], {}
    for i, at in enumerate(pd.date_range(*span(period), freq="8h", inclusive="left")):
        lines.append(f"{epoch(at) + 3},8,{i * 1e-6}")
        rows["funding", symbol, at] = (i * 1e-6, 8.0)
    return lines, rows


def metrics(symbol: str, period: str) -> tuple[list[str], Rows]:
    lines, rows = [METRICS_HEADER], {}
    for i, at in enumerate(pd.date_range(*span(period), freq="5min", inclusive="right")):
        lines.append(f"{at:%Y-%m-%d %H:%M:%S},{symbol},{i + 1},{(i + 1) * 100},1,1,1,1")
        rows["open_interest", symbol, at] = (i + 1.0, (i + 1) * 100.0)
    return lines, rows


@dataclass
class Asked:
    """One request, noted before it is answered; ``status``: what the answer began with."""

    path: str
    range: str | None
    begun: float
    headers: dict[str, str]
    status: int = 0


@dataclass
class Site:
    """The server's files, what it was asked, and how it shall answer next."""

    files: dict[str, bytes] = field(default_factory=dict)
    rows: dict[str, Rows] = field(default_factory=dict)
    log: list[Asked] = field(default_factory=list)
    tricks: dict[str, list[Callable[[Handler], None]]] = field(default_factory=dict)
    address: str = ""

    def put(self, path: str, lines: list[str], rows: Rows) -> None:
        name = path.rsplit("/", 1)[-1]
        self.files[path] = zipped(name.removesuffix(".zip"), lines)
        self.rows[path] = rows
        self.sign(path)

    def sign(self, path: str) -> None:
        sha = hashlib.sha256(self.files[path]).hexdigest()
        self.files[f"{path}.CHECKSUM"] = f"{sha}  {path.rsplit('/', 1)[-1]}\n".encode()

    def bars(self, table: str, symbol: str, period: str, skip: tuple[int, ...] = ()) -> str:
        tier = "monthly" if len(period) == 7 else "daily"
        market, folder = {
            "bars": ("futures/um", "klines"),
            "mark": ("futures/um", "markPriceKlines"),
            "spot": ("spot", "klines"),
        }[table]
        path = f"data/{market}/{tier}/{folder}/{symbol}/1h/{symbol}-1h-{period}.zip"
        self.put(path, *klines(table, symbol, period, skip))
        return path

    def drop(self, *paths: str) -> None:
        for path in paths:
            for name in (path, f"{path}.CHECKSUM"):
                self.files.pop(name, None)
            self.rows.pop(path, None)

    def asked(self, path: str | None = None) -> list[tuple[str, int]]:
        """Requests so far as (path, status), or of one path as (Range, status); forgets nothing."""
        if path is None:
            return [(asked.path, asked.status) for asked in self.log]
        return [(asked.range or "", asked.status) for asked in self.log if asked.path == path]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 2**16  # headers and body in one packet, or the client waits for the second
    site: Site
    asked: Asked

    def do_GET(self) -> None:
        path = self.path.removeprefix(NOWHERE).lstrip("/")
        self.asked = Asked(path, self.headers["Range"], time.monotonic(), dict(self.headers))
        self.site.log.append(self.asked)
        tricks = self.site.tricks.get(path, [])
        trick = (tricks.pop(0) if len(tricks) > 1 else tricks[0]) if tricks else None
        try:
            if trick is not None:
                trick(self)
            elif path in self.site.files:
                self.serve(self.site.files[path])
            else:
                self.reply(404, b"NoSuchKey")
        except OSError:
            self.close_connection = True  # the client has gone

    def serve(self, content: bytes) -> None:
        """Content with its ETag, or the range that was asked for."""
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        asked = self.headers["Range"]
        if asked is None or self.headers["If-Range"] != tag:
            self.reply(200, content, ETag=tag)
        elif (first := int(asked.removeprefix("bytes=").removesuffix("-"))) >= len(content):
            self.reply(416, b"", **{"Content-Range": f"bytes */{len(content)}", "ETag": tag})
        else:
            stated = f"bytes {first}-{len(content) - 1}/{len(content)}"
            self.reply(206, content[first:], **{"Content-Range": stated, "ETag": tag})

    def reply(self, status: int, body: bytes, length: int | None = None, **headers: str) -> None:
        self.asked.status = status
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body) if length is None else length)} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def content(self) -> bytes:
        return self.site.files[self.path.lstrip("/")]

    def log_message(self, *words: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # clients go away half-way: that is what is tested


@pytest.fixture
def site() -> Iterator[Site]:
    """Bars of BTC: two past months, and two days of the current one."""
    held = Site()
    for period in ("2024-02", "2024-03", "2024-04-01", "2024-04-02"):
        held.bars("bars", "BTCUSDT", period)
    handler = type("SiteHandler", (Handler,), {"site": held})
    with Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        held.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield held
        server.shutdown()
        thread.join()


def brought(site: Site, store: Path, **asked: Any) -> FetchReport:
    """A fetch of BTC bars from March on, unless asked otherwise."""
    common = {
        "symbols": ["BTCUSDT"], "since": MARCH, "datasets": ["klines"],
        "base_url": site.address, "manners": QUICK, "today": TODAY,
    }  # fmt: skip
    return fetch(**(common | {"store": store} | asked))


def held(store: Path) -> Rows:
    """What the store shows of each table, by the same key as the rows that were generated."""
    market = Market.open(store)
    found: Rows = {}
    for table, clock, columns in (
        ("bars", "close_time", ["open", "high", "low", "close"]),
        ("mark", "close_time", ["open", "high", "low", "close"]),
        ("spot", "close_time", ["open", "high", "low", "close"]),
        ("funding", "funding_time", ["funding_rate", "interval_hours"]),
        ("open_interest", "event_time", ["open_interest", "open_interest_value"]),
    ):
        for row in market.table(table).to_dict("records"):
            found[table, row["symbol"], row[clock]] = tuple(row[name] for name in columns)
    return found


def union(site: Site, *paths: str) -> Rows:
    return {key: values for path in paths for key, values in site.rows[path].items()}


def everything(folder: Path) -> dict[str, bytes]:
    """All bytes of a store that do not tell the time of day: tables, manifest, downloaded files."""
    volatile = ("ledger.jsonl", ".lock", ".lock.owner")
    return {
        str(file.relative_to(folder)): file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name not in volatile
    }


APRIL_DAYS = (FIRST_DAY, FIRST_DAY.replace("04-01", "04-02"))

# --------------------------------------------------------------------------- an undisturbed fetch


def test_everything_comes_and_equals_what_was_published(site: Site, tmp_path: Path) -> None:
    for table in ("mark", "spot"):
        for period in ("2024-03", "2024-04-01"):
            site.bars(table, "BTCUSDT", period)
    for period in ("2024-02", "2024-03"):
        path = f"data/futures/um/monthly/fundingRate/BTCUSDT/BTCUSDT-fundingRate-{period}.zip"
        site.put(path, *settlements("BTCUSDT", period))
    for day in ("2024-03-31", "2024-04-01"):
        path = f"data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-{day}.zip"
        site.put(path, *metrics("BTCUSDT", day))
    stages: list[tuple[str, int, int]] = []
    report = brought(
        site, tmp_path, since=date(2024, 1, 15),
        datasets=["klines", "mark", "funding", "metrics", "spot"], progress=lambda *at: stages.append(at),
    )  # fmt: skip
    assert held(tmp_path) == union(site, *site.rows)
    assert report.sound
    assert set(report.downloaded) == set(site.rows)
    # Bars come by month and then by day; nothing was asked for twice, and only what may exist.
    asked = site.asked()
    assert len(asked) == len(set(asked))
    assert not [path for path, _ in asked if "um/daily/klines" in path and "2024-03" in path]
    # Of the metrics of January neither ends nor middle exist, so three days were asked and not all 17.
    absent = [path for path, status in asked if status == 404 and "BTCUSDT-metrics-2024-01" in path]
    assert [path[-14:-4] for path in absent] == ["2024-01-15", "2024-01-23", "2024-01-31"]
    assert "data/futures/um/daily/metrics/BTCUSDT/BTCUSDT-metrics-2024-01-15.zip to 31" in report.not_published
    assert report.newest == {
        "klines": "2024-04-03T00:00:00+00:00",
        "mark": "2024-04-02T00:00:00+00:00",
        "funding": "2024-03-31T16:00:00+00:00",
        "metrics": "2024-04-02T00:00:00+00:00",
        "spot": "2024-04-02T00:00:00+00:00",
    }
    assert report.rows["funding"] == 3 * (29 + 31)
    assert "forecaster/" in site.log[0].headers["User-Agent"]
    assert {stage for stage, *_ in stages} == {"download", "import"}
    assert all(done == total for _, done, total in [stages[-1]])
    told = report.summary()
    assert "funding: up to 2024-03-31T16:00:00+00:00" in told
    assert "not published" in told


def test_the_ledger_says_where_each_file_came_from(site: Site, tmp_path: Path) -> None:
    before = pd.Timestamp.now("UTC")
    brought(site, tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "archive/ledger.jsonl").read_text().splitlines()]
    fetched = {line["file"]: line for line in lines if line["event"] == "fetched"}
    assert set(fetched) == {KLINES, *APRIL_DAYS}
    for path, line in fetched.items():
        content = site.files[path]
        assert line["url"] == f"{site.address}/{path}"
        assert (line["sha256"], line["size"]) == (hashlib.sha256(content).hexdigest(), len(content))
        assert line["etag"] == f'"{hashlib.md5(content).hexdigest()}"'
        assert before <= pd.Timestamp(line["at"]) <= pd.Timestamp.now("UTC")
        assert (tmp_path / "archive" / line["kept"]).read_bytes() == content
        assert (tmp_path / "archive" / f"{path}.CHECKSUM").read_bytes() == site.files[f"{path}.CHECKSUM"]
    assert {line["file"] for line in lines if line["event"] == "imported"} == set(fetched)


def test_a_second_fetch_asks_for_checksums_only_and_of_young_files_only(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path, since=FEBRUARY)
    before = everything(tmp_path)
    site.log.clear()
    report = brought(site, tmp_path, since=FEBRUARY, recheck=30)
    assert (report.downloaded, report.revised, len(report.present)) == ((), (), 4)
    # February ended 33 days before, March 2 days before.
    assert site.asked() == [(f"{path}.CHECKSUM", 200) for path in (KLINES, *APRIL_DAYS)]
    site.log.clear()
    assert len(brought(site, tmp_path, since=FEBRUARY, recheck=0).present) == 4
    assert site.asked() == []
    assert everything(tmp_path) == before


def test_four_connections_bring_the_same_store_as_one(site: Site, tmp_path: Path) -> None:
    site.bars("bars", "ETHUSDT", "2024-03")
    site.bars("spot", "BTCUSDT", "2024-03")
    for folder, connections in (("one", 1), ("four", 4)):
        manners = replace(QUICK, connections=connections, read_timeout=2.0)
        brought(site, tmp_path / folder, symbols=["ETHUSDT", "BTCUSDT"], datasets=["klines", "spot"], manners=manners)
    assert everything(tmp_path / "one") == everything(tmp_path / "four")


# --------------------------------------------------------------------------- a server that misbehaves


def cut(handler: Handler) -> None:
    """States the whole length and closes after half of it."""
    content = handler.content()
    tag = f'"{hashlib.md5(content).hexdigest()}"'
    handler.reply(200, content[: len(content) // 2], length=len(content), ETag=tag)
    handler.close_connection = True


def reset(handler: Handler) -> None:
    """Half the body, then a TCP reset instead of an end."""
    cut(handler)
    handler.wfile.flush()
    time.sleep(0.05)  # let the half arrive before the reset discards what is under way
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()


def unstated(handler: Handler) -> None:
    """Half the body without any length: nothing but the checksum can tell."""
    handler.asked.status = 200
    handler.send_response(200)
    handler.send_header("Connection", "close")
    handler.end_headers()
    handler.wfile.write(handler.content()[:-100])
    handler.close_connection = True


def corrupt(handler: Handler) -> None:
    content = bytearray(handler.content())
    content[len(content) // 2] ^= 0xFF
    handler.serve(bytes(content))


def page(handler: Handler) -> None:
    handler.reply(200, b"<html><body>We are sorry</body></html>", **{"Content-Type": "text/html"})


def waiting(seconds: float) -> Callable[[Handler], None]:
    def trick(handler: Handler) -> None:
        handler.asked.status = 200
        time.sleep(seconds)
        handler.serve(handler.content())

    return trick


def status(code: int, after: str | None = None) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(code, b"busy", **({"Retry-After": after} if after else {}))


def huge(handler: Handler) -> None:
    handler.reply(200, b"PK", length=10**12)
    handler.close_connection = True


def endless(handler: Handler) -> None:
    handler.asked.status = 200
    handler.send_response(200)
    handler.end_headers()
    handler.close_connection = True
    while True:
        handler.wfile.write(bytes(2**20))


def without_ranges(handler: Handler) -> None:
    handler.reply(200, handler.content(), ETag=f'"{hashlib.md5(handler.content()).hexdigest()}"')


def chunked(handler: Handler, end: bytes = b"0\r\n\r\n") -> None:
    """The body in two pieces of stated length, and their end."""
    content, middle = handler.content(), len(handler.content()) // 2
    handler.asked.status = 200
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.send_header("ETag", f'"{hashlib.md5(content).hexdigest()}"')
    handler.end_headers()
    pieces = [content[:middle], content[middle:]] if end else [content[:middle]]
    handler.wfile.write(b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces) + end)
    handler.close_connection = not end


def torn(handler: Handler) -> None:
    """The first piece only."""
    chunked(handler, b"")


def dripping(handler: Handler) -> None:
    """A byte every tenth of a second: never silent for long, and never done."""
    handler.asked.status = 200
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    for _ in range(1000):
        handler.wfile.write(b"P")
        handler.wfile.flush()
        time.sleep(0.1)


def elsewhere(target: str) -> Callable[[Handler], None]:
    return lambda handler: handler.reply(302, b"", Location=target)


def well(handler: Handler) -> None:
    handler.serve(handler.content())


@pytest.mark.parametrize(
    ("tricks", "answers"),
    [
        ([cut, well], ["200", "bytes 206"]),
        ([reset, well], ["200", "bytes 206"]),
        ([reset, without_ranges], ["200", "bytes 200"]),
        ([unstated, well], ["200", "200"]),
        ([corrupt, well], ["200", "200"]),
        ([page, well], ["200", "200"]),
        ([waiting(0.2)], ["200"]),
        ([waiting(0.9), well], ["200", "200"]),
        ([status(503), status(502), well], ["503", "502", "200"]),
        ([status(429, "1"), well], ["429", "200"]),
        ([chunked], ["200"]),
        ([torn, well], ["200", "bytes 206"]),
    ],
    ids=["truncated", "reset", "reset, no ranges", "truncated, no length", "stale cache", "error page", "slow",
         "too slow once", "busy", "told to wait", "chunked", "chunked, truncated"],
)  # fmt: skip
def test_passing_trouble_leaves_no_trace(
    site: Site, tmp_path: Path, tricks: list[Callable[[Handler], None]], answers: list[str]
) -> None:
    site.tricks[KLINES] = [*tricks]
    report = brought(site, tmp_path)
    assert report.sound
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)
    requests = [asked for asked in site.log if asked.path == KLINES]
    assert [f"{'bytes ' if asked.range else ''}{asked.status}" for asked in requests] == answers
    if answers[1:] == ["bytes 206"]:
        first = int(str(requests[1].range).removeprefix("bytes=").removesuffix("-"))
        assert 0 < first <= len(site.files[KLINES]) // 2  # a reset may lose what was still under way
    if answers[0] == "429":  # asked again no sooner than the server said
        assert requests[1].begun - requests[0].begun >= 1.0
    assert not list((tmp_path / "archive").rglob("*.part*"))


@pytest.mark.parametrize(
    ("path", "trick", "told"),
    [
        (KLINES, corrupt, "its .CHECKSUM states"),
        (KLINES, page, "its .CHECKSUM states"),
        (f"{KLINES}.CHECKSUM", lambda h: h.reply(200, b"0" * 64 + b"  BTCUSDT-1h-2024-03.zip\n"), "its .CHECKSUM states 0000"),
        (f"{KLINES}.CHECKSUM", page, "its .CHECKSUM states none"),
        (f"{KLINES}.CHECKSUM", status(404), "no .CHECKSUM"),
        (KLINES, waiting(0.9), "timed out"),
        (KLINES, status(503), "too many 503"),
        (KLINES, status(403), "status 403"),
        (KLINES, cut, "breaks off"),
        (KLINES, huge, "larger than"),
        (KLINES, endless, "larger than"),
        (KLINES, status(503, "soon"), "Retry-After"),
        (KLINES, elsewhere("ftp://archive.invalid/file"), "ftp"),
        (KLINES, elsewhere("http://[::1"), "cannot be had"),
    ],
    ids=["corrupt", "error page", "wrong checksum", "checksum is a page", "no checksum", "slow", "busy", "forbidden",
         "truncated", "huge", "endless", "no Retry-After", "to another protocol", "to no address"],
)  # fmt: skip
def test_lasting_trouble_refuses_the_file_by_name_and_brings_the_rest(
    site: Site, tmp_path: Path, path: str, trick: Callable[[Handler], None], told: str
) -> None:
    site.tricks[path] = [trick]
    report = brought(site, tmp_path)
    [(file, why)] = report.refused
    assert file == KLINES
    assert KLINES.rsplit("/", 1)[-1] in why
    assert told in why
    assert not report.sound
    assert held(tmp_path) == union(site, *APRIL_DAYS)
    assert not (tmp_path / "archive" / KLINES).exists()
    # Once the server has recovered, the next fetch brings the file.
    site.tricks.clear()
    after = brought(site, tmp_path)
    assert (after.refused, after.downloaded) == ((), (KLINES,))
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)


@pytest.mark.parametrize("path", [KLINES, f"{KLINES}.CHECKSUM"])
def test_a_file_that_drips_is_given_up_in_bounded_time(site: Site, tmp_path: Path, path: str) -> None:
    site.tricks[path] = [dripping]
    report = brought(site, tmp_path, manners=replace(QUICK, slowest=0.3))
    [(file, why)] = report.refused
    assert (file, "slower than 0.3 seconds a MiB" in why) == (KLINES, True)
    assert held(tmp_path) == union(site, *APRIL_DAYS)


def test_an_absent_file_may_be_told_of_in_any_encoding(site: Site, tmp_path: Path) -> None:
    site.tricks[FIRST_DAY] = [lambda handler: handler.reply(404, b"no gzip", **{"Content-Encoding": "gzip"})]
    report = brought(site, tmp_path)
    assert (report.sound, report.not_published) == (True, (FIRST_DAY,))


def test_what_fails_its_checksum_twice_is_kept_apart_by_name(site: Site, tmp_path: Path) -> None:
    site.tricks[KLINES] = [corrupt]
    brought(site, tmp_path)
    [kept] = (tmp_path / "archive/quarantine").rglob("*.zip.refused")
    content = kept.read_bytes()
    assert len(content) == len(site.files[KLINES])
    assert content != site.files[KLINES]
    [line] = [
        e
        for e in map(json.loads, (tmp_path / "archive/ledger.jsonl").read_text().splitlines())
        if e["event"] == "refused"
    ]
    assert line["sha256"] == hashlib.sha256(content).hexdigest()
    assert tmp_path / "archive" / line["kept"] == kept
    # The second attempt went past caches.
    asked = [request.headers.get("Cache-Control") for request in site.log if request.path == KLINES]
    assert asked == [None, "no-cache"]


def test_a_file_that_waited_for_its_checksum_is_not_sent_again(site: Site, tmp_path: Path) -> None:
    checksum = site.files.pop(f"{KLINES}.CHECKSUM")
    assert "no .CHECKSUM" in brought(site, tmp_path).refused[0][1]
    site.files[f"{KLINES}.CHECKSUM"] = checksum
    assert brought(site, tmp_path).downloaded == (KLINES,)
    assert site.asked(KLINES) == [("", 200), (f"bytes={len(site.files[KLINES])}-", 416)]


def test_a_file_that_changes_between_two_halves_comes_whole(site: Site, tmp_path: Path) -> None:
    def swap(handler: Handler) -> None:
        cut(handler)
        site.bars("bars", "BTCUSDT", "2024-03", skip=(5,))

    site.tricks[KLINES] = [swap, well]
    assert brought(site, tmp_path).sound
    assert site.asked(KLINES)[1][0].startswith("bytes=")
    assert [code for _, code in site.asked(KLINES)] == [200, 200]
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)
    assert len(site.rows[KLINES]) == 31 * 24 - 1


# --------------------------------------------------------------------------- revisions


def republish(site: Site, path: str, table: str = "bars", period: str = "2024-03") -> tuple[Any, Any]:
    """Publish a file again with its 8th row changed and one more that it lacked; their keys."""
    lines, rows = klines(table, "BTCUSDT", period)
    new, changed = list(rows)[5], list(rows)[7]
    fields = lines[7].split(",")
    fields[4] = fields[1]  # the close becomes the open, which is within high and low
    lines[7] = ",".join(fields)
    rows[changed] = (*rows[changed][:3], rows[changed][0])
    site.put(path, lines, rows)
    return new, changed


def test_a_republished_file_is_a_revision_and_the_past_stands(site: Site, tmp_path: Path) -> None:
    site.bars("bars", "BTCUSDT", "2024-03", skip=(5,))
    brought(site, tmp_path)
    first, first_rows, first_file = everything(tmp_path), held(tmp_path), site.files[KLINES]
    new, changed = republish(site, KLINES)
    begun = pd.Timestamp.now("UTC")
    report = brought(site, tmp_path)
    assert (report.revised, report.downloaded, report.sound) == ((KLINES,), (), True)
    # Both files are kept, and no byte of the first import has changed but the table of contents.
    after = everything(tmp_path)
    assert {name for name in first if first[name] != after.get(name)} == {"manifest.json"}
    sha = hashlib.sha256(site.files[KLINES]).hexdigest()
    assert after[f"archive/{KLINES}"] == first_file
    assert after[f"archive/revisions/{sha[:12]}/{KLINES}"] == site.files[KLINES]
    # The new row is there, known from the fetch on; the changed row reads as it first did.
    assert held(tmp_path) == first_rows | {new: site.rows[KLINES][new]}
    assert first_rows[changed] != site.rows[KLINES][changed]
    market = Market.open(tmp_path)
    known = market.bars().loc[("BTCUSDT", new[2]), "available_at"]
    assert begun <= known <= pd.Timestamp.now("UTC")
    assert new[2] not in market.as_of(begun).bars().loc["BTCUSDT"].index
    others = market.bars().drop(index=("BTCUSDT", new[2]))
    assert (others["available_at"] == others.index.get_level_values("close_time")).all()
    # The disagreement is not hidden.
    told = [f for f in check(tmp_path).findings if f.check == "disagreement"]
    assert [(f.entity, f.first, f.last, f.count) for f in told] == [("BTCUSDT", *[changed[2].isoformat()] * 2, 1)]
    assert told[0].message.startswith("close: vision differs from vision")
    # And the same version is not a revision again, nor is the first one when a cache still has it.
    for _ in range(2):
        again = brought(site, tmp_path)
        assert (again.revised, again.downloaded, again.imports) == ((), (), ())
        site.files[KLINES] = first_file
        site.sign(KLINES)
    assert everything(tmp_path) == after


def test_old_files_are_not_asked_again_so_their_revisions_stay_unseen(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path)
    republish(site, KLINES)
    assert brought(site, tmp_path, recheck=2).revised == ()
    assert brought(site, tmp_path, recheck=3).revised == (KLINES,)


def test_what_is_withdrawn_or_unreadable_later_stands(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path)
    before = everything(tmp_path)
    site.drop(KLINES)
    site.tricks[f"{FIRST_DAY}.CHECKSUM"] = [page]
    report = brought(site, tmp_path)
    assert report.not_published == (f"{KLINES}.CHECKSUM",)
    assert [file for file, _ in report.refused] == [FIRST_DAY]
    assert everything(tmp_path) == before


def test_a_month_goes_on_by_days_and_what_it_adds_to_known_days_came_late(site: Site, tmp_path: Path) -> None:
    days = [site.bars("bars", "BTCUSDT", f"{day:%Y-%m-%d}") for day in pd.date_range("2024-04-03", "2024-04-30")]
    site.bars("bars", "BTCUSDT", "2024-04-01", skip=(5,))
    brought(site, tmp_path, since=APRIL)
    monthly = site.bars("bars", "BTCUSDT", "2024-04")
    site.drop(days[9])  # the 12th is missing by day
    begun = pd.Timestamp.now("UTC")
    report = brought(site, tmp_path, since=APRIL, today=date(2024, 5, 3), until=date(2024, 5, 1))
    assert monthly in report.downloaded
    assert report.not_published == (days[9],)
    assert held(tmp_path) == union(site, monthly)
    bars = Market.open(tmp_path).bars().loc["BTCUSDT"]
    late = bars.index[bars["available_at"] != bars.index]
    # Of the 12th nothing had been known; the hour that the 1st lacked had been looked for in vain.
    assert list(late) == [pd.Timestamp("2024-04-01 06:00", tz="UTC")]
    assert bars.loc[late[0], "available_at"] >= begun
    # From then on the month's own file is the one that is looked after.
    site.log.clear()
    brought(site, tmp_path, since=APRIL, today=date(2024, 5, 4), until=date(2024, 5, 1))
    assert site.asked() == [(f"{monthly}.CHECKSUM", 200)]


def trades(symbol: str, day: str, shift: float = 0.0) -> list[str]:
    """A trade every ten minutes, one unit each; the price of the sixth hour is shifted."""
    lines = ["agg_trade_id,price,quantity,first_trade_id,last_trade_id,transact_time,is_buyer_maker"]
    first = int(day[-2:]) * 144
    for i, at in enumerate(pd.date_range(*span(day), freq="10min", inclusive="left")):
        price = 100 + i % 7 + (shift if i // 6 == 5 else 0.0)
        lines.append(f"{first + i},{price},1,{first + i},{first + i},{epoch(at)},{'true' if i % 2 else 'false'}")
    return lines


def hourly(lines: list[str]) -> list[tuple[float, float, float, float, float]]:
    prices = [float(line.split(",")[1]) for line in lines[1:]]
    hours = [prices[i : i + 6] for i in range(0, len(prices), 6)]
    return [(hour[0], max(hour), min(hour), hour[-1], float(len(hour))) for hour in hours]


def test_trades_become_bars_and_their_revisions_leave_the_past(site: Site, tmp_path: Path) -> None:
    days = ("2024-04-01", "2024-04-02")
    paths = [f"data/futures/um/daily/aggTrades/BTCUSDT/BTCUSDT-aggTrades-{day}.zip" for day in days]
    for path, day in zip(paths, days, strict=True):
        site.put(path, trades("BTCUSDT", day), {})
    report = brought(site, tmp_path, since=APRIL, datasets=["klines", "aggTrades"])
    assert report.newest["aggTrades"] == "2024-04-03T00:00:00+00:00"
    assert report.sound
    alone = tmp_path / "alone"
    brought(site, alone, since=APRIL, datasets=["aggTrades"])
    columns = ["open", "high", "low", "close", "volume"]
    expected = [bar for day in days for bar in hourly(trades("BTCUSDT", day))]
    assert list(Market.open(alone).bars()[columns].itertuples(index=False, name=None)) == expected
    assert brought(site, alone, since=APRIL, datasets=["aggTrades"]).imports == ()
    before = everything(alone)
    begun = pd.Timestamp.now("UTC")
    revised = trades("BTCUSDT", days[1], shift=0.5)
    site.put(paths[1], [*revised[:9], revised[9].replace(",1,", ",one,", 1), *revised[10:]], {})
    report = brought(site, alone, since=APRIL, datasets=["aggTrades"])
    assert report.revised == (paths[1],)
    [bad] = report.imports[0].quarantined
    assert (bad.line, bad.column, bad.file.split("/revisions/")[1][13:]) == (10, "quantity", paths[1])
    assert len(list((alone / "quarantine/bars").glob("*.jsonl"))) == 1
    assert list(Market.open(alone).bars()[columns].itertuples(index=False, name=None)) == expected
    assert {name for name in before if before[name] != everything(alone).get(name)} == {"manifest.json"}
    told = [f for f in check(alone).findings if f.check == "disagreement" and f.interval == "1h"]
    assert {"open", "high", "low", "close"} <= {f.message.split(":")[0] for f in told}
    assert {(f.first, f.count) for f in told if f.message.startswith("open:")} == {("2024-04-02T06:00:00+00:00", 1)}
    store = Store(alone)
    revision = store.read(store.find("bars", "1h")[-1])
    assert (revision["available_at"] >= begun).all()


def day_of_trades(day: str, symbol: str = "BTCUSDT") -> str:
    return f"data/futures/um/daily/aggTrades/{symbol}/{symbol}-aggTrades-{day}.zip"


def test_a_republished_day_is_imported_though_its_month_came_too(site: Site, tmp_path: Path) -> None:
    first, second = "2024-04-01", "2024-04-02"
    for day in (first, second):
        site.put(day_of_trades(day), trades("BTCUSDT", day), {})
    brought(site, tmp_path, since=APRIL, datasets=["aggTrades"])
    site.put(day_of_trades(second), trades("BTCUSDT", second, shift=0.5), {})
    month = day_of_trades("2024-04").replace("/daily/", "/monthly/")
    site.put(month, [*trades("BTCUSDT", first), *trades("BTCUSDT", second)[1:]], {})
    begun = pd.Timestamp.now("UTC")
    asked = {"since": APRIL, "until": date(2024, 5, 1), "today": date(2024, 5, 3), "datasets": ["aggTrades"]}
    report = brought(site, tmp_path, **asked)
    assert (report.revised, report.downloaded) == ((day_of_trades(second),), (month,))
    store = Store(tmp_path)
    opened = {file.path: store.read(file)["open"].iloc[5] for file in store.find("bars", "1h") if file.rows == 24}
    original, shifted = (hourly(trades("BTCUSDT", second, shift))[5][0] for shift in (0.0, 0.5))
    assert sorted(opened.values())[-2:] == [original, shifted]
    # Neither the revision nor the month's word on days that had come before was known before the fetch.
    bars = pd.concat([store.read(file) for file in store.find("bars", "1h")], ignore_index=True)
    again = bars[bars.duplicated(["symbol", "close_time"])]
    assert len(again) == 48 + 24
    assert (again["available_at"] >= begun).all()
    assert brought(site, tmp_path, **asked).imports == ()


def thin(day: pd.Timestamp, number: int, freq: str = "h") -> list[str]:
    """24 trades, as a rule one an hour; the market dries up to a hundredth on the 15th of March."""
    lines = trades("BTCUSDT", f"{day:%Y-%m-%d}")[:1]
    size = 100 if day < pd.Timestamp("2024-03-15", tz="UTC") else 1
    for i, at in enumerate(pd.date_range(day, periods=24, freq=freq)):
        n = number * 24 + i
        lines.append(f"{n},{100 + n % 7},{size + n % 3},{n},{n},{epoch(at)},{'true' if n % 5 < 2 else 'false'}")
    return lines


def test_trades_fetched_day_by_day_equal_those_fetched_at_once(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, opened = trade_source.read, []

    def noted(files: Any, intervals: Any) -> Any:
        opened.append([file.stem[-10:] for file in files])
        return read(files, ("1h",))

    monkeypatch.setattr(trade_source, "read", noted)
    for number, day in enumerate(pd.date_range("2024-02-26", "2024-03-24", tz="UTC")):
        site.put(day_of_trades(f"{day:%Y-%m-%d}"), thin(day, number), {})
    asked = {"since": date(2024, 2, 26), "datasets": ["aggTrades"]}
    brought(site, tmp_path / "once", today=date(2024, 3, 25), **asked)
    for today in (date(2024, 3, 22), date(2024, 3, 24), date(2024, 3, 25)):
        brought(site, tmp_path / "daily", today=today, **asked)
    once = everything(tmp_path / "once")
    assert everything(tmp_path / "daily") == once
    assert Market.open(tmp_path / "once").bars()["vpin"].iloc[-1] > 0
    # A day that waits is read with the three weeks before it, and with no more.
    assert [(len(files), files[0]) for files in opened] == [
        (28, "2024-02-26"), (25, "2024-02-26"), (23, "2024-03-01"), (22, "2024-03-03"),
    ]  # fmt: skip
    # An import whose note was lost is done again, and is the same one.
    ledger = tmp_path / "once/archive/ledger.jsonl"
    ledger.write_text(ledger.read_text()[:-40])
    [again] = brought(site, tmp_path / "once", today=date(2024, 3, 25), **asked).imports
    assert (again.written, everything(tmp_path / "once")) == ((), once)


def test_a_day_that_comes_after_the_next_one_is_whole_to_its_quiet_end(site: Site, tmp_path: Path) -> None:
    days = pd.date_range("2024-03-20", "2024-03-22", tz="UTC")
    files = [day_of_trades(f"{day:%Y-%m-%d}") for day in days]
    for number, (file, day) in enumerate(zip(files, days, strict=True)):
        site.put(file, thin(day, number, "50min" if number == 1 else "h"), {})  # the last trade of the 21st at 19:10
    late, asked = site.files.pop(files[1]), {"since": date(2024, 3, 20), "today": date(2024, 3, 23)}
    brought(site, tmp_path, datasets=["aggTrades"], **asked)
    before = Market.open(tmp_path).bars()
    site.files[files[1]] = late
    [done] = brought(site, tmp_path, datasets=["aggTrades"], **asked).imports
    after = Market.open(tmp_path).bars()
    expected = pd.date_range("2024-03-20 01:00", "2024-03-23", freq="h", tz="UTC")
    assert list(after.loc["BTCUSDT"].index) == list(expected)
    assert list(after["volume"].iloc[24 + 20 : 48]) == [0.0] * 4
    # The day's own bars, and the quiet minutes before it, which its first trade closes.
    assert done.rows == {"bars": 24 + 1440 + 59}
    # What had been known stands.
    pd.testing.assert_frame_equal(after.loc[before.index], before, check_exact=True)
    # Of a revision the quiet end was not known before it came, either.
    site.put(files[1], thin(days[1], 1, "40min"), {})
    begun = pd.Timestamp.now("UTC")
    brought(site, tmp_path, datasets=["aggTrades"], **asked)
    pd.testing.assert_frame_equal(Market.open(tmp_path).bars(), after, check_exact=True)
    rows = pd.concat([Store(tmp_path).read(file) for file in Store(tmp_path).find("bars", "1h")], ignore_index=True)
    again = rows[rows.duplicated(["symbol", "close_time"])]
    assert len(again) == 24
    assert (again["available_at"] >= begun).all()


def test_a_fetch_reads_and_reports_only_what_waits(site: Site, tmp_path: Path) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT"):
        lines = trades(symbol, "2024-04-01")
        site.put(day_of_trades("2024-04-01", symbol), [*lines[:9], "torn", *lines[9:]], {})
    asked = {"symbols": ["BTCUSDT", "ETHUSDT"], "since": APRIL, "datasets": ["aggTrades"]}
    assert len(brought(site, tmp_path, today=date(2024, 4, 2), **asked).imports[0].quarantined) == 2
    site.put(day_of_trades("2024-04-02"), trades("BTCUSDT", "2024-04-02"), {})
    [(done)] = brought(site, tmp_path, **asked).imports
    assert done.quarantined == ()
    assert {file.rsplit("/", 1)[-1] for file, _ in done.notes} == {"BTCUSDT-aggTrades-2024-04-02.zip"}
    assert len(done.written) == 2


def test_what_a_symbol_gave_stays_when_the_next_one_is_interrupted(site: Site, tmp_path: Path) -> None:
    for symbol in ("BTCUSDT", "ETHUSDT"):
        for day in ("2024-04-01", "2024-04-02"):
            site.put(day_of_trades(day, symbol), trades(symbol, day), {})
    asked = {"symbols": ["BTCUSDT", "ETHUSDT"], "since": APRIL, "datasets": ["aggTrades"]}

    def stop(stage: str, done: int, total: int) -> None:
        if (stage, done, total) == ("import of trades", 3, 4):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        brought(site, tmp_path, progress=stop, **asked)
    assert Market.open(tmp_path).symbols == ("BTCUSDT",)
    [done] = brought(site, tmp_path, **asked).imports
    assert len(done.written) == 4
    assert all("symbol=ETHUSDT" in file for file in done.written)


# --------------------------------------------------------------------------- which files


def test_a_month_whose_file_is_missing_comes_by_days(site: Site, tmp_path: Path) -> None:
    site.drop(KLINES)
    days = [site.bars("bars", "BTCUSDT", f"{day:%Y-%m-%d}") for day in pd.date_range("2024-03-01", "2024-03-31")]
    report = brought(site, tmp_path, today=date(2024, 9, 1), until=APRIL)
    assert report.not_published == (KLINES,)
    assert set(report.downloaded) == set(days)
    assert held(tmp_path) == union(site, *days)
    # Published after all, it is not needed any more.
    site.bars("bars", "BTCUSDT", "2024-03")
    site.log.clear()
    brought(site, tmp_path, today=date(2024, 9, 2), until=APRIL)
    assert site.asked() == []


def test_part_of_a_month_comes_by_days_and_nothing_beside_it(site: Site, tmp_path: Path) -> None:
    days = [site.bars("bars", "BTCUSDT", f"2024-03-{day}") for day in (10, 11, 12, 13)]
    report = brought(site, tmp_path, since=date(2024, 3, 11), until=date(2024, 3, 13))
    assert report.downloaded == tuple(days[1:3])
    assert held(tmp_path) == union(site, *days[1:3])


def test_days_that_the_archive_does_not_have_yet_are_named_and_come_later(site: Site, tmp_path: Path) -> None:
    report = brought(site, tmp_path, today=date(2024, 4, 5))
    assert [path[-14:-4] for path in report.not_published] == ["2024-04-03", "2024-04-04"]
    assert report.sound
    assert report.newest == {"klines": "2024-04-03T00:00:00+00:00"}
    third = site.bars("bars", "BTCUSDT", "2024-04-03")
    assert brought(site, tmp_path, today=date(2024, 4, 5)).downloaded == (third,)
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS, third)


# --------------------------------------------------------------------------- refusals


def test_a_symbol_of_which_nothing_exists_is_named_and_the_rest_is_kept(site: Site, tmp_path: Path) -> None:
    with pytest.raises(DataInvalid, match="nothing of BTCUSTD from 2024-03-01 to 2024-04-03: check the spelling"):
        brought(site, tmp_path, symbols=["BTCUSTD", "BTCUSDT"])
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)
    # A symbol that is held already may have nothing new.
    assert brought(site, tmp_path, since=date(2024, 4, 3), today=date(2024, 4, 4)).sound


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"symbols": ["btcusdt"]}, "'btcusdt' is no symbol"),
        ({"symbols": ["../../etc"]}, "is no symbol"),
        ({"symbols": []}, "at least one symbol"),
        ({"datasets": ["kline"]}, "did you mean 'klines'"),
        ({"interval": "7h"}, "no bars of '7h'"),
        ({"since": TODAY}, "no whole day from 2024-04-03"),
        ({"since": MARCH, "until": MARCH}, "no whole day"),
        ({"base_url": "file:///etc"}, "is no address"),
        ({"base_url": "http://[::1"}, "is no address"),
        ({"base_url": "http://archive.invalid:99999"}, "is no address"),
        ({"base_url": "http://archive.invalid/?key=hunter2"}, "'http://archive.invalid/' goes on behind the path"),
        ({"base_url": "http://archive.invalid#hunter2"}, "goes on behind the path"),
        ({"base_url": "http://me:hunter2@archive.invalid"}, "'archive.invalid' carries a user name"),
        ({"base_url": "http://me:hunter2@archive.invalid:99999"}, "'archive.invalid:99999' is no address"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_asked(
    site: Site, tmp_path: Path, asked: dict[str, Any], told: str
) -> None:
    with pytest.raises(UsageError, match=told) as refusal:
        brought(site, tmp_path, **asked)
    assert "hunter2" not in str(refusal.value)
    assert site.asked() == []


@pytest.fixture
def proxy(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return lambda value: monkeypatch.setenv("HTTP_PROXY", value)


@pytest.mark.parametrize(
    "value", ["localhost:3128", "socks5://me:hunter2@localhost:1080", "http://", "http://me:hunter2@[::1", "proxy"]
)
def test_a_proxy_that_is_none_is_refused_by_its_variable(
    site: Site, tmp_path: Path, proxy: Callable[[str], None], value: str
) -> None:
    proxy(value)
    with pytest.raises(UsageError, match=r"HTTP_PROXY names no proxy .*http://HOST:PORT") as refusal:
        brought(site, tmp_path)
    assert "hunter2" not in str(refusal.value)


def test_a_proxy_is_told_its_password_and_nobody_else_is(
    site: Site, tmp_path: Path, proxy: Callable[[str], None]
) -> None:
    proxy(site.address.replace("//", "//me:hunter%402@"))
    assert brought(site, tmp_path, base_url=NOWHERE).sound
    assert {asked.headers["proxy-authorization"] for asked in site.log} == {
        f"Basic {base64.b64encode(b'me:hunter@2').decode()}"
    }
    assert "hunter" not in (tmp_path / "archive/ledger.jsonl").read_text()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://me:hunter2@127.0.0.1:{taken.getsockname()[1]}"
    proxy(closed)
    with pytest.raises(Interrupted, match="cannot be reached") as stopped:
        brought(site, tmp_path, base_url=NOWHERE)
    assert "hunter2" not in str(stopped.value)


def test_an_unreachable_server_stops_the_fetch_at_once(site: Site, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        closed = f"http://127.0.0.1:{taken.getsockname()[1]}"
    with pytest.raises(Interrupted, match=r"cannot be reached \(.*refused.*run the same command again"):
        brought(site, tmp_path, base_url=closed)


def test_a_server_that_fails_on_file_after_file_stops_the_fetch_and_what_came_is_in(site: Site, tmp_path: Path) -> None:
    for day in pd.date_range("2024-04-03", "2024-04-12"):
        site.tricks[site.bars("bars", "BTCUSDT", f"{day:%Y-%m-%d}")] = [status(500)]
    with pytest.raises(Interrupted, match=r"failed on 5 files in a row.*04-07.*what had come is in the store"):
        brought(site, tmp_path, today=date(2024, 4, 13))
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)
    assert not [path for path, _ in site.asked() if "04-08" in path]


def test_a_ledger_whose_last_line_was_torn_goes_on_and_another_damage_is_named(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path)
    before, ledger = everything(tmp_path), tmp_path / "archive/ledger.jsonl"
    lines = ledger.read_text()
    ledger.write_text(lines[:-40])  # the last "imported" is lost with its line
    for _ in range(2):
        assert brought(site, tmp_path).sound
        assert everything(tmp_path) == before
    assert len(ledger.read_text().splitlines()) == len(lines.splitlines())
    ledger.write_text(lines.replace("{", "", 1))
    with pytest.raises(DataInvalid, match=r"ledger.jsonl, line 1: no entry"):
        brought(site, tmp_path)


def test_a_line_that_does_not_fit_leaves_the_ledger_as_it_was(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path, since=APRIL)
    ledger = tmp_path / "archive/ledger.jsonl"
    before, archive = ledger.read_bytes(), Archive(tmp_path / "archive")
    [entry, *_] = archive.held()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 20, hard))  # 20 bytes of the line fit
    try:
        with pytest.raises(OSError, match="File too large"):
            archive.append([entry])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert ledger.read_bytes() == before
    archive.append([entry])
    assert len(Archive(tmp_path / "archive").held()) == 2


@pytest.mark.parametrize("name", ["ledger.jsonl", ".BTCUSDT-1h-2024-04-01.zip.part"])
def test_a_full_disk_interrupts_the_fetch_which_then_goes_on(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    brought(site, tmp_path / "undisturbed", since=APRIL)
    sync, store = os.fsync, tmp_path / "store"

    def full(descriptor: int) -> None:
        for place in (store / "archive").rglob(name):
            if os.path.samestat(os.fstat(descriptor), place.stat()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        sync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(Interrupted, match=r"archive: No space left on device; make room"):
            brought(site, store, since=APRIL)
    assert brought(site, store, since=APRIL).sound
    assert everything(store) == everything(tmp_path / "undisturbed")


# --------------------------------------------------------------------------- processes

CHILD = """
import sys
from datetime import date
from features.sources.download import Manners
from features.sources.fetch import fetch
fetch(["BTCUSDT"], date(2024, 2, 1), sys.argv[2], datasets=["klines"], base_url=sys.argv[1], today=date(2024, 4, 3),
      manners=Manners(pause=0.0, read_timeout=60.0))
"""


def test_a_killed_fetch_goes_on_where_it_was_and_ends_with_the_same_store(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path / "undisturbed", since=FEBRUARY)
    half_sent, gone = threading.Event(), threading.Event()

    def stall(handler: Handler) -> None:
        content = handler.content()
        handler.reply(
            200, content[: len(content) // 2], length=len(content), ETag=f'"{hashlib.md5(content).hexdigest()}"'
        )
        handler.wfile.flush()
        half_sent.set()
        gone.wait(60)
        handler.close_connection = True

    site.log.clear()
    site.tricks[KLINES] = [stall]
    store = tmp_path / "killed"
    child = subprocess.Popen([sys.executable, "-c", CHILD, site.address, str(store)])
    part = store / "archive" / KLINES.replace("BTCUSDT-1h", ".BTCUSDT-1h")
    part = part.with_name(f"{part.name}.part")
    try:
        assert half_sent.wait(60)
        while not (part.exists() and part.stat().st_size):
            time.sleep(0.01)
        with pytest.raises(Locked, match=f"process {child.pid}.*is writing .*archive"):
            brought(site, store, since=FEBRUARY)
    finally:
        child.send_signal(signal.SIGKILL)
        child.wait()
        gone.set()
    assert not (store / "manifest.json").exists()
    kept = part.stat().st_size
    assert 0 < kept < len(site.files[KLINES])
    site.tricks.clear()
    report = brought(site, store, since=FEBRUARY)
    assert report.sound
    february = KLINES.replace("2024-03", "2024-02")
    assert february not in report.downloaded
    assert [asked for asked, _ in site.asked(KLINES)] == ["", f"bytes={kept}-"]
    assert site.asked(february) == [("", 200)]
    assert everything(store) == everything(tmp_path / "undisturbed")


def test_the_store_is_locked_while_rows_go_in(site: Site, tmp_path: Path) -> None:
    with Store(tmp_path).writing(), pytest.raises(Locked):
        brought(site, tmp_path)
    assert brought(site, tmp_path).downloaded == ()  # they wait in the archive
    assert held(tmp_path) == union(site, KLINES, *APRIL_DAYS)


def test_the_archive_can_fill_another_store(site: Site, tmp_path: Path) -> None:
    brought(site, tmp_path / "store")
    import_data("vision", tmp_path / "store/archive", tmp_path / "other")
    assert held(tmp_path / "other") == held(tmp_path / "store")
    # And into the same store it brings nothing new.
    assert import_data("vision", tmp_path / "store/archive", tmp_path / "store").written == ()


def test_by_hand_an_archive_gives_its_first_versions_and_nothing_that_was_refused(site: Site, tmp_path: Path) -> None:
    site.bars("bars", "BTCUSDT", "2024-03", skip=(5,))
    site.tricks[FIRST_DAY] = [corrupt]
    brought(site, tmp_path / "store")
    new, _ = republish(site, KLINES)
    brought(site, tmp_path / "store")
    archive = tmp_path / "store/archive"
    report = import_data("vision", archive, tmp_path / "other")
    assert report.quarantined == ()
    # That the new row was known at its close, nobody can say; when it was, only the ledger.
    assert held(tmp_path / "other") == {key: row for key, row in held(tmp_path / "store").items() if key != new}
    told = {Path(file).relative_to(archive).parts[0]: why for file, why in report.skipped}
    assert "data fetch alone" in told["revisions"]
    assert "its name is not" in told["quarantine"]
    with pytest.raises(DataInvalid, match="a re-published version, known only since it was fetched"):
        import_data("vision", archive / "revisions", tmp_path / "later")


@pytest.mark.real
def test_real_files_come_as_an_import_of_their_folder_reads_them(site: Site, real_data: Path, tmp_path: Path) -> None:
    source = real_data / "binance_vision"
    site.files = {str(file.relative_to(source)): file.read_bytes() for file in source.rglob("*") if file.is_file()}
    report = brought(
        site, tmp_path / "fetched", since=date(2025, 5, 1), until=date(2025, 7, 1), today=date(2025, 7, 2),
        datasets=["klines", "funding"],
    )  # fmt: skip
    assert report.sound
    for folder in ("klines/BTCUSDT", "fundingRate/BTCUSDT"):
        import_data("vision", source / "data/futures/um/monthly" / folder, tmp_path / "imported")
    may = pd.Timestamp("2025-05-01", tz="UTC")
    recent = {
        (table, symbol, at): values
        for (table, symbol, at), values in held(tmp_path / "imported").items()
        if (at >= may if table == "funding" else at > may)
    }
    assert len(recent) == 61 * (24 + 3)
    assert held(tmp_path / "fetched") == recent


# --------------------------------------------------------------------------- the command line


def test_the_command_fetches_reports_and_says_by_its_exit_code_what_happened(
    site: Site, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [
        *("data", "fetch", "binance", "--symbols", "BTCUSDT", "--since", "2024-02-01", "--until", "2024-04-01"),
        *("--datasets", "klines", "--base-url", site.address, "--store", str(tmp_path)),
    ]
    site.tricks[KLINES] = [corrupt]
    assert main([*words, "--json"]) == 3
    told = json.loads(capfd.readouterr().out)
    february = KLINES.replace("2024-03", "2024-02")
    assert told["downloaded"] == [february]
    assert [entry["file"] for entry in told["refused"]] == [KLINES]
    assert told["rows"] == {"bars": 29 * 24}
    assert held(tmp_path) == union(site, february)
    site.tricks.clear()
    assert main(words) == 0
    out, err = capfd.readouterr()
    assert "1 downloaded" in out
    assert "klines: up to 2024-04-01T00:00:00+00:00" in out
    assert err == ""
    assert held(tmp_path) == union(site, february, KLINES)
    assert main(["data", "fetch", "kraken", *words[3:]]) == 2
    assert "binance" in capfd.readouterr().err
    assert main([*words[:4], "BTCUSTD", *words[5:]]) == 3
    assert "nothing of BTCUSTD" in capfd.readouterr().err
