"""manifest.json: digest first, then version, then every key and type."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import Document, bundle_parts, signed
from edgeexit.bundle.document import decode_manifest, encode_manifest
from edgeexit.bundle.layout import MAX_MANIFEST_BYTES
from edgeexit.errors import BundleError
from edgeexit.manifest import FORMAT_VERSION, Manifest

MANIFEST, _ = bundle_parts()
BYTES = encode_manifest(MANIFEST)
REST = BYTES[79:]


@dataclass
class Place:
    """One object inside the JSON document."""

    name: str
    target: Document


def altered(**changes: object) -> bytes:
    document = {**json.loads(b"{" + REST), **changes}
    return signed(json.dumps(document).removeprefix("{").encode())


def objects(value: Any, name: str = "$") -> list[Place]:
    found = [Place(name, value)] if isinstance(value, dict) else []
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return found + [place for key, child in children for place in objects(child, f"{name}.{key}")]


def test_a_manifest_survives_a_round_trip() -> None:
    assert decode_manifest(BYTES) == MANIFEST


def test_the_file_is_one_json_document_with_its_digest_first() -> None:
    assert next(iter(json.loads(BYTES).items())) == ("sha256", hashlib.sha256(REST).hexdigest())


def test_the_digest_stands_where_the_format_puts_it() -> None:
    assert re.match(rb'\{"sha256": "[0-9a-f]{64}",\n  "format": "edgeexit-bundle",\n  "version": 4,\n', BYTES)


def test_the_order_of_tools_does_not_change_the_bytes() -> None:
    tools = dict(reversed(MANIFEST.provenance.tools.items()))
    other = msgspec.structs.replace(MANIFEST, provenance=msgspec.structs.replace(MANIFEST.provenance, tools=tools))
    assert encode_manifest(other) == BYTES


@given(st.integers(0, len(BYTES) - 1), st.integers(1, 255))
def test_a_flipped_byte_anywhere_is_refused(position: int, change: int) -> None:
    data = bytearray(BYTES)
    data[position] ^= change
    with pytest.raises(BundleError, match=r"^manifest\.json (does not match its digest|does not begin)"):
        decode_manifest(bytes(data))


@given(st.integers(0, len(BYTES) - 1))
def test_a_manifest_cut_short_is_refused(size: int) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json "):
        decode_manifest(BYTES[:size])


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_even_behind_a_right_digest(rest: bytes) -> None:
    with pytest.raises(BundleError, match=r"^manifest\.json "):
        decode_manifest(signed(rest))


def test_nesting_without_end_is_refused() -> None:
    with pytest.raises(BundleError, match="not a manifest"):
        decode_manifest(signed(b'"a": ' + b"[" * 100_000))


def test_the_next_version_is_refused_with_the_way_to_upgrade() -> None:
    with pytest.raises(BundleError, match=r"newer format(.|\n)*version 5(.|\n)*pip install --upgrade edgeexit"):
        decode_manifest(altered(version=FORMAT_VERSION + 1))


def test_a_newer_version_is_named_as_such_whatever_else_changed() -> None:
    with pytest.raises(BundleError, match="newer format"):
        decode_manifest(signed(b'"format": "edgeexit-bundle", "version": 7, "segments": "elsewhere"}'))


def test_a_key_of_version_2_is_refused_in_version_1() -> None:
    with pytest.raises(BundleError, match="keys of format version 1"):
        decode_manifest(altered(version=1))


@pytest.mark.parametrize("name", ["delta", "budget", "unit", "method", "drift", "reference_accuracy"])
def test_a_missing_key_of_a_later_version_is_refused(name: str) -> None:
    document = json.loads(b"{" + REST)
    del document["calibration"][name]
    with pytest.raises(BundleError, match="keys of format version 4"):
        decode_manifest(signed(json.dumps(document).removeprefix("{").encode()))


@pytest.mark.parametrize("version", [0, -1])
def test_a_version_that_never_was_is_refused(version: int) -> None:
    with pytest.raises(BundleError, match="no such format version"):
        decode_manifest(altered(version=version))


def test_another_format_is_refused() -> None:
    with pytest.raises(BundleError, match="another format"):
        decode_manifest(altered(format="model-archive"))


@pytest.mark.parametrize(
    "name", [place.name for place in objects(json.loads(b"{" + REST)) if place.name != "$.provenance.tools"]
)
def test_an_unknown_key_is_refused_in_every_object(name: str) -> None:
    document = json.loads(b"{" + REST)
    (place,) = (place for place in objects(document) if place.name == name)
    place.target["surprise"] = 1
    with pytest.raises(BundleError, match="surprise"):
        decode_manifest(signed(json.dumps(document).removeprefix("{").encode()))


@pytest.mark.parametrize("name", Manifest.__struct_fields__)
def test_a_missing_key_is_refused(name: str) -> None:
    document = json.loads(b"{" + REST)
    del document[name]
    with pytest.raises(BundleError, match=f"missing required field `{name}`|expected: with {name}"):
        decode_manifest(signed(json.dumps(document).removeprefix("{").encode()))


@pytest.mark.parametrize("name", Manifest.__struct_fields__)
def test_a_value_of_the_wrong_type_is_refused(name: str) -> None:
    with pytest.raises(BundleError, match=rf"\$\.{name}"):
        decode_manifest(altered(**{name: True}))


def test_a_key_given_twice_is_refused() -> None:
    twice = REST.replace(b'"macs": 200', b'"macs": 200, "macs": 200')
    with pytest.raises(BundleError, match="given twice"):
        decode_manifest(signed(twice))


def test_a_manifest_far_too_large_is_refused_unread() -> None:
    with pytest.raises(BundleError, match="too large"):
        decode_manifest(BYTES + b" " * MAX_MANIFEST_BYTES)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_lacks_is_not_turned_into_null(value: float) -> None:
    exits = (msgspec.structs.replace(MANIFEST.exits[0], threshold=value), MANIFEST.exits[1])
    with pytest.raises(BundleError, match="NaN or infinite"):
        encode_manifest(msgspec.structs.replace(MANIFEST, exits=exits))


@pytest.mark.parametrize("value", [np.int64(1), "1", 10**5000], ids=["NumPy integer", "text", "thousands of digits"])
def test_a_value_of_the_wrong_type_is_not_written(value: Any) -> None:
    with pytest.raises(BundleError, match="wrong type"):
        encode_manifest(msgspec.structs.replace(MANIFEST, macs=value))
