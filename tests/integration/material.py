"""Small models that can really tell five kinds of picture apart, and the pictures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import numpy_helper
from PIL import Image

import zoo_onnx as drawn
from zoo_onnx import Sketch

LABELS = ("ash", "birch", "cedar", "elm", "oak")
MEAN = (0.45, 0.5, 0.55)
STD = (0.25, 0.2, 0.3)
NORMALISE = ("--mean", "0.45,0.5,0.55", "--std", "0.25,0.2,0.3")
SIZE = 8
ENDINGS = {
    "pictures": "",
    "arrays": ".npz",
    "large-pictures": "-large",
    "large-arrays": "-large.npz",
    "text": "-text.npz",
}
"""What follows train, calibration and test in the names of the data sets, by kind."""

Pixels = NDArray[np.uint8]
Labels = NDArray[np.int64]


def pictures(n: int, seed: int, classes: int = 5) -> tuple[Pixels, Labels]:
    """n pictures, uint8 (n, 8, 8, 3), and their labels; some are harder than others.

    Half of the pictures of a class are the negatives of the others, so that no linear rule on the pixels can do it.
    """
    prototypes = np.random.default_rng(1234).normal(0, 40, (5, SIZE, SIZE, 3))
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % classes
    signs = random.choice([-1, 1], (n, 1, 1, 1))
    noise = random.normal(size=(n, SIZE, SIZE, 3)) * random.uniform(20, 110, (n, 1, 1, 1))
    return np.clip(128 + signs * prototypes[labels] + noise, 0, 255).astype(np.uint8), labels


def normalised(pixels: Pixels) -> NDArray[np.float32]:
    """What the models were taught on: float32 (n, 3, 8, 8)."""
    scaled = (pixels.astype(np.float32) / 255 - np.float32(MEAN)) / np.float32(STD)
    return np.ascontiguousarray(scaled.transpose(0, 3, 1, 2)).astype(np.float32)


def save_folder(root: Path, pixels: Pixels, labels: Labels, names: Sequence[str] = LABELS) -> Path:
    """A folder with one subfolder a class."""
    for i, (picture, label) in enumerate(zip(pixels, labels, strict=True)):
        folder = root / names[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(folder / f"{i:04d}.png")
    return root


def save_arrays(path: Path, **arrays: NDArray[Any]) -> Path:
    """An archive of arrays."""
    np.savez(path, **arrays)
    return path


def answers(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], *names: str) -> list[NDArray[Any]]:
    """Some tensors of a model."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    known = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(copy.SerializeToString(), providers=["CPUExecutionProvider"])
    return list(session.run(list(names), feeds))


def taught(model: onnx.ModelProto, feeds: dict[str, NDArray[Any]], labels: Labels) -> onnx.ModelProto:
    """The model with every last layer, a Gemm, fitted to the labels by least squares."""
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    outputs = {value.name for value in model.graph.output}
    for node in model.graph.node:
        if node.op_type == "Gemm" and node.output[0] in outputs:
            (features,) = answers(model, feeds, node.input[0])
            design = np.concatenate([features, np.ones((len(features), 1), np.float32)], axis=1).astype(np.float64)
            targets = 8.0 * np.eye(drawn.CLASSES)[labels]
            ridge = 1e-3 * len(features) * np.eye(design.shape[1])
            solved = np.linalg.solve(design.T @ design + ridge, design.T @ targets).astype(np.float32)
            for name, values in zip(node.input[1:], (solved[:-1], solved[-1]), strict=True):
                weights[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
    return model


def classifier(
    blocks: int = 3, width: int = 16, *, exits: Sequence[str] = ("logits",), seed: int = 31
) -> onnx.ModelProto:
    """A residual network on float32 (batch, 3, 8, 8) that was taught, with an exit after each of the last blocks."""
    g = Sketch(seed)
    x = g("Relu", g.norm(g.conv("image", (3, width)), width))
    for block in range(blocks):
        y = g("Relu", g.norm(g.conv(x, (width, width)), width))
        x = g("Relu", g("Add", g.norm(g.conv(y, (width, width)), width), x))
        if block >= blocks - len(exits):
            pooled = g("Flatten", g("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]))
            g.dense(pooled, (16 * width, drawn.CLASSES), exits[block - blocks])
    model = g.model({"image": (np.float32, (3, SIZE, SIZE))}, exits)
    pixels, labels = pictures(4000, 0)
    return taught(model, {"image": normalised(pixels)}, labels)


def encoder(length: int = 12, vocabulary: int = 20, width: int = 8) -> onnx.ModelProto:
    """A BERT-like network: int64 input_ids and attention_mask, the mask in every layer."""
    g = Sketch(41)
    x = g("Gather", g.weight(vocabulary, width), "input_ids")
    bias = g("Mul", g("Sub", g("Cast", "attention_mask", to=onnx.TensorProto.FLOAT), g.store(np.float32(1))),
             g.store(np.float32(1e4)))  # fmt: skip
    bias = g("Unsqueeze", bias, g.ints(1))
    for _ in range(2):
        scores = g("MatMul", g("MatMul", x, g.weight(width, width)), g("Transpose", x, perm=[0, 2, 1]))
        mixed = g("MatMul", g("Softmax", g("Add", scores, bias), axis=-1), x)
        x = g("Add", x, g("Relu", g("MatMul", mixed, g.weight(width, width))))
    weights = g("Unsqueeze", g("Cast", "attention_mask", to=onnx.TensorProto.FLOAT), g.ints(2))
    total = g("ReduceSum", g("Mul", x, weights), g.ints(1), keepdims=0)
    mean = g("Div", total, g("ReduceSum", weights, g.ints(1), keepdims=0))
    g.dense(mean, (width, drawn.CLASSES), "logits")
    model = g.model({"input_ids": (np.int64, (length,)), "attention_mask": (np.int64, (length,))})
    feeds, labels = sentences(600, 0)
    return taught(model, feeds, labels)


def sentences(n: int, seed: int, length: int = 12) -> tuple[dict[str, NDArray[np.int64]], Labels]:
    """Words of which most belong to the sentence's class, padded with 0."""
    random = np.random.default_rng(seed)
    labels = np.arange(n, dtype=np.int64) % drawn.CLASSES
    own = 1 + 3 * labels[:, None] + random.integers(0, 3, (n, length))
    ids = np.where(random.random((n, length)) < 0.6, own, random.integers(1, 20, (n, length)))
    mask = (np.arange(length) < random.integers(3, length + 1, (n, 1))).astype(np.int64)
    return {"input_ids": ids * mask, "attention_mask": mask}, labels


def make_world(root: Path) -> Path:
    """A folder with data sets and models; tests only read it."""
    for number, (name, count) in enumerate({"train": 500, "calibration": 250, "test": 300}.items()):
        pixels, labels = pictures(count, number + 1)
        save_folder(root / name, pixels, labels)
        save_arrays(root / f"{name}.npz", x=normalised(pixels), y=labels)
        pixels = pixels.repeat(2, axis=1).repeat(2, axis=2)
        save_folder(root / f"{name}-large", pixels, labels)
        save_arrays(root / f"{name}-large.npz", x=normalised(pixels), y=labels)
        feeds, labels = sentences(count, number + 1)
        save_arrays(root / f"{name}-text.npz", y=labels, **feeds)
    models = {
        "plain": classifier(3, 12),
        "small": classifier(1, 6),
        "big": classifier(2, 16),
        "three": classifier(3, 12, exits=("early", "middle", "late")),
        "text": encoder(),
    }
    for name, model in models.items():
        (root / f"{name}.onnx").write_bytes(model.SerializeToString())
    return root
