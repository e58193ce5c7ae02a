"""Sealed documents: JSON that begins with the SHA-256 of all that follows.

    {"sha256": "<64 hexadecimal digits>",
      "format": …,
      …
    }

The digest is of the bytes behind the first line. It is compared before anything is parsed.
"""

from __future__ import annotations

import msgspec

from edgeexit.digest import sha256
from edgeexit.errors import EdgeExitError

__all__ = ["PREFIX", "seal", "unseal"]

PREFIX = b'{"sha256": "'
_SEPARATOR = b'",\n'
_DIGEST_END = len(PREFIX) + 64
_REST_START = _DIGEST_END + len(_SEPARATOR)


def seal(document: bytes) -> bytes:
    """The bytes of the file that holds a JSON object of at least one key."""
    rest = msgspec.json.format(document, indent=2).removeprefix(b"{\n") + b"\n"
    return PREFIX + sha256(rest).encode() + _SEPARATOR + rest


def unseal(data: bytes, file: str, what: str, *, error: type[EdgeExitError], remedy: str) -> bytes:
    """The JSON object, without the digest, once the digest matched.

    Args:
        data: The file's bytes.
        file: What to call the file in messages.
        what: What it should be, such as "manifest".
        error: What to raise.
        remedy: What to do about a file that was altered.

    Raises:
        error: The file does not begin as such files do, or does not match its digest.
    """
    if not data.startswith(PREFIX) or data[_DIGEST_END:_REST_START] != _SEPARATOR:
        raise error(
            f"{file} does not begin as an EdgeExit {what} does",
            got=repr(data[:24]),
            expected=f"{PREFIX!r} and 64 hexadecimal digits",
        )
    rest = data[_REST_START:]
    digest = sha256(rest).encode()
    if data[len(PREFIX) : _DIGEST_END] != digest:
        raise error(
            f"{file} does not match its digest, so it was altered or damaged",
            got=f"sha256 {digest.decode()}",
            expected=f"sha256 {data[len(PREFIX) : _DIGEST_END]!r}",
            remedy=remedy,
        )
    return b"{" + rest
