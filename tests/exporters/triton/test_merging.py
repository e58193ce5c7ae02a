"""Segments of a tail as one graph."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle, file_entry
from edgeexit.errors import BundleError, ModelError
from edgeexit.manifest import LAYOUT_HINT
from edgeexit.payload import PRECISIONS, pack_all, unpack_all
from edgeexit.tails import boundary
from edgeexit_exporters.triton import merged_tail
from edgeexit_exporters.triton.checking import golden_boundaries
from edgeexit_runtime import Cascade
from exporters.triton.tails import Arrays, golden_inputs, handed_on
from runtime.cascades import float_spec, forward, write_tiny

GENTLE, ROUNDED = 1e-5, 5e-2


def run(model: onnx.ModelProto, arrays: Arrays) -> NDArray[np.float32]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], arrays)
    return np.asarray(logits)


def altered(bundle: Bundle, k: int, graph: bytes, **changes: Any) -> Bundle:
    """The bundle with another graph for segment k, unhashed."""
    manifest, path = bundle.manifest, bundle.manifest.segments[k].file.path
    segments = list(manifest.segments)
    segments[k] = msgspec.structs.replace(segments[k], file=file_entry(path, graph), **changes)
    manifest = msgspec.structs.replace(manifest, segments=tuple(segments))
    return Bundle(bundle.path, manifest, bundle.size_bytes, {**bundle.contents, path: graph}, bundle.exits)


@pytest.fixture
def tiny(tmp_path: Path) -> Bundle:
    return Bundle.open(write_tiny(tmp_path / "tiny"))


def test_the_whole_cascade_gives_all_exits_logits(bundle: Bundle) -> None:
    logits = run(merged_tail(bundle, 0), golden_inputs(bundle))
    golden = np.stack([bundle.check[f"logits.{k}"] for k in range(len(bundle.manifest.segments))], axis=1)
    tolerance = ROUNDED if bundle.manifest.segments[0].precision == "int8" else GENTLE
    np.testing.assert_allclose(logits, golden, rtol=tolerance, atol=tolerance * np.abs(golden).max())


def test_a_device_that_hands_on_to_a_tail_answers_like_the_cascade(bundle: Bundle) -> None:
    inputs = golden_inputs(bundle)
    whole = Cascade.open(bundle).run(inputs)
    for k in range(len(bundle.manifest.segments)):
        model = merged_tail(bundle, k)
        found = handed_on(bundle, k, inputs, lambda arrays, model=model: run(model, arrays))  # type: ignore[misc]
        np.testing.assert_array_equal(found.labels, whole.label)
        np.testing.assert_array_equal(found.exits, whole.exit)


def test_a_tail_takes_the_boundary_in_front_of_it_and_nothing_else(bundle: Bundle) -> None:
    for k in range(len(bundle.manifest.segments)):
        model = merged_tail(bundle, k)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == [spec.name for spec in boundary(bundle.manifest, k)]
        assert [value.name for value in model.graph.output] == ["logits"]


def test_a_tail_takes_any_number_of_samples(bundle: Bundle) -> None:
    inputs = golden_inputs(bundle)
    model = merged_tail(bundle, 0)
    together = run(model, inputs)
    for row in range(3):
        alone = run(model, {name: array[row : row + 1] for name, array in inputs.items()})
        np.testing.assert_allclose(alone[0], together[row], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_tail_restores_what_it_takes_as_the_runtime_does(bundle: Bundle, precision: str) -> None:
    for k, arrays in enumerate(golden_boundaries(bundle)):
        packed = pack_all(arrays, precision if k else "fp32")
        model = merged_tail(bundle, k, precision)
        onnx.checker.check_model(model, full_check=True)
        assert [value.name for value in model.graph.input] == list(packed)
        restored = unpack_all(packed, boundary(bundle.manifest, k))
        expected = run(merged_tail(bundle, k), restored)
        np.testing.assert_allclose(run(model, packed), expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


def test_class_means_are_inside(bundles: dict[str, Bundle]) -> None:
    bundle = bundles["class means"]
    model = merged_tail(bundle, 0)
    constants = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    for entry in bundle.manifest.segments:
        for spec in entry.policy_inputs:
            np.testing.assert_array_equal(constants[f"policy/{spec.name}"], bundle.exits[spec.name])


def test_a_hint_for_a_tensor_that_stays_inside_is_left_out(bundles: dict[str, Bundle]) -> None:
    def hints(model: onnx.ModelProto) -> int:
        return sum(LAYOUT_HINT in node.name for node in model.graph.node)

    bundle = bundles["class means"]
    separate = [onnx.load_model_from_string(bundle.segment(k)) for k in (1, 2)]
    assert all(hints(model) for model in separate)
    assert hints(merged_tail(bundle, 1)) == hints(separate[0])
    assert hints(merged_tail(bundle, 2)) == hints(separate[1])


def test_names_that_segments_share_do_not_meet(bundle: Bundle) -> None:
    model = merged_tail(bundle, 0)
    made = [name for node in model.graph.node for name in node.output if name]
    made += [tensor.name for tensor in model.graph.initializer] + [value.name for value in model.graph.input]
    assert Counter(made).most_common(1)[0][1] == 1


def test_equal_bundles_give_equal_bytes(bundle: Bundle) -> None:
    one, other = (merged_tail(bundle, 1).SerializeToString(deterministic=True) for _ in range(2))
    assert one == other


def test_the_tails_logits_are_those_of_the_formula(tiny: Bundle) -> None:
    x = np.random.default_rng(3).standard_normal((5, 4)).astype(np.float32)
    np.testing.assert_allclose(run(merged_tail(tiny, 0), {"x": x}), forward(x).swapaxes(0, 1), rtol=1e-5, atol=1e-5)


def test_segments_of_different_opsets_are_not_merged(tiny: Bundle) -> None:
    model = onnx.load_model_from_string(tiny.segment(1))
    model.opset_import[0].version = 17
    with pytest.raises(ModelError, match="different operator sets"):
        merged_tail(altered(tiny, 1, model.SerializeToString()), 0)


def test_bytes_that_are_no_graph_are_a_bundle_error(tiny: Bundle) -> None:
    with pytest.raises(BundleError, match="is not an ONNX graph"):
        merged_tail(altered(tiny, 1, b"\xff\xff"), 0)


def test_an_input_that_is_called_as_the_output_is_refused(tiny: Bundle) -> None:
    bundle = altered(tiny, 2, tiny.segment(2), inputs=(float_spec("logits", 8),))
    segments = list(bundle.manifest.segments)
    segments[1] = msgspec.structs.replace(segments[1], outputs=(float_spec("logits", 8),))
    manifest = msgspec.structs.replace(bundle.manifest, segments=tuple(segments))
    with pytest.raises(ModelError, match="the output's name"):
        merged_tail(Bundle(bundle.path, manifest, 0, bundle.contents, bundle.exits), 2)
