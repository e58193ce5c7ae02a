"""What is refused behind matching hashes: bundles that no cascade could run by."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import (
    TEMPERATURES,
    Document,
    Tensors,
    check_tensors,
    exits_tensors,
    opens,
    rewrite_file,
    rewrite_manifest,
    write_small,
)
from edgeexit.bundle import Bundle
from edgeexit.errors import BundleError
from edgeexit.tensors import save_tensors


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_small(tmp_path / "bundle", segments=3)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for properties; whoever alters it restores it."""
    return write_small(tmp_path_factory.mktemp("shared") / "bundle")


def put(*keys: str | int, value: object) -> Callable[[Document], None]:
    """Set the value at a place in the manifest."""

    def alter(document: Any) -> None:
        for key in keys[:-1]:
            document = document[key]
        document[keys[-1]] = value

    return alter


def places(value: object, *keys: str | int) -> list[tuple[str | int, ...]]:
    """Where `put` can put something below `value`."""
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [place for key, child in children for place in [(*keys, key), *places(child, *keys, key)]]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5) | st.just(10**400),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)


def spec(name: str, dtype: str = "float32", shape: object = (2, 1)) -> Document:
    return {"name": name, "dtype": dtype, "shape": shape}


def image(size: object = (8, 8), mode: str | None = "RGB") -> Document:
    return {"kind": "image", "mode": mode, "size": size}


def both(*changes: Callable[[Document], object]) -> Callable[[Document], None]:
    def alter(document: Document) -> None:
        for change in changes:
            change(document)

    return alter


def test_a_rewritten_manifest_with_nothing_altered_opens(folder: Path) -> None:
    rewrite_manifest(folder, lambda document: None)
    assert opens(folder)


def payload(precision: str = "fp32", size_bytes: int = 8, compressed_bytes: int = 7, changed: float = 0) -> Document:
    return {
        "precision": precision,
        "size_bytes": size_bytes,
        "compressed_bytes": compressed_bytes,
        "changed": changed,
    }


def payloads(*entries: Document, segment: int = 1) -> Callable[[Document], None]:
    """Put payloads in front of segment 1, where two numbers of 32 bits cross."""
    return put("segments", segment, "payloads", value=list(entries))


@pytest.mark.parametrize("entries", [[payload()], [payload(), payload("fp16", 4, 4, 0.5), payload("uint8", 10, 11, 1)]])
def test_payloads_that_fit_their_boundary_open(folder: Path, entries: list[Document]) -> None:
    rewrite_manifest(folder, payloads(*entries))
    assert opens(folder)


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (payloads(payload(size_bytes=16), segment=0), "in front of the first segment"),
        (payloads(), "not in order"),
        (payloads(payload("fp16", 4)), "not in order"),
        (payloads(payload(), payload("uint8", 10), payload("fp16", 4)), "not in order"),
        (payloads(payload(), payload()), "not in order"),
        (payloads(payload("fp8")), "fp8"),
        (payloads(payload(size_bytes=9)), "fp32 does not take these bytes"),
        (payloads(payload(), payload("uint8", 2)), "uint8 does not take these bytes"),
        (payloads(payload(compressed_bytes=0)), "compressed_bytes is unusable"),
        (payloads(payload(), payload("fp16", 4, 4, 1.5)), "outside 0 to 1"),
        (payloads(payload(changed=0.5)), "fp32 rounds nothing"),
    ],
)
def test_payloads_that_cannot_be_are_refused(folder: Path, alter: Callable[[Document], object], words: str) -> None:
    rewrite_manifest(folder, alter)
    with pytest.raises(BundleError, match=words):
        Bundle.open(folder)


FALSE_PATHS = [
    "../segments/00.onnx",
    "segments/../segments/00.onnx",
    "/etc/passwd",
    "segments\\00.onnx",
    "segments/01.onnx",
    "manifest.json",
    "./segments/00.onnx",
    "segments//00.onnx",
    "segments/0.onnx",
    "segments/00.onnx\0",
    "",
]


@pytest.mark.parametrize("path", FALSE_PATHS)
def test_a_path_that_is_not_the_formats_own_is_refused(folder: Path, path: str) -> None:
    rewrite_manifest(folder, put("segments", 0, "file", "path", value=path))
    with pytest.raises(BundleError) as refusal:
        Bundle.open(folder)
    assert "a file is not where the format puts it" in refusal.value.problem
    assert (refusal.value.got, refusal.value.expected) == (repr(path), "segments/00.onnx")


@pytest.mark.parametrize(
    ("alter", "words"),
    [
        (put("exits_file", "path", value="check.safetensors"), "where the format puts it"),
        (put("segments", 0, "file", "size_bytes", value=0), "size of segments/00.onnx is unusable"),
        (put("segments", 0, "file", "size_bytes", value=-7), "size of segments/00.onnx is unusable"),
        (put("segments", 0, "file", "size_bytes", value=1 << 40), "size of segments/00.onnx is unusable"),
        (put("segments", 0, "file", "size_bytes", value=8), "segments/00.onnx has the wrong size"),
        (put("segments", 0, "file", "sha256", value="0" * 64), "segments/00.onnx does not match its hash"),
        (put("labels", value=["one"]), "at least two labels"),
        (put("segments", value=[]), "no segment"),
        (lambda document: document["exits"].pop(0), "one exit"),
        (put("exits", 1, "name", value="exit0"), "names that differ"),
        (put("exits", 1, "name", value=""), "no name"),
        (put("exits", 2, "threshold", value=0.5), "last exit takes everybody"),
        (put("exits", 0, "cost", value=0), "cost must be positive"),
        (put("exits", 0, "cost", value=-0.25), "cost must be positive"),
        (put("exits", 1, "cost", value=0.1), "must not fall"),
        (put("exits", 1, "cost_macs", value=1), "must not fall"),
        (put("exits", 0, "cost_macs", value=0), "cost_macs must be positive"),
        (put("exits", 2, "cost_macs", value=1 << 64), "cost_macs must be positive"),
        (put("macs", value=0), "macs is unusable"),
        (put("params", value=-1), "params is unusable"),
        (put("segments", 1, "head_macs", value=-1), r"segments\[1\]\.head_macs is unusable"),
        (put("segments", 1, "macs", value=1 << 63), r"segments\[1\]\.macs is unusable"),
        (put("inputs", value=[]), "the model has no inputs"),
        (put("inputs", 0, "dtype", value="object"), "unknown data type"),
        (put("inputs", 0, "dtype", value="bfloat16"), "unknown data type"),
        (put("inputs", 0, "shape", value=[0]), "unusable shape"),
        (put("inputs", 0, "shape", value=[-1]), "unusable shape"),
        (put("inputs", 0, "shape", value=[1] * 9), "unusable shape"),
        (put("inputs", 0, "shape", value=[1 << 20, 1 << 20]), "too large"),
        (put("inputs", 0, "shape", value=[10**300]), "too large"),
        (put("inputs", 0, "name", value=""), "no name"),
        (put("inputs", value=[spec("x", shape=(4,))] * 2), "names that differ"),
        (put("segments", 0, "inputs", value=[]), "segment 0 has no inputs"),
        (put("segments", 0, "inputs", 0, "name", value="y"), "segment 0 takes an input that no earlier segment gives"),
        (put("segments", 0, "inputs", value=[spec("h1", shape=(2, 2))]), "segment 0 takes an input"),
        (put("segments", 1, "inputs", 0, "shape", value=[2, 9]), "segment 1 takes an input"),
        (put("segments", 1, "inputs", 0, "dtype", value="float16"), "segment 1 takes an input"),
        (put("segments", 0, "outputs", value=[]), "segment 1 takes an input"),
        (put("segments", 1, "outputs", value=[spec("h0")]), "names that differ"),
        (put("segments", 2, "outputs", value=[spec("h0")]), "exists already"),
        (put("segments", 0, "logits", value="h0"), "name of its logits for another tensor"),
        (put("segments", 0, "logits", value="x"), "name of its logits for another tensor"),
        (put("segments", 0, "logits", value="exit.0.means"), "name of its logits for another tensor"),
        (put("segments", 0, "logits", value=""), "no name for its logits"),
        (put("segments", 1, "policy_inputs", value=[spec("exit.0.means", shape=(3, 5))]), "unlike an earlier one"),
        (put("segments", 0, "policy_inputs", value=[spec("x", shape=(4,))]), "names that differ"),
        (put("segments", 0, "policy_inputs", 0, "shape", value=[4, 3]), "'exit.0.means' does not fit the manifest"),
        (put("segments", 0, "policy_inputs", 0, "dtype", value="float64"), "'exit.0.means' does not fit the manifest"),
        (
            put("segments", 0, "policy_inputs", 0, "name", value="absent"),
            "exits.safetensors: tensor 'absent' is missing",
        ),
        (put("segments", 0, "policy_inputs", value=[]), "'exit.0.means' is not one that the manifest names"),
        (put("policy", "tensors", value=[]), f"'{TEMPERATURES}' is not one that the manifest names"),
        (put("policy", "tensors", value=[TEMPERATURES, "weights"]), "'weights' is missing"),
        (put("preprocessing", value=image(mode=None)), "needs mode and size"),
        (put("preprocessing", value=image(size=None)), "needs mode and size"),
        (put("preprocessing", value=image()), "does not fit the preprocessing"),
        (put("calibration", "samples", value=-1), "samples is negative"),
        (put("calibration", "exit_shares", value=[1.0]), "one share per exit"),
        (put("calibration", "exit_shares", value=[2.0, -1.0, 0.0]), "outside 0 to 1"),
        (put("calibration", "accuracy", value=88.0), "outside 0 to 1"),
        (put("calibration", "mean_cost", value=-1.0), "mean_cost is unusable"),
        (put("calibration", "max_drop", value=-1.0), "max_drop is unusable"),
        (put("calibration", "max_drop", value=None), "max_drop or budget, and not both"),
        (put("calibration", "budget", value=0.5), "max_drop or budget, and not both"),
        (put("calibration", "unit", value="ms"), "budget and unit go together"),
        (put("calibration", "unit", value="hours"), "Invalid enum value"),
        (put("calibration", "delta", value=1.0), "delta is unusable"),
        (put("calibration", "method", value=""), "method is empty"),
        (put("provenance", "sources", 0, "name", value="/home/me/m.onnx"), "source with its folder"),
        (put("exits", 0, "head", value="unheard-of"), "Invalid enum value"),
        (put("exits", 0, "threshold", value="0.5"), "exits"),
    ],
)
def test_a_manifest_that_makes_no_sense_is_refused(
    folder: Path, alter: Callable[[Document], object], words: str
) -> None:
    rewrite_manifest(folder, alter)
    with pytest.raises(BundleError, match=words):
        Bundle.open(folder)


@given(data=st.data(), value=values)
def test_any_value_anywhere_in_the_manifest_opens_or_is_refused(
    shared: Path, data: st.DataObject, value: object
) -> None:
    original = (shared / "manifest.json").read_bytes()
    rewrite_manifest(shared, lambda document: put(*data.draw(st.sampled_from(places(document))), value=value)(document))
    try:
        with contextlib.suppress(BundleError):
            opens(shared)
    finally:
        (shared / "manifest.json").write_bytes(original)


def test_a_policy_that_is_not_known_here_is_refused_when_asked_for(folder: Path) -> None:
    rewrite_manifest(folder, put("policy", "name", value="oracle"))
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=r"bundle: manifest\.json names a policy"):
        bundle.policy()


def test_pictures_whose_size_is_the_inputs_are_accepted(folder: Path) -> None:
    picture = spec("x", "uint8", (8, 8, 1))
    rewrite_file(
        folder, "check.safetensors", save_tensors({**check_tensors(3), "input.x": np.zeros((2, 8, 8, 1), "u1")})
    )
    rewrite_manifest(
        folder,
        both(
            put("inputs", value=[picture]),
            put("segments", 0, "inputs", value=[picture]),
            put("preprocessing", value={**image(mode="L"), "mean": [0.5], "std": [0.25]}),
        ),
    )
    assert opens(folder)


def test_segments_may_all_take_the_input_as_cascades_of_models_do(folder: Path) -> None:
    changes = [put("segments", k, "inputs", value=[spec("x", shape=(4,))]) for k in range(3)]
    changes += [put("segments", k, "outputs", value=[]) for k in range(3)]
    changes += [put("segments", k, "logits", value="logits") for k in range(3)]
    rewrite_manifest(folder, both(*changes))
    assert opens(folder)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_exits_tensors_that_are_not_finite_are_refused(folder: Path, value: float, dtype: str) -> None:
    rewrite_file(
        folder, "exits.safetensors", save_tensors({**exits_tensors(3), TEMPERATURES: np.array([1, 1, value], dtype)})
    )
    with pytest.raises(BundleError, match=rf"exits\.safetensors: tensor '{TEMPERATURES}' holds NaN or infinity"):
        Bundle.open(folder)


def test_exits_tensors_that_are_malformed_are_refused(folder: Path) -> None:
    rewrite_file(folder, "exits.safetensors", b"\xff" * 40)
    with pytest.raises(BundleError, match=r"bundle: exits\.safetensors: the header"):
        Bundle.open(folder)


def test_an_exits_tensor_that_nobody_names_is_refused(folder: Path) -> None:
    rewrite_file(folder, "exits.safetensors", save_tensors({**exits_tensors(3), "more": np.ones(1)}))
    with pytest.raises(BundleError, match=r"exits\.safetensors: tensor 'more' is not one that the manifest names"):
        Bundle.open(folder)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"logits.2": None}, "'logits.2' is missing"),
        ({"labels": None}, "'labels' is missing"),
        ({"more": np.ones(1)}, "'more' is not one"),
        ({"labels": np.int64(1)}, "does not fit"),
        ({"labels": np.ones(2, np.int32)}, "'labels' does not fit"),
        ({"labels": np.ones(3, np.int64)}, "does not fit"),
        ({"exits": np.zeros((2, 1), np.int64)}, "'exits' does not fit"),
        ({"input.x": np.zeros((2, 5), np.float32)}, "'input.x' does not fit"),
        ({"logits.0": np.zeros((2, 4), np.float32)}, "'logits.0' does not fit"),
        ({"labels": np.array([0, 3])}, "'labels' holds a value outside 0 to 2"),
        ({"labels": np.array([0, -1])}, "'labels' holds a value outside 0 to 2"),
        ({"exits": np.array([0, 3])}, "'exits' holds a value outside 0 to 2"),
        ({"probabilities": np.array([0.5, 1.5], np.float32)}, "'probabilities' holds a value outside 0 to 1"),
        ({"probabilities": np.array([0.5, np.nan], np.float32)}, "'probabilities' holds a value outside 0 to 1"),
    ],
)
def test_golden_samples_that_do_not_fit_are_refused(folder: Path, changes: dict[str, Any], words: str) -> None:
    tensors: Tensors = {name: array for name, array in {**check_tensors(3), **changes}.items() if array is not None}
    rewrite_file(folder, "check.safetensors", save_tensors(tensors))
    bundle = Bundle.open(folder)
    with pytest.raises(BundleError, match=rf"bundle: check\.safetensors: tensor .*{words}"):
        _ = bundle.check
