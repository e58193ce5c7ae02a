"""The stored bytes of the format, literally: version 4, and versions 3 to 1, which are still read.

If one of these fails, the format has changed.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from core.bundles import bundle_parts, opens, signed, write_small
from edgeexit.bundle import Bundle, write_bundle
from edgeexit.bundle.archive import pack
from edgeexit.bundle.document import encode_manifest
from edgeexit.errors import BundleError
from edgeexit.manifest import FORMAT_VERSION, PayloadEntry

ARCHIVE = (
    b"PK\x03\x04" b"\x0a\x00" b"\x00\x00" b"\x00\x00" b"\x00\x00\x21\x00"
    b"\x43\xbf\xa6\xa3" b"\x02\x00\x00\x00" b"\x02\x00\x00\x00" b"\x0d\x00" b"\x00\x00" b"manifest.json"
    b"{}"
    b"PK\x03\x04" b"\x0a\x00" b"\x00\x00" b"\x00\x00" b"\x00\x00\x21\x00"
    b"\xc2\x41\x24\x35" b"\x03\x00\x00\x00" b"\x03\x00\x00\x00" b"\x10\x00" b"\x00\x00" b"segments/00.onnx"
    b"abc"
    b"PK\x01\x02" b"\x0a\x03" b"\x0a\x00" b"\x00\x00" b"\x00\x00" b"\x00\x00\x21\x00"
    b"\x43\xbf\xa6\xa3" b"\x02\x00\x00\x00" b"\x02\x00\x00\x00" b"\x0d\x00" b"\x00\x00" b"\x00\x00"
    b"\x00\x00" b"\x00\x00" b"\x00\x00\xa4\x81" b"\x00\x00\x00\x00" b"manifest.json"
    b"PK\x01\x02" b"\x0a\x03" b"\x0a\x00" b"\x00\x00" b"\x00\x00" b"\x00\x00\x21\x00"
    b"\xc2\x41\x24\x35" b"\x03\x00\x00\x00" b"\x03\x00\x00\x00" b"\x10\x00" b"\x00\x00" b"\x00\x00"
    b"\x00\x00" b"\x00\x00" b"\x00\x00\xa4\x81" b"\x2d\x00\x00\x00" b"segments/00.onnx"
    b"PK\x05\x06" b"\x00\x00" b"\x00\x00" b"\x02\x00" b"\x02\x00"
    b"\x79\x00\x00\x00" b"\x5e\x00\x00\x00" b"\x00\x00"
)  # fmt: skip

EXITS = (
    b"\x48\x00\x00\x00\x00\x00\x00\x00"
    b'{"policy.temperatures":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'
    b"\x00\x00\x80\x3f"
)

CHECK = (
    b"\x40\x01\x00\x00\x00\x00\x00\x00"
    b'{"exits":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},'
    b'"labels":{"dtype":"I64","shape":[2],"data_offsets":[16,32]},'
    b'"input.x":{"dtype":"F32","shape":[2,4],"data_offsets":[32,64]},'
    b'"logits.0":{"dtype":"F32","shape":[2,3],"data_offsets":[64,88]},'
    b'"probabilities":{"dtype":"F32","shape":[2],"data_offsets":[88,96]}}       '
    b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
    b"\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x00\x80\x3f\x00\x00\x00\x40\x00\x00\x40\x40"
    b"\x00\x00\x80\x40\x00\x00\xa0\x40\x00\x00\xc0\x40\x00\x00\xe0\x40"
    b"\x00\x00\x00\x00\x00\x00\x80\x3f\x00\x00\x00\x00"
    b"\x00\x00\x00\x00\x00\x00\x80\x3f\x00\x00\x00\x00"
    b"\x00\x00\x40\x3f\x00\x00\x40\x3f"
)

MANIFEST = """\
{"sha256": "b05a06392f86f5ce8df8cf1baad71377f774c58cf42bcfd70a24b6b8866de517",
  "format": "edgeexit-bundle",
  "version": 4,
  "labels": [
    "cat",
    "dog",
    "été"
  ],
  "inputs": [
    {
      "name": "x",
      "dtype": "float32",
      "shape": [
        4
      ]
    }
  ],
  "preprocessing": {
    "kind": "array",
    "mode": null,
    "size": null,
    "resize": "exact",
    "mean": null,
    "std": null
  },
  "segments": [
    {
      "file": {
        "path": "segments/00.onnx",
        "sha256": "749de4c07708e384ac28820c2e2f26c08792b91b7af06c63cafa3749a20667e1",
        "size_bytes": 7
      },
      "inputs": [
        {
          "name": "x",
          "dtype": "float32",
          "shape": [
            4
          ]
        }
      ],
      "policy_inputs": [],
      "outputs": [],
      "logits": "logits.0",
      "features": null,
      "precision": "fp32",
      "macs": 100,
      "params": 10,
      "head_macs": 0,
      "head_params": 0,
      "payloads": null
    }
  ],
  "exits": [
    {
      "name": "last",
      "head": "model",
      "criterion": "max-probability",
      "threshold": null,
      "cost": 1.0,
      "cost_macs": 100
    }
  ],
  "policy": {
    "name": "max-probability",
    "tensors": [
      "policy.temperatures"
    ]
  },
  "macs": 100,
  "params": 10,
  "calibration": {
    "samples": 8,
    "held_out": true,
    "labels": "data",
    "max_drop": 0.01,
    "delta": null,
    "budget": null,
    "unit": null,
    "method": null,
    "reference_accuracy": null,
    "full_accuracy": 0.875,
    "accuracy": 0.875,
    "mean_cost": 0.5,
    "exit_shares": [
      1.0
    ],
    "drift": null
  },
  "provenance": {
    "edgeexit": "0",
    "sources": [
      {
        "name": "m.onnx",
        "sha256": null
      }
    ],
    "tools": {
      "numpy": "2",
      "onnx": "1"
    }
  },
  "exits_file": {
    "path": "exits.safetensors",
    "sha256": "8c6b7030ac856b0fea3bcd8e7b30a987e3bb8e0da04856ce7574c371ac50b815",
    "size_bytes": 84
  },
  "check_file": {
    "path": "check.safetensors",
    "sha256": "f20ba0da48200714436a27c913512b6746ff6c6a5ffb22075c159c51e4d979c8",
    "size_bytes": 424
  },
  "statistics_file": null
}
"""

PAYLOADS = """\
"payloads": [
        {
          "precision": "uint8",
          "size_bytes": 9,
          "compressed_bytes": 7,
          "changed": 0.25
        }
      ]"""

ARCHIVE_SHA256 = "8919adcfe776a83ec0080248e78723ed4f24187e4cc143b0fdc49a88f64512e1"


VERSION_3_SHA256 = "ac7623ed40c872876cc1b471d61ad7b0de475ac6d878948195af77ce4f10ee4b"
VERSION_3 = signed(
    MANIFEST.partition("\n")[2]
    .replace('"version": 4', '"version": 3')
    .replace(',\n      "payloads": null\n', "\n")
    .encode()
)
"""The manifest as version 3 wrote it."""

VERSION_2_SHA256 = "38ac83d4106f4f05a53beb521362a3a310c5fbe2da76a3f2d969e1551642a9db"
VERSION_2 = signed(
    VERSION_3.decode()
    .partition("\n")[2]
    .replace('"version": 3', '"version": 2')
    .replace('      "precision": "fp32",\n', "")
    .replace('    "reference_accuracy": null,\n', "")
    .encode()
)
"""The manifest as version 2 wrote it."""

VERSION_1_SHA256 = "71fca5fe7b731532f8da1f503227920c02baa6bbcdde45044812ec46228d3542"
VERSION_1 = signed(
    VERSION_2.decode()
    .partition("\n")[2]
    .replace('"version": 2', '"version": 1')
    .replace('    "delta": null,\n    "budget": null,\n    "unit": null,\n    "method": null,\n', "")
    .replace(',\n    "drift": null\n', "\n")
    .replace('      "features": null,\n', "")
    .replace(',\n  "statistics_file": null\n', "\n")
    .encode()
)
"""The manifest as version 1 wrote it."""

EARLIER = {1: (VERSION_1, VERSION_1_SHA256), 2: (VERSION_2, VERSION_2_SHA256), 3: (VERSION_3, VERSION_3_SHA256)}


@pytest.fixture
def golden(tmp_path: Path) -> Path:
    """The folder of this version, from nothing but the literals above."""
    (tmp_path / "segments").mkdir()
    (tmp_path / "manifest.json").write_bytes(MANIFEST.encode())
    (tmp_path / "segments/00.onnx").write_bytes(b"graph 0")
    (tmp_path / "exits.safetensors").write_bytes(EXITS)
    (tmp_path / "check.safetensors").write_bytes(CHECK)
    return tmp_path


def test_the_version_is_the_one_these_bytes_are_of() -> None:
    assert FORMAT_VERSION == 4


def test_a_bundle_of_this_version_opens(golden: Path) -> None:
    assert opens(golden)
    assert Bundle.open(golden).manifest == bundle_parts(segments=1)[0]


@pytest.mark.parametrize("version", EARLIER)
def test_a_bundle_of_an_earlier_version_still_opens_and_says_what_it_said(golden: Path, version: int) -> None:
    data, sha256 = EARLIER[version]
    assert data[12:76].decode() == sha256
    (golden / "manifest.json").write_bytes(data)
    assert opens(golden)
    newest, _ = bundle_parts(segments=1)
    assert Bundle.open(golden).manifest == msgspec.structs.replace(newest, version=version)


@pytest.mark.parametrize("version", EARLIER)
def test_a_bundle_of_an_earlier_version_is_not_written_any_more(golden: Path, tmp_path: Path, version: int) -> None:
    manifest, contents = bundle_parts(segments=1)
    with pytest.raises(BundleError, match="only the newest format is written"):
        write_bundle(tmp_path / "old", msgspec.structs.replace(manifest, version=version), contents)


LATER = [
    (2, '    "max_drop"', '    "delta": null,\n'),
    (3, '      "macs": 100', '      "precision": "fp32",\n'),
    (3, '    "full_accuracy"', '    "reference_accuracy": null,\n'),
    (4, '      "head_macs"', '      "payloads": null,\n'),
]
"""Keys by the version that brought them, and some key that stands in the same object."""


@pytest.mark.parametrize(
    ("version", "before", "key"), [(v, before, key) for v in EARLIER for since, before, key in LATER if v < since]
)
def test_a_key_of_a_later_version_is_refused(golden: Path, version: int, before: str, key: str) -> None:
    earlier = EARLIER[version][0].decode().partition("\n")[2]
    assert earlier.count(before) == 1
    (golden / "manifest.json").write_bytes(signed(earlier.replace(before, key + before).encode()))
    with pytest.raises(BundleError, match=f"does not have the keys of format version {version}"):
        Bundle.open(golden)


@pytest.mark.parametrize(
    "key", ['      "precision": "fp32",\n', '    "reference_accuracy": null,\n', ',\n      "payloads": null']
)
def test_a_key_of_this_version_that_is_missing_is_refused(golden: Path, key: str) -> None:
    assert MANIFEST.count(key) == 1
    (golden / "manifest.json").write_bytes(signed(MANIFEST.partition("\n")[2].replace(key, "").encode()))
    with pytest.raises(BundleError, match="does not have the keys of format version 4"):
        Bundle.open(golden)


def test_the_manifests_bytes_are_the_documented_ones() -> None:
    assert encode_manifest(bundle_parts(segments=1)[0]).decode() == MANIFEST


def test_the_bytes_of_payloads_are_the_documented_ones() -> None:
    entry = PayloadEntry(precision="uint8", size_bytes=9, compressed_bytes=7, changed=0.25)
    manifest, _ = bundle_parts(segments=1)
    segment = msgspec.structs.replace(manifest.segments[0], payloads=(entry,))
    data = encode_manifest(msgspec.structs.replace(manifest, segments=(segment,))).decode()
    assert data.partition("\n")[2] == MANIFEST.partition("\n")[2].replace('"payloads": null', PAYLOADS)


def test_the_tensor_files_bytes_are_the_documented_ones() -> None:
    contents = bundle_parts(segments=1)[1]
    assert (contents["exits.safetensors"], contents["check.safetensors"]) == (EXITS, CHECK)


def test_the_zips_bytes_are_the_documented_ones() -> None:
    assert b"".join(pack({"manifest.json": b"{}", "segments/00.onnx": b"abc"})) == ARCHIVE


def test_a_whole_archive_has_the_known_hash(tmp_path: Path) -> None:
    data = write_small(tmp_path / "bundle.eexit", segments=1).read_bytes()
    assert hashlib.sha256(data).hexdigest() == ARCHIVE_SHA256


def test_the_next_version_is_refused_with_the_way_to_upgrade(golden: Path) -> None:
    later = MANIFEST.partition("\n")[2].replace('"version": 4', '"version": 5')
    (golden / "manifest.json").write_bytes(signed(later.encode()))
    with pytest.raises(BundleError, match=r"manifest\.json(.|\n)*newer format(.|\n)*upgrade"):
        Bundle.open(golden)
