"""manifest.json: its bytes, its digest, and the manifest inside."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import msgspec

from edgeexit.bundle.layout import MANIFEST_FILE, MAX_MANIFEST_BYTES
from edgeexit.errors import BundleError
from edgeexit.manifest import FORMAT_NAME, FORMAT_VERSION, Manifest

__all__ = ["PREFIX", "decode_manifest", "encode_manifest"]

SINCE_VERSION_2 = {
    "the manifest": frozenset({"statistics_file"}),
    "calibration": frozenset({"delta", "budget", "unit", "method", "drift"}),
    "a segment": frozenset({"features"}),
}
"""Keys by the object that has them."""

PREFIX = b'{"sha256": "'
_SEPARATOR = b'",\n'
_DIGEST_END = len(PREFIX) + 64
_REST_START = _DIGEST_END + len(_SEPARATOR)
_UNREADABLE = (ValueError, RecursionError, OverflowError)  # ValueError is msgspec's, json's and Unicode's


class _Version(msgspec.Struct):
    format: str
    version: int


def encode_manifest(manifest: Manifest) -> bytes:
    """The canonical bytes of manifest.json.

    Raises:
        BundleError: A value is of the wrong type, not finite, or the document would be too large.
    """
    try:
        compact = msgspec.json.encode(manifest, order="deterministic")
        decoded = _decode(compact)
    except (TypeError, *_UNREADABLE) as error:
        raise BundleError(f"{MANIFEST_FILE}: a value has the wrong type", got=error) from error
    if decoded != manifest:
        raise BundleError(f"{MANIFEST_FILE}: a number is NaN or infinite, or a list stands where a tuple belongs")
    rest = msgspec.json.format(compact, indent=2).removeprefix(b"{\n") + b"\n"
    data = PREFIX + hashlib.sha256(rest).hexdigest().encode() + _SEPARATOR + rest
    if len(data) > MAX_MANIFEST_BYTES:
        raise _too_large(len(data))
    return data


def decode_manifest(data: bytes) -> Manifest:
    """Read manifest.json. Its digest is checked before anything is parsed.

    Raises:
        BundleError: The digest differs, the format is newer or unknown, a key is unknown or given
            twice, or a value has the wrong type.
    """
    rest = _verified(data)
    try:
        _check_version(msgspec.json.decode(rest, type=_Version))
        document = json.loads(rest, object_pairs_hook=_refuse_duplicates)
        manifest = _decode(rest)
        _check_keys_of_version(manifest.version, document)
        return manifest
    except _UNREADABLE as error:
        raise BundleError(f"{MANIFEST_FILE} is not a manifest of format version {FORMAT_VERSION}", got=error) from error


def _decode(rest: bytes) -> Manifest:
    return msgspec.json.decode(rest, type=Manifest)


def _verified(data: bytes) -> bytes:
    """The JSON document without the digest in front, once the digest matched."""
    if len(data) > MAX_MANIFEST_BYTES:
        raise _too_large(len(data))
    if not data.startswith(PREFIX) or data[_DIGEST_END:_REST_START] != _SEPARATOR:
        raise BundleError(
            f"{MANIFEST_FILE} does not begin as an EdgeExit manifest does",
            got=repr(data[:24]),
            expected=f"{PREFIX!r} and 64 hexadecimal digits",
        )
    rest = data[_REST_START:]
    digest = hashlib.sha256(rest).hexdigest().encode()
    if data[len(PREFIX) : _DIGEST_END] != digest:
        raise BundleError(
            f"{MANIFEST_FILE} does not match its digest, so it was altered or damaged",
            got=f"sha256 {digest.decode()}",
            expected=f"sha256 {data[len(PREFIX) : _DIGEST_END]!r}",
            remedy="copy or export the bundle again",
        )
    return b"{" + rest


def _check_version(found: _Version) -> None:
    if found.format != FORMAT_NAME:
        raise BundleError(f"{MANIFEST_FILE} is of another format", got=repr(found.format[:100]), expected=FORMAT_NAME)
    if found.version > FORMAT_VERSION:
        raise BundleError(
            f"{MANIFEST_FILE}: this bundle is of a newer format than this EdgeExit can read",
            got=f"format version {found.version}",
            expected=f"format version {FORMAT_VERSION} or less",
            remedy="upgrade with: pip install --upgrade edgeexit",
        )
    if found.version < 1:
        raise BundleError(
            f"{MANIFEST_FILE}: no such format version",
            got=found.version,
            expected=f"format version 1 to {FORMAT_VERSION}",
        )


def _check_keys_of_version(version: int, document: dict[str, Any]) -> None:
    """Version 1 has none of the keys that came later; version 2 has all of them."""
    objects = [("the manifest", document), ("calibration", document["calibration"])]
    for where, found in [*objects, *(("a segment", segment) for segment in document["segments"])]:
        later = SINCE_VERSION_2[where]
        if later & found.keys() != (later if version > 1 else frozenset()):
            raise BundleError(
                f"{MANIFEST_FILE}: {where} does not have the keys of format version {version}",
                got=", ".join(sorted(found)),
                expected=("with " if version > 1 else "without ") + ", ".join(sorted(later)),
            )


def _refuse_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        raise BundleError(f"{MANIFEST_FILE}: a key is given twice", got=sorted(keys))
    return dict(pairs)


def _too_large(size_bytes: int) -> BundleError:
    return BundleError(
        f"{MANIFEST_FILE} is too large", got=f"{size_bytes} bytes", expected=f"at most {MAX_MANIFEST_BYTES} bytes"
    )
