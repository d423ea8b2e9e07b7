"""Damage that any format can take: odd texts, and changed bytes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

FIELDS = (
    *("", " ", "nan", "NaN", "inf", "-inf", "Infinity", "1e400", "-1e400", "1e-400", "-0", "0", "0x1A", "+7", "-1"),
    *("1,000", "1.000,5", "1e300", "1e-320", "abc", "null", "None", "NULL", "N/A", "<NA>", "1_000", "١٢", "１２"),
    *("12\x00", "\x0012", "1.5.2", "1e5", "  5 ", '"7"', '"7', 'a"b', "true", "True", "9" * 40, "0." + "123456789" * 4),
    *("=1+1", "-5", "2.5", "1e-9", "0.11", "0.1", "0.1000001", "25", "24", "3", "8.5", "1e3", "1.", ".5", "--1", "1d5"),
    *("2024-03-01", "2024-03-01 00:05:00", "2024-03-01T00:05:00Z", "2024-02-30 00:00:00", "01/03/2024", "1709251200"),
    *(
        "1709251200000",
        "1709251200000000",
        "1970-01-01 00:00:00",
        "2300-01-01 00:00:00",
        "ETHUSDT",
        "BTCUSDT",
        "\ufeff",
    ),
    *("now", "today", "2024-03-1", "2024-03-01 00:5", "2024-03-01T02:00:00+02:00", "../up", "1h", "15m", "7m"),
)


@dataclass(frozen=True)
class Change:
    """One fault: what, and three numbers that say where and how."""

    what: str | Callable[..., Any]
    i: int
    j: int
    k: int

    @property
    def name(self) -> str:
        return self.what if isinstance(self.what, str) else self.what.__name__

    def __repr__(self) -> str:
        return f"{self.name}({self.i}, {self.j}, {self.k})"


BYTES = ("truncate", "flip byte", "append", "prepend", "empty", "recode", "delete", "duplicate")
JUNK = (b"\x00", b"\xff\xfe", b"\xef\xbb\xbf", b"junk", b"\n\n", b"\r\n", b"\x1a", b"1,2,3\n", b"\xc3\x28", b'"', b",")


def mangle_bytes(content: bytes, changes: list[Change]) -> bytes:
    """The content with the changes of bytes made, in their order."""
    for change in changes:
        place = (change.i * 1000 + change.j) % (len(content) + 1)
        junk = JUNK[change.k % len(JUNK)]
        if change.name == "truncate":
            content = content[:place]
        elif change.name == "flip byte" and content:
            place %= len(content)
            content = content[:place] + bytes([content[place] ^ (1 << change.k % 8)]) + content[place + 1 :]
        elif change.name == "append":
            content += junk
        elif change.name == "prepend":
            content = junk + content
        elif change.name == "empty":
            content = b""
        elif change.name == "delete":
            content = content[:place] + content[place + 1 + change.k % 40 :]
        elif change.name == "duplicate":
            content = content[:place] + content[place : place + 1 + change.k] + content[place:]
        elif change.name == "recode":
            content = _recode(content, change.k)
    return content


def _recode(content: bytes, k: int) -> bytes:
    text = content.decode("utf-8", "replace")
    codec = ("utf-16", "utf-16-le", "utf-8-sig", "utf-32", "cp037")[k % 5]
    return text.encode(codec, "replace")
