"""Untrusted archives: bytes of one CSV file out of a zip, in memory, and nothing else."""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import Final

from features.errors import DataInvalid
from features.sources.reading import BadRow

__all__ = ["rows", "unzip", "verify"]

MAX_BYTES: Final = 512 * 2**20
MAX_RATIO: Final = 200
MAX_ROWS: Final = 5_000_000

# What the standard library raises on damaged zip files: its own errors, those of the compressions, of struct
# and of text (member names), and of unknown or encrypted ones.
_DAMAGE: Final = (
    *(zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error),
    *(OSError, EOFError, RuntimeError, ValueError),
)


def verify(file: Path, content: bytes) -> None:
    """Compare ``content`` with the ``.CHECKSUM`` beside the file, if any; ``DataInvalid`` if they differ."""
    beside = file.with_name(file.name + ".CHECKSUM")
    if not beside.is_file():
        return
    words = beside.read_text(errors="replace").split()
    if not words or words[0].lower() != hashlib.sha256(content).hexdigest():
        raise DataInvalid(f"{file} does not have the sha256 that {beside.name} states; download both again")


def unzip(file: Path, content: bytes) -> bytes:
    """The only member of a zip file, decompressed in memory; its name is never used as a path.

    Raises
    ------
    DataInvalid
        Not a zip file, damaged, encrypted, more than one member, a member whose name is a path or another
        file's, or one that grows beyond 512 MiB or 200 times its compressed size.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = archive.infolist()
            if len(members) != 1:
                raise DataInvalid(f"{file} holds {len(members)} members where the archive has one; download it again")
            member = members[0]
            _refuse_unsafe(file, member)
            with archive.open(member) as stream:
                # Headers may lie about sizes: what is read decides.
                limit = min(MAX_BYTES, MAX_RATIO * max(len(content), 1))
                text = stream.read(limit + 1)
    except _DAMAGE as fault:
        raise DataInvalid(f"{file} is no sound zip file ({fault}); download it again") from None
    if len(text) > limit:
        raise DataInvalid(f"{file} grows beyond {limit:,} bytes when decompressed; refused as a decompression bomb")
    return text


def _refuse_unsafe(file: Path, member: zipfile.ZipInfo) -> None:
    name = member.filename
    if member.is_dir() or PurePosixPath(name.replace("\\", "/")).name != name:
        raise DataInvalid(f"{file} holds {name!r}, a path and not a file name; refused, take it from the archive")
    if name != f"{file.stem}.csv":
        # Rows do not name their symbol: the member's name is the only witness that the file is what it says.
        raise DataInvalid(f"{file} holds {name!r}, not {file.stem}.csv; give the file its name, or download it again")
    if member.flag_bits & 0x1:
        raise DataInvalid(f"{file} is encrypted; the public archive is not, download it again")
    if member.file_size > MAX_BYTES or member.file_size > MAX_RATIO * max(member.compress_size, 1):
        raise DataInvalid(
            f"{file} would grow from {member.compress_size:,} to {member.file_size:,} bytes; "
            "refused as a decompression bomb"
        )


def rows(
    file: Path, content: bytes, columns: tuple[str, ...]
) -> tuple[list[int], list[list[str]], tuple[tuple[BadRow, str], ...]]:
    """Lines, fields and torn lines of a CSV with or without a header line.

    A file with a header is read by its names, one without by position. Lines with another number of fields
    are torn: returned with their text instead of being filled up.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataInvalid(f"{file} is no UTF-8 text ({fault}); download it again") from None
    lines: list[int] = []
    fields: list[list[str]] = []
    torn: list[tuple[BadRow, str]] = []
    order: list[int] | None = None
    # The archive quotes nothing: a stray quote spoils its own field and does not swallow the lines below.
    reader = csv.reader(io.StringIO(text), quoting=csv.QUOTE_NONE)
    try:
        for row in reader:
            if not row:
                continue
            if order is None:
                order = _order(file, row, columns)
                headed = not row[0][:1].isdigit()
                width = len(row) if headed else len(columns)
                if headed:
                    continue
            if len(row) != width:
                cause = f"has {len(row)} fields where the layout has {width}"
                torn.append((BadRow(str(file), reader.line_num, None, cause), ",".join(row)))
                continue
            lines.append(reader.line_num)
            fields.append([row[i] for i in order])
            if len(lines) > MAX_ROWS:
                raise DataInvalid(f"{file} has more than {MAX_ROWS:,} rows; split it")
    except csv.Error as fault:
        raise DataInvalid(f"{file}, line {reader.line_num}: {fault}; download it again") from None
    if order is None:
        raise DataInvalid(f"{file} is empty; download it again")
    return lines, fields, tuple(torn)


def _order(file: Path, first: list[str], columns: tuple[str, ...]) -> list[int]:
    """Where each column stands: by the header's names, or, without a header, by the layout."""
    if first[0][:1].isdigit():
        return list(range(len(columns)))
    for column in columns:
        if first.count(column) != 1:
            fault = "has twice" if column in first else "lacks"
            raise DataInvalid(f"{file} {fault} the column {column!r}; its header is {','.join(first)}")
    return [first.index(column) for column in columns]
