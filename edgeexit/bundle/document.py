"""manifest.json: its bytes, its digest, and the manifest inside."""

from __future__ import annotations

import json
from typing import Any

import msgspec

from edgeexit.bundle.layout import MANIFEST_FILE, MAX_MANIFEST_BYTES
from edgeexit.errors import BundleError
from edgeexit.manifest import FORMAT_NAME, FORMAT_VERSION, Manifest
from edgeexit.sealed import PREFIX, seal, unseal

__all__ = ["PREFIX", "decode_manifest", "encode_manifest"]

LATER_KEYS = {
    2: {
        "the manifest": frozenset({"statistics_file"}),
        "calibration": frozenset({"delta", "budget", "unit", "method", "drift"}),
        "a segment": frozenset({"features"}),
    },
    3: {
        "calibration": frozenset({"reference_accuracy"}),
        "a segment": frozenset({"precision"}),
    },
    4: {
        "a segment": frozenset({"payloads"}),
    },
}
"""Keys by the version that brought them, and the object that has them."""

_UNREADABLE = (msgspec.MsgspecError, ValueError, RecursionError, OverflowError)  # ValueError is json's and Unicode's


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
    data = seal(compact)
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
    return unseal(data, MANIFEST_FILE, "manifest", error=BundleError, remedy="copy or export the bundle again")


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
    """A version has all the keys that it or an earlier one brought, and none that came later."""
    objects = [("the manifest", document), ("calibration", document["calibration"])]
    for where, found in [*objects, *(("a segment", segment) for segment in document["segments"])]:
        for since, keys in LATER_KEYS.items():
            later = keys.get(where, frozenset())
            if later & found.keys() != (later if version >= since else frozenset()):
                raise BundleError(
                    f"{MANIFEST_FILE}: {where} does not have the keys of format version {version}",
                    got=", ".join(sorted(found)),
                    expected=("with " if version >= since else "without ") + ", ".join(sorted(later)),
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
