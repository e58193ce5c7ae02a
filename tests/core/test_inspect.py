"""`edgeexit inspect`: what a bundle holds and what each part costs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.bundles import bundle_parts, write_small
from edgeexit.bundle import write_bundle
from edgeexit.commands.inspect import boundaries, describe
from edgeexit.manifest import Manifest, PayloadEntry, TensorSpec

Cli = Callable[..., Any]

INPUT, H0, H1 = (TensorSpec(name=name, dtype="float32", shape=(n,)) for name, n in [("x", 4), ("h0", 2), ("h1", 8)])


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_small(tmp_path / "small.eexit", 3)


def wired(*segments: tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]) -> Manifest:
    """A manifest whose segments have these inputs and outputs."""
    manifest, _ = bundle_parts(len(segments))
    entries = tuple(
        msgspec.structs.replace(entry, inputs=inputs, outputs=outputs)
        for entry, (inputs, outputs) in zip(manifest.segments, segments, strict=True)
    )
    return msgspec.structs.replace(manifest, segments=entries)


def names(manifest: Manifest) -> list[set[str]]:
    return [{spec.name for spec in boundary} for boundary in boundaries(manifest)]


def test_the_boundary_of_a_chain_is_what_the_next_segment_takes() -> None:
    assert names(wired(((INPUT,), (H0,)), ((H0,), (H1,)), ((H1,), ()))) == [{"h0"}, {"h1"}, set()]


def test_the_boundary_of_a_cascade_of_models_is_the_input() -> None:
    assert names(wired(((INPUT,), ()), ((INPUT,), ()))) == [{"x"}, set()]


def test_a_tensor_that_skips_a_segment_belongs_to_both_boundaries() -> None:
    assert names(wired(((INPUT,), (H0,)), ((H0,), (H1,)), ((H0, H1), ()))) == [{"h0"}, {"h0", "h1"}, set()]


def test_the_bytes_of_a_boundary_are_those_of_one_sample() -> None:
    document = describe(wired(((INPUT,), (H0,)), ((H0,), (H1,)), ((H0, H1), ())))
    assert [row["boundary"]["bytes"] for row in document["segments"]] == [8, 40, 0]


def test_a_boundary_is_compared_with_the_input() -> None:
    document = describe(wired(((INPUT,), (H0,)), ((H0,), (H1,)), ((H0, H1), ())))
    assert [row["boundary"]["input_ratio"] for row in document["segments"]] == [0.5, 2.5, 0.0]


def test_the_segments_share_the_macs_parameters_and_bytes_of_the_model(cli: Cli, bundle: Path) -> None:
    segments = cli("inspect", bundle, "--json").document()["segments"]
    totals = [sum(row[key] for row in segments) for key in ("macs_share", "params_share", "file_share")]
    assert totals == pytest.approx([1.0, 1.0, 1.0])


def test_an_exit_states_what_its_check_adds(cli: Cli, bundle: Path) -> None:
    first = cli("inspect", bundle, "--json").document()["exits"][0]
    assert (first["check_macs"], first["check_macs_share"]) == (5, pytest.approx(5 / 300))


def test_an_exit_states_the_bytes_of_its_class_means(cli: Cli, bundle: Path) -> None:
    exits = cli("inspect", bundle, "--json").document()["exits"]
    assert [row["tensors_bytes"] for row in exits] == [48, 48, 0]


def test_the_document_has_these_keys(cli: Cli, bundle: Path) -> None:
    assert list(cli("inspect", bundle, "--json").document()) == [
        "bundle",
        "size_bytes",
        "format_version",
        "labels",
        "inputs",
        "preprocessing",
        "model",
        "segments",
        "exits",
        "policy",
        "statistics_bytes",
        "calibration",
        "provenance",
    ]


@pytest.mark.parametrize("word", ["m.onnx", "8 calibration samples, held out", "class-means", "0.7500", "last"])
def test_the_tables_tell_where_it_came_from_and_how_it_decides(cli: Cli, bundle: Path, word: str) -> None:
    assert word in cli("inspect", bundle).stdout


def test_payloads_are_told_behind_the_segment_that_makes_them(tmp_path: Path, cli: Cli) -> None:
    manifest, contents = bundle_parts(3)
    entries = (
        PayloadEntry(precision="fp32", size_bytes=8, compressed_bytes=7, changed=0.0),
        PayloadEntry(precision="fp16", size_bytes=4, compressed_bytes=3, changed=0.0125),
    )
    first, second, third = manifest.segments
    measured = (first, msgspec.structs.replace(second, payloads=entries), third)
    write_bundle(tmp_path / "bundle", msgspec.structs.replace(manifest, segments=measured), contents)
    rows = cli("inspect", tmp_path / "bundle", "--json").document()["segments"]
    assert [row["boundary"]["payloads"] for row in rows] == [[msgspec.to_builtins(e) for e in entries], None, None]
    shown = cli("inspect", tmp_path / "bundle").stdout
    assert "Payloads" in shown
    assert "1.25%" in shown


def test_nothing_is_said_of_payloads_that_were_not_measured(cli: Cli, bundle: Path) -> None:
    assert "Payloads" not in cli("inspect", bundle).stdout


def test_what_is_no_bundle_is_refused_with_exit_code_3(cli: Cli, tmp_path: Path) -> None:
    outcome = cli("inspect", tmp_path / "none", "--json")
    assert (outcome.code, outcome.stdout) == (3, "")
    assert str(tmp_path / "none") in outcome.stderr


def test_a_precision_of_its_own_is_told_with_the_accuracy_before(tmp_path: Path, cli: Cli) -> None:
    manifest, contents = bundle_parts(2)
    first, second = manifest.segments
    rounded = msgspec.structs.replace(
        manifest,
        segments=(msgspec.structs.replace(first, precision="int8"), second),
        calibration=msgspec.structs.replace(manifest.calibration, reference_accuracy=0.9375),
    )
    write_bundle(tmp_path / "rounded", rounded, contents)
    document = describe(rounded)
    assert document["model"]["precision"] == "int8,fp32"
    assert [row["precision"] for row in document["segments"]] == ["int8", "fp32"]
    shown = cli("inspect", tmp_path / "rounded").stdout
    assert "int8,fp32" in shown
    assert "before its precision was changed 93.75%" in shown
