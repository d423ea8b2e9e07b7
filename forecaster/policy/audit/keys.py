"""Keys: private ones in PEM files that only their owner may read, public ones in a registry of k of n.

Ed25519 after RFC 8032, by the library ``cryptography``.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from tempfile import mkstemp
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from features.errors import UsageError

from .chain import since_epoch

__all__ = ["Key", "Registry", "load_private_key", "new_private_key", "public_hex", "seed", "write_secret"]

# The field's prime, and the heights y of the eight points of small order: under such a key anyone can sign
# (Chalkias, Garillot and Nikolaenko 2020, "Taming the many EdDSAs"). 0, 1 and -1 have orders 4, 1 and 2; the
# other two, of order 8, solve d*y^4 + 2*y^2 = 1.
PRIME: Final = 2**255 - 19
ORDER_8: Final = 0x05FC536D880238B13933C6D305ACDFD5F098EFF289F4C345B027B2C28F95E826
SMALL_ORDER: Final = frozenset({0, 1, PRIME - 1, ORDER_8, PRIME - ORDER_8})


@dataclass(frozen=True, slots=True)
class Key:
    """A registered public key (64 hex digits), valid from, until before (microseconds since 1970)."""

    name: str
    public_key: str
    valid_from: int
    valid_until: int
    revoked: bool

    def refusal(self, instant: int) -> str | None:
        """Why the key may not sign what is dated ``instant``; None where it may.

        A revoked key counts for no instant: whoever stole it can date a line as he likes.
        """
        if self.revoked:
            return f"the key of {self.name} is revoked"
        if not self.valid_from <= instant < self.valid_until:
            return f"the key of {self.name} is not valid at that instant"
        return None


@dataclass(frozen=True)
class Registry:
    """Who may sign, and how many of them it takes."""

    threshold: int
    keys: tuple[Key, ...]

    @classmethod
    def load(cls, path: str | Path) -> Registry:
        """Read ``threshold`` and the tables ``[[keys]]`` from TOML.

        Raises UsageError naming file and key where something is missing, unknown, doubled or no public key.
        """
        try:
            values = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UsageError(
                f"{path}: no readable registry of keys: {error.strerror}; write one with threshold and [[keys]]"
            ) from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise UsageError(f"{path}: not a TOML file: {error}") from None
        _same_names(values, {"threshold", "keys"}, str(path))
        tables = values["keys"]
        if not isinstance(tables, list):
            raise UsageError(f"{path}: keys must be tables [[keys]]")
        keys = tuple(_key(table, f"{path}: keys[{i}]") for i, table in enumerate(tables))
        for name, found in (("name", (key.name for key in keys)), ("public_key", (key.public_key for key in keys))):
            if doubled := _doubled(found):
                raise UsageError(f"{path}: {name} {doubled} stands twice; each holder is registered once")
        usable = sum(not key.revoked for key in keys)
        threshold = values["threshold"]
        if type(threshold) is not int or not 1 <= threshold <= usable:
            raise UsageError(
                f"{path}: threshold = {threshold!r} must lie in 1..{usable}, the keys that are not revoked"
            )
        return cls(threshold, keys)

    def find(self, public_key: str) -> Key | None:
        """The registered key, or None."""
        return next((key for key in self.keys if key.public_key == public_key), None)


def new_private_key(path: str | Path) -> str:
    """Write a new private key to a file of mode 0600; returns its public key.

    Raises UsageError where the file exists: a key is never overwritten.
    """
    key = Ed25519PrivateKey.generate()
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        write_secret(path, text, os.link)  # which, unlike a rename, never takes the place of a file
    except FileExistsError:
        raise UsageError(f"{path}: exists; a private key is never overwritten, name another file") from None
    return public_hex(key)


def write_secret(path: str | Path, content: bytes, put: Callable[[str, Path], None] = os.replace) -> None:
    """Write a file that its owner alone may read, from its first byte on, and whole or not at all.

    ``put(beside, path)`` moves the finished file to its place.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, beside = mkstemp(dir=target.parent, prefix=f".{target.name}.")  # of mode 0600
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        put(beside, target)
    finally:
        Path(beside).unlink(missing_ok=True)


def load_private_key(path: str | Path) -> Ed25519PrivateKey:
    """Read a private key (PEM, PKCS #8, unencrypted).

    Raises UsageError where the file is missing, holds no Ed25519 key, or may be used by group or others.
    """
    try:
        with Path(path).open("rb") as file:
            # The opened file is asked, not its name, which could change hands in between.
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            text = file.read()
    except OSError as error:
        raise UsageError(f"{path}: no readable private key: {error.strerror}; `forecaster policy keys --new`") from None
    if mode & 0o077:
        raise UsageError(f"{path}: mode {mode:04o} lets others use the private key; chmod 600 {path}, or replace it")
    try:
        key = serialization.load_pem_private_key(text, password=None)
    except (ValueError, TypeError) as error:
        raise UsageError(f"{path}: no unencrypted private key in PEM: {error}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError(f"{path}: holds a key of another kind; an Ed25519 key is needed")
    return key


def public_hex(key: Ed25519PrivateKey) -> str:
    """The public key, 64 hex digits."""
    return key.public_key().public_bytes_raw().hex()


def seed(key: Ed25519PrivateKey) -> bytes:
    """The 32 secret bytes of a key."""
    return key.private_bytes_raw()


def _key(table: Any, where: str) -> Key:
    if not isinstance(table, dict):
        raise UsageError(f"{where}: must be a table")
    _same_names(table, {field.name for field in fields(Key)}, where)
    name, public, revoked = table["name"], table["public_key"], table["revoked"]
    if not isinstance(name, str) or not name.strip() or type(revoked) is not bool:
        raise UsageError(f"{where}: name must be a text, revoked true or false")
    if not isinstance(public, str) or len(public) != 64 or set(public) - set("0123456789abcdef"):
        raise UsageError(f"{where}: public_key must be 64 lower-case hex digits")
    height = int.from_bytes(bytes.fromhex(public), "little") & (2**255 - 1)
    if height >= PRIME or height in SMALL_ORDER:
        raise UsageError(f"{where}: public_key is a point of small order or badly encoded; anyone could sign with it")
    start, end = (_instant(table[field], f"{where}: {field}") for field in ("valid_from", "valid_until"))
    if start >= end:
        raise UsageError(f"{where}: valid_until must lie after valid_from")
    return Key(name, public, start, end, revoked)


def _instant(value: Any, where: str) -> int:
    if not isinstance(value, datetime) or value.utcoffset() is None:
        raise UsageError(f"{where}: must be an instant with its zone, such as 2024-01-31T08:00:00Z (without quotes)")
    return since_epoch(value)


def _same_names(values: dict[str, Any], wanted: set[str], where: str) -> None:
    if odd := wanted.symmetric_difference(values):
        raise UsageError(f"{where}: missing or unknown keys {', '.join(sorted(odd))}")


def _doubled(values: Iterable[str]) -> str | None:
    return next((value for value, count in Counter(values).items() if count > 1), None)
