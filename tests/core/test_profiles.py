"""Profiles: the file, and what is refused."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import bundle_parts
from core.profiles import a_profile
from edgeexit.bundle import write_bundle
from edgeexit.errors import DeviceError, UsageError
from edgeexit.profiles import (
    MAX_PROFILE_BYTES,
    Profile,
    decode_profile,
    encode_profile,
    identity,
    read_profile,
    write_profile,
)
from edgeexit.sealed import seal

MANIFEST, CONTENTS = bundle_parts(2)
PROFILE = a_profile(MANIFEST)
DATA = encode_profile(PROFILE)

GOLDEN = b"""{"sha256": "DIGEST",
  "format": "edgeexit-profile",
  "version": 1,
  "bundle": "BUNDLE",
  "precision": "fp32",
  "backend": "onnxruntime",
  "threads": 2,
  "target": "raspberry-pi-5",
  "machine": {
    "cpu": "Cortex-A76",
    "cores": 4,
    "architecture": "aarch64",
    "system": "Linux 6.6",
    "python": "3.11.2",
    "packages": {
      "numpy": "2.2.0"
    }
  },
  "batches": [
    1,
    4,
    16
  ],
  "segments": [
    {
      "name": "NAME0",
      "run_ms": [
        1.5,
        5.0,
        18.25
      ],
      "check_ms": [
        0.125,
        0.25,
        0.5
      ],
      "compact_ms": [
        0.01,
        0.02,
        0.05
      ],
      "decide_ms": [
        0.02,
        0.03,
        0.04
      ]
    },
    {
      "name": "NAME1",
      "run_ms": [
        1.5,
        5.0,
        18.25
      ],
      "check_ms": null,
      "compact_ms": [
        0.0,
        0.0,
        0.0
      ],
      "decide_ms": [
        0.02,
        0.03,
        0.04
      ]
    }
  ],
  "exits_ms": [
    1.5,
    3.0
  ],
  "energy_mj": null,
  "energy_note": "this device has no sensor"
}
"""


def resealed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """The profile's bytes with another document, and the digest that belongs to it."""
    document = msgspec.to_builtins(PROFILE)
    change(document)
    return seal(json.dumps(document).encode())


def test_the_bytes_are_these() -> None:
    rest = GOLDEN.split(b"\n", 1)[1]
    for word, value in (("BUNDLE", identity(MANIFEST)), *((f"NAME{k}", MANIFEST.exits[k].name) for k in range(2))):
        rest = rest.replace(word.encode(), value.encode())
    assert DATA.split(b"\n", 1)[1] == rest


def test_the_first_line_is_the_digest_of_the_others() -> None:
    import hashlib

    first, rest = DATA.split(b"\n", 1)
    assert first == b'{"sha256": "' + hashlib.sha256(rest).hexdigest().encode() + b'",'


def test_a_profile_is_read_as_it_was_written(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE)
    assert read_profile(tmp_path / "p.json") == read_profile(tmp_path / "p.json", MANIFEST) == PROFILE


def test_equal_profiles_have_equal_bytes() -> None:
    assert encode_profile(decode_profile(DATA, "p")) == DATA


def test_every_flipped_bit_is_noticed() -> None:
    for position in range(len(DATA)):
        for bit in range(8):
            flipped = DATA[:position] + bytes([DATA[position] ^ 1 << bit]) + DATA[position + 1 :]
            with pytest.raises(DeviceError):
                decode_profile(flipped, "p.json")


def test_every_missing_end_is_noticed() -> None:
    for length in range(len(DATA)):
        with pytest.raises(DeviceError):
            decode_profile(DATA[:length], "p.json")


@given(st.binary(max_size=300))
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(DeviceError):
        decode_profile(data, "p.json")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(msgspec.to_builtins(PROFILE))), JSON)
def test_another_value_under_a_fitting_digest_is_read_or_refused(key: str, value: object) -> None:
    try:
        found = decode_profile(resealed(lambda document: document.update({key: value})), "p.json")
    except (DeviceError, msgspec.DecodeError):  # the latter where the test itself cannot write the value as JSON
        return
    assert isinstance(found, Profile)
    assert encode_profile(found)


@given(st.recursive(st.binary(max_size=30).map(lambda text: b'"' + text), lambda inner: inner.map(lambda x: b"[" + x)))
def test_any_text_under_a_fitting_digest_is_refused(text: bytes) -> None:
    import hashlib

    data = b'{"sha256": "' + hashlib.sha256(text).hexdigest().encode() + b'",\n' + text
    with pytest.raises(DeviceError):
        decode_profile(data, "p.json")


def set_in_segment(key: str, value: object) -> Callable[[dict[str, Any]], object]:
    return lambda document: document["segments"][0].update({key: value})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda document: document.update(format="edgeexit-bundle"), "of another format"),
        (lambda document: document.update(version=0), "format that never was"),
        (lambda document: document.update(speed=1), "is not a profile of format version 1"),
        (lambda document: document.update(bundle="abc"), "is not a profile of format version 1"),
        (lambda document: document.update(threads=0), "is not a profile of format version 1"),
        (lambda document: document.pop("backend"), "is not a profile of format version 1"),
        (lambda document: document.update(batches=[]), "batch sizes make no sense"),
        (lambda document: document.update(batches=[4, 8, 16]), "batch sizes make no sense"),
        (lambda document: document.update(batches=[1, 4, 4]), "batch sizes make no sense"),
        (lambda document: document.update(segments=[], exits_ms=[]), "segments make no sense"),
        (lambda document: document.update(exits_ms=[2.0, 1.0]), "exits' times make no sense"),
        (lambda document: document.update(exits_ms=[1.0, 1.0]), "exits' times make no sense"),
        (lambda document: document.update(exits_ms=[1.0]), "exits' times make no sense"),
        (lambda document: document.update(energy_mj=[1.0]), "exits' energies make no sense"),
        (set_in_segment("run_ms", [1.0, 2.0]), "times of .* make no sense"),
        (set_in_segment("check_ms", []), "times of .* make no sense"),
        (set_in_segment("run_ms", [1.0, 2.0, -3.0]), "is not a profile of format version 1"),
        (set_in_segment("decide_ms", None), "is not a profile of format version 1"),
    ],
)
def test_a_profile_that_makes_no_sense_is_refused(change: Callable[[dict[str, Any]], object], words: str) -> None:
    with pytest.raises(DeviceError, match=words):
        decode_profile(resealed(change), "p.json")


def test_a_newer_version_says_what_to_upgrade() -> None:
    with pytest.raises(DeviceError, match="newer format") as refused:
        decode_profile(resealed(lambda document: document.update(version=2, added={"in": "version 2"})), "p.json")
    assert refused.value.remedy == "upgrade with: pip install --upgrade edgeexit"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_not_written(value: float) -> None:
    with pytest.raises(DeviceError):
        encode_profile(a_profile(MANIFEST, exits_ms=(1.0, value)))


def test_a_profile_of_other_segments_is_refused(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE)
    with pytest.raises(DeviceError, match="of another bundle"):
        read_profile(tmp_path / "p.json", bundle_parts(3)[0])


def test_other_thresholds_and_class_means_leave_a_profile_valid(tmp_path: Path) -> None:
    write_profile(tmp_path / "p.json", PROFILE)
    other = msgspec.structs.replace(
        MANIFEST,
        exits=tuple(msgspec.structs.replace(entry, threshold=None) for entry in MANIFEST.exits),
        exits_file=msgspec.structs.replace(MANIFEST.exits_file, sha256="0" * 64),
    )
    assert read_profile(tmp_path / "p.json", other) == PROFILE


def test_a_file_that_is_too_large_is_refused_before_it_is_read(tmp_path: Path) -> None:
    with (tmp_path / "p.json").open("wb") as file:
        file.truncate(MAX_PROFILE_BYTES + 1)
    with pytest.raises(DeviceError, match="too large"):
        read_profile(tmp_path / "p.json")


def test_a_pipe_or_folder_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        with pytest.raises(DeviceError, match="is not a profile"):
            read_profile(path)


@pytest.mark.parametrize("name", ["none.json", "a\0b"])
def test_a_profile_that_is_not_there_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DeviceError):
        read_profile(tmp_path / name)


def test_an_older_profile_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    write_profile(path, PROFILE)
    write_profile(path, a_profile(MANIFEST, threads=4))
    assert read_profile(path).threads == 4
    assert list(tmp_path.iterdir()) == [path]


def test_nothing_but_a_profile_is_replaced(tmp_path: Path) -> None:
    write_bundle(tmp_path / "bundle", MANIFEST, CONTENTS)
    (tmp_path / "notes.txt").write_text("mine")
    for path in (tmp_path / "notes.txt", tmp_path / "bundle" / "manifest.json", tmp_path / "bundle"):
        with pytest.raises(UsageError, match="is not a profile, so it is not replaced"):
            write_profile(path, PROFILE)
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", ["none/p.json", "a\0b"])
def test_a_place_that_cannot_be_written_is_a_usage_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError):
        write_profile(tmp_path / name, PROFILE)
