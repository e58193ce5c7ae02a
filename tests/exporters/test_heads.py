"""Exit heads: what the graph computes is what the formulas say."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper

from cascades import run
from edgeexit_exporters.features import grid_features, pooled_block_features
from edgeexit_exporters.heads import Head, HeadSettings
from edgeexit_exporters.heads.class_means import ClassMeansFitter
from edgeexit_exporters.heads.gaussian import GaussianFitter
from edgeexit_exporters.heads.table import HEADS, TensorPlace
from edgeexit_exporters.probe import Axis, TensorInfo

CLASSES = 3


def info(*shape: int, dtype: str = "float32") -> TensorInfo:
    return TensorInfo(dtype, (Axis(1, 0), *(Axis(0, length) for length in shape)))


def place(*shape: int, channels_first: bool = True, mask: str | None = None) -> TensorPlace:
    return TensorPlace("t", info(*shape), "exit.", channels_first, mask)


def model_of(head: Head, shape: tuple[int, ...], mask: bool = False) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    nodes = head.nodes("exit.")
    inputs = [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch", *shape])]
    if mask:
        inputs.append(helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", shape[0]]))
    inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, list(a.shape)) for n, a in nodes.policy.items()]
    graph = helper.make_graph(
        list(nodes.nodes),
        "head",
        inputs,
        [
            helper.make_tensor_value_info(nodes.logits, TensorProto.FLOAT, None),
            helper.make_tensor_value_info(head.features.output, TensorProto.FLOAT, None),
        ],
        list(nodes.initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return model, dict(nodes.policy)


def fitted(kind: str, shape: tuple[int, ...], seed: int = 0, *, channels_first: bool = True) -> Head:
    rng = np.random.default_rng(seed)
    fitter = HEADS[kind](place(*shape, channels_first=channels_first), CLASSES, HeadSettings())
    labels = np.arange(600) % CLASSES
    centres = rng.normal(size=(CLASSES, fitter.features.length))
    values = (centres[labels] + rng.normal(size=(600, fitter.features.length))).astype(np.float32)
    fitter.add(values, labels)
    return fitter.variants()[0]


@pytest.mark.parametrize("kind", ["gaussian", "class-means"])
@pytest.mark.parametrize(
    "shape", [(16, 32, 32), (5, 7, 9), (64, 8, 8), (300, 1, 1), (12, 30), (40,), (5000,), (4, 3, 5, 5)]
)
def test_the_graph_of_a_head_computes_what_its_forward_computes(kind: str, shape: tuple[int, ...]) -> None:
    head = fitted(kind, shape)
    model, policy = model_of(head, shape)
    x = np.random.default_rng(1).normal(size=(6, *shape)).astype(np.float32)
    outputs = run(model, {"t": x} | policy)
    features = outputs[head.features.output]
    assert features.shape == (6, head.features.length)
    np.testing.assert_allclose(outputs["exit.logits"], head.forward(features), rtol=1e-4, atol=1e-4)


def test_gaussian_logits_are_the_log_posterior_of_normal_classes_with_one_covariance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(3000, 4)).astype(np.float32) @ rng.normal(size=(4, 4)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 3000)
    values += labels[:, None] * np.asarray([1.0, -1.0, 0.5, 0.0], dtype=np.float32)
    fitter = GaussianFitter(grid_features("t", info(4), "e.", limit=64), CLASSES)
    for part in np.array_split(np.arange(3000), 7):
        fitter.add(values[part], labels[part])
    head = fitter.variants()[0]
    means = np.stack([values[labels == k].mean(axis=0) for k in range(CLASSES)]).astype(np.float64)
    residual = values - means[labels]
    covariance = residual.T @ residual / 3000
    shrunk = (1 - head.shrinkage) * covariance + head.shrinkage * np.trace(covariance) / 4 * np.eye(4)
    difference = values[:, None, :] - means
    distance = np.einsum("nkd,de,nke->nk", difference, np.linalg.inv(shrunk), difference)
    log_posterior = -0.5 * distance + np.log(np.bincount(labels) / 3000)
    expected = log_posterior - log_posterior.mean(axis=1, keepdims=True)
    found = head.forward(values)
    np.testing.assert_allclose(found - found.mean(axis=1, keepdims=True), expected, atol=1e-3)


def test_a_gaussian_head_is_a_single_matrix_product_at_run_time() -> None:
    operators = [node.op_type for node in fitted("gaussian", (16, 32, 32)).nodes("e.").nodes]
    assert operators.count("Gemm") == 1
    assert not {"MatMul", "Conv"} & set(operators)


def test_class_mean_logits_are_the_negative_distances_over_the_stored_mean_distance() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(900, 20)).astype(np.float32) + 5
    labels = np.arange(900) % CLASSES
    fitter = ClassMeansFitter(pooled_block_features("t", info(20), "e.", limit=64), CLASSES)
    for part in np.array_split(np.arange(900), 4):
        fitter.add(values[part], labels[part])
    (head,) = fitter.variants()
    means = np.stack([values[labels == k].mean(axis=0) for k in range(CLASSES)])  # eq. 2
    distances = np.linalg.norm(values[:, None] - means, axis=2)  # eq. 3
    norms = distances.mean(axis=0)  # eq. 4
    np.testing.assert_allclose(head.norms, norms, rtol=1e-4)
    np.testing.assert_allclose(head.forward(values), -distances / norms, rtol=1e-3)  # eq. 5


def test_beyond_the_kept_sample_the_norms_of_equation_4_are_within_one_percent() -> None:
    rng = np.random.default_rng(0)
    values = rng.gamma(2.0, size=(20_000, 8)).astype(np.float32)
    labels = rng.integers(0, CLASSES, 20_000)
    fitter = ClassMeansFitter(pooled_block_features("t", info(8), "e.", limit=64), CLASSES)
    for part in np.array_split(np.arange(20_000), 40):
        fitter.add(values[part], labels[part])
    (head,) = fitter.variants()
    means = np.stack([values[labels == k].mean(axis=0) for k in range(CLASSES)])
    norms = np.linalg.norm(values[:, None] - means, axis=2).mean(axis=0)
    np.testing.assert_allclose(head.norms, norms, rtol=0.01)


def test_the_probabilities_of_a_class_mean_head_do_not_depend_on_the_batch() -> None:
    head = fitted("class-means", (10, 6, 6))
    model, policy = model_of(head, (10, 6, 6))
    x = np.random.default_rng(1).normal(size=(5, 10, 6, 6)).astype(np.float32)
    together = run(model, {"t": x} | policy)["exit.logits"]
    alone = np.concatenate([run(model, {"t": x[i : i + 1]} | policy)["exit.logits"] for i in range(5)])
    np.testing.assert_allclose(together, alone, rtol=1e-5)


def test_three_dimensional_pooling_takes_80_by_14_by_14_to_10_by_7_by_7_as_in_the_paper() -> None:
    features = pooled_block_features("t", info(80, 14, 14), "e.", limit=10 * 7 * 7)
    assert features.length == 10 * 7 * 7
    (pool,) = [node for node in features.nodes if node.op_type == "MaxPool"]
    assert [list(a.ints) for a in pool.attribute if a.name == "kernel_shape"] == [[8, 2, 2]]


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 40), min_size=1, max_size=4),
    kib=st.integers(1, 64),
    classes=st.integers(2, 300),
)
def test_class_means_keep_their_memory_budget(shape: list[int], kib: int, classes: int) -> None:
    setting = HeadSettings(kind="class-means", means_bytes=kib * 1024)
    length = HEADS["class-means"](place(*shape), classes, setting).features.length
    assert length * classes * 4 <= max(kib * 1024, classes * 4)


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 600), min_size=1, max_size=3),
    limit=st.sampled_from([64, 512, 1536]),
    channels_first=st.booleans(),
)
def test_gaussian_features_have_the_length_they_state_and_keep_the_limit(
    shape: list[int], limit: int, channels_first: bool
) -> None:
    if np.prod(shape) > 200_000:
        return
    features = grid_features("t", info(*shape), "e.", limit=limit, channels_first=channels_first)
    graph = helper.make_graph(
        list(features.nodes),
        "features",
        [helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch", *shape])],
        [helper.make_tensor_value_info(features.output, TensorProto.FLOAT, None)],
        list(features.initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    found = run(model, {"t": np.ones((2, *shape), dtype=np.float32)})[features.output]
    assert found.shape == (2, features.length)
    wide = shape[0] if len(shape) == 3 or (channels_first and len(shape) == 2) else shape[-1]
    assert features.length <= max(limit, wide)


def test_masked_tokens_do_not_count_in_the_average() -> None:
    features = grid_features("t", info(6, 200), "e.", limit=512, channels_first=False, mask="mask")
    graph = helper.make_graph(
        list(features.nodes),
        "features",
        [
            helper.make_tensor_value_info("t", TensorProto.FLOAT, ["batch", 6, 200]),
            helper.make_tensor_value_info("mask", TensorProto.INT64, ["batch", 6]),
        ],
        [helper.make_tensor_value_info(features.output, TensorProto.FLOAT, None)],
        list(features.initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    x = np.random.default_rng(0).normal(size=(1, 6, 200)).astype(np.float32)
    mask = np.asarray([[1, 1, 1, 0, 0, 0]])
    found = run(model, {"t": x, "mask": mask})[features.output]
    np.testing.assert_allclose(found[0, 200:], x[0, :3].mean(axis=0), rtol=1e-4, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(values=arrays(np.float32, (30, 5), elements=st.floats(-100, 100, width=32)), cuts=st.lists(st.integers(1, 29)))
def test_the_way_the_data_is_cut_into_batches_does_not_matter(values: np.ndarray, cuts: list[int]) -> None:
    labels = np.arange(30) % CLASSES

    def means(parts: list[np.ndarray]) -> np.ndarray:
        fitter = ClassMeansFitter(pooled_block_features("t", info(5), "e.", limit=64), CLASSES)
        for part in parts:
            fitter.add(values[part], labels[part])
        return fitter.variants()[0].means

    order = np.arange(30)
    whole = means([order])
    np.testing.assert_allclose(
        means([p for p in np.split(order, sorted(set(cuts))) if len(p)]), whole, rtol=1e-4, atol=1e-4
    )
