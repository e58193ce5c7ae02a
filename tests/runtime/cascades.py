"""Cascades to test with: fakes whose samples say where they leave, and a tiny real bundle.

The real one is a perceptron of three segments in which x skips segment 0:

    x ── segment 0 ── h0 ── segment 1 ── h1 ── segment 2 ── logits
     ╲______________________╱
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.bundles import bundle_parts
from edgeexit.bundle import CHECK_FILE, EXITS_FILE, file_entry, segment_path, write_bundle
from edgeexit.cli import Commands
from edgeexit.manifest import ExitEntry, Manifest, Preprocessing, SegmentEntry, TensorSpec
from edgeexit.policies import MaxProbability
from edgeexit.replay import replay
from edgeexit.tensors import save_tensors
from edgeexit_runtime import Cascade, FakeBackend
from edgeexit_runtime.backends.fake import SegmentFunction

F32 = np.float32
CLASSES = 3
EXITS = 3
GOLDEN = 16
THRESHOLDS = (0.8, 0.9)

COMMANDS = Commands(
    "edgeexit",
    installed=lambda: {
        name: EntryPoint(name, f"edgeexit_runtime.commands.{name}:{command}", "edgeexit.commands")
        for name, command in {
            "bench": "bench",
            "build": "build",
            "compare": "compare_command",
            "doctor": "doctor",
            "drift": "drift",
            "eval": "eval_command",
            "report": "report",
            "install": "install",
            "rollback": "rollback",
            "profile": "profile",
            "run": "run",
            "serve": "serve",
            "tune": "tune",
            "update": "update",
            "verify": "verify",
        }.items()
    },
)
"""The runtime's commands, installed or not."""


def sample(leaves_at: int, label: int = 0) -> list[float]:
    """A sample for `fake_cascade`."""
    return [leaves_at, label, 0.0, 0.0]


def batch_of(*leaves_at: int) -> NDArray[np.float32]:
    """Samples that leave at these exits with the labels 0, 1, 2, 0, …"""
    return np.array([sample(k, i % CLASSES) for i, k in enumerate(leaves_at)], F32).reshape(-1, 4)


def told_by_the_sample(k: int) -> SegmentFunction:
    """A segment that hands x on, and is sure of a sample if x[0] ≤ k; the label is x[1]."""

    def segment(x: NDArray[np.float32]) -> tuple[Sequence[NDArray[np.float32]], NDArray[np.float32]]:
        sure = np.where(x[:, 0] <= k, F32(9), F32(0.1))
        return (x,), sure[:, None] * (np.arange(CLASSES) == x[:, 1:2]).astype(F32)

    return segment


def fake_cascade(segments: int, functions: Sequence[SegmentFunction] | None = None, upto: int | None = None) -> Cascade:
    """A cascade on the fake backend, a threshold of 0.75 at each exit."""
    manifest, _ = bundle_parts(segments)
    backend = FakeBackend([told_by_the_sample(k) for k in range(segments)] if functions is None else functions)
    policy = MaxProbability((1.0,) * segments, (0.75,) * (segments - 1) + (np.inf,))
    return Cascade(manifest, policy, backend, backend.segments[:upto])


def rows_run(cascade: Cascade) -> list[list[int]]:
    """For each segment the number of rows of each of its runs."""
    return [segment.rows for segment in cascade._segments]  # type: ignore[attr-defined]


def weights() -> dict[str, NDArray[np.float32]]:
    """The tiny model's weights and its heads'."""
    random = np.random.default_rng(5)
    shapes = {
        "flat": (64, 4),
        "a0": (4, 8),
        "a1": (8, 8),
        "s1": (4, 8),
        "a2": (8, 8),
        "a3": (8, CLASSES),
        "exit.0.weight": (8, CLASSES),
        "exit.0.bias": (CLASSES,),
        "exit.1.weight": (8, CLASSES),
        "exit.1.bias": (CLASSES,),
    }
    return {name: random.standard_normal(shape).astype(F32) for name, shape in shapes.items()}


def forward(x: NDArray[Any]) -> NDArray[np.float32]:
    """The tiny model in NumPy: (3, n, 3) logits of x, (n, 4) float32 or pictures (n, 8, 8, 1) uint8."""
    w = weights()
    if x.dtype == np.uint8:
        x = x.reshape(len(x), -1).astype(F32) / F32(255) @ w["flat"]
    h0 = np.maximum(x @ w["a0"], 0)
    h1 = np.maximum(h0 @ w["a1"] + x @ w["s1"], 0)
    h2 = np.maximum(h1 @ w["a2"], 0)
    early = [h @ w[f"exit.{k}.weight"] + w[f"exit.{k}.bias"] for k, h in enumerate((h0, h1))]
    return np.stack([*early, h2 @ w["a3"]]).astype(F32)


def tiny_policy() -> MaxProbability:
    """The tiny bundle's policy."""
    return MaxProbability((1.0,) * EXITS, (*THRESHOLDS, np.inf))


def golden_tensors(name: str, x: NDArray[Any]) -> dict[str, NDArray[Any]]:
    """What check.safetensors holds for these inputs."""
    logits = forward(x)
    answers = replay(tiny_policy(), list(logits))
    return {
        f"input.{name}": x,
        **{f"logits.{k}": logits[k] for k in range(EXITS)},
        "labels": answers.label.astype(np.int64),
        "exits": answers.exit.astype(np.int64),
        "probabilities": answers.probability.astype(F32),
    }


def tiny_parts(*, pictures: bool = False) -> tuple[Manifest, dict[str, bytes]]:
    """Manifest and contents of the tiny bundle."""
    spec = TensorSpec(name="image", dtype="uint8", shape=(8, 8, 1)) if pictures else float_spec("x", 4)
    entry_point = float_spec("flat.x", 4) if pictures else spec
    random = np.random.default_rng(1)
    shape = (GOLDEN, *spec.shape)
    golden = random.integers(0, 256, shape, np.uint8) if pictures else random.standard_normal(shape).astype(F32)
    graphs = tiny_graphs(pictures=pictures)
    contents = {segment_path(k): graph for k, graph in enumerate(graphs)}
    heads = {name: array for name, array in weights().items() if name.startswith("exit.")}
    contents[EXITS_FILE] = save_tensors({**heads, "policy.temperatures": np.ones(EXITS, F32)})
    contents[CHECK_FILE] = save_tensors(golden_tensors(spec.name, golden))
    h0, h1 = float_spec("h0", 8), float_spec("h1", 8)
    wiring = [
        ((spec,), (h0, entry_point) if pictures else (h0,)),
        ((h0, entry_point), (h1,)),
        ((h1,), ()),
    ]
    segments = tuple(
        SegmentEntry(
            file=file_entry(segment_path(k), contents[segment_path(k)]),
            inputs=inputs,
            policy_inputs=tuple(
                TensorSpec(name=name, dtype="float32", shape=array.shape)
                for name, array in heads.items()
                if name.startswith(f"exit.{k}.")
            ),
            outputs=outputs,
            logits="logits",
            macs=100,
            params=100,
            head_macs=24 if k < EXITS - 1 else 0,
            head_params=0,
        )
        for k, (inputs, outputs) in enumerate(wiring)
    )
    exits = tuple(
        ExitEntry(
            name="last" if k == EXITS - 1 else f"exit{k}",
            head="model" if k == EXITS - 1 else "gaussian",
            criterion="max-probability",
            threshold=None if k == EXITS - 1 else THRESHOLDS[k],
            cost=(0.4, 0.7, 1.1)[k],
            cost_macs=(120, 210, 330)[k],
        )
        for k in range(EXITS)
    )
    manifest, _ = bundle_parts(EXITS)
    manifest = msgspec.structs.replace(
        manifest,
        inputs=(spec,),
        preprocessing=Preprocessing(kind="image", mode="L", size=(8, 8)) if pictures else Preprocessing(kind="array"),
        segments=segments,
        exits=exits,
        exits_file=file_entry(EXITS_FILE, contents[EXITS_FILE]),
        check_file=file_entry(CHECK_FILE, contents[CHECK_FILE]),
    )
    return manifest, contents


def write_tiny(path: Path, *, pictures: bool = False) -> Path:
    """Write the tiny bundle, and return its path."""
    write_bundle(path, *tiny_parts(pictures=pictures))
    return path


def write_pair(path: Path) -> Path:
    """Write a cascade of two models, both from x, small and big, and return its path."""
    x = float_spec("x", 4)
    small = graph([("MatMul", ["x", "a0"], "h0"), ("MatMul", ["h0", "a3"], "logits")], ["x"], [], 0)
    big = graph([("MatMul", ["x", "s1"], "m"), ("Relu", ["m"], "r"), ("MatMul", ["r", "a3"], "logits")], ["x"], [], 1)
    w, golden = weights(), np.random.default_rng(6).standard_normal((GOLDEN, 4)).astype(F32)
    logits = [golden @ w["a0"] @ w["a3"], np.maximum(golden @ w["s1"], 0) @ w["a3"]]
    answers = replay(MaxProbability((1.0, 1.0), (0.9, np.inf)), logits)
    contents = {
        segment_path(0): small,
        segment_path(1): big,
        EXITS_FILE: save_tensors({"policy.temperatures": np.ones(2, F32)}),
        CHECK_FILE: save_tensors(
            {
                "input.x": golden,
                "logits.0": logits[0],
                "logits.1": logits[1],
                "labels": answers.label.astype(np.int64),
                "exits": answers.exit.astype(np.int64),
                "probabilities": answers.probability.astype(F32),
            }
        ),
    }
    manifest, _ = bundle_parts(2)
    replaced = msgspec.structs.replace
    manifest = replaced(
        manifest,
        segments=tuple(
            replaced(
                entry,
                file=file_entry(segment_path(k), contents[segment_path(k)]),
                inputs=(x,),
                policy_inputs=(),
                outputs=(),
                logits="logits",
            )
            for k, entry in enumerate(manifest.segments)
        ),
        exits=(replaced(manifest.exits[0], head="model", threshold=0.9), manifest.exits[1]),
        exits_file=file_entry(EXITS_FILE, contents[EXITS_FILE]),
        check_file=file_entry(CHECK_FILE, contents[CHECK_FILE]),
    )
    write_bundle(path, manifest, contents)
    return path


def float_spec(name: str, *shape: int) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=shape)


def tiny_graphs(*, pictures: bool = False) -> list[bytes]:
    """The three segments as ONNX."""
    head = [("Gemm", ["h", "exit.{k}.weight", "exit.{k}.bias"], "logits")]
    picture = [
        ("Cast", ["image"], "pixels"),
        ("Flatten", ["pixels"], "row"),
        ("Div", ["row", "255"], "unit"),
        ("MatMul", ["unit", "flat"], "flat.x"),
    ]
    x = "flat.x" if pictures else "x"
    first = [("MatMul", [x, "a0"], "m"), ("Relu", ["m"], "h0")]
    second = [
        ("MatMul", ["h0", "a1"], "m"),
        ("MatMul", [x, "s1"], "s"),
        ("Add", ["m", "s"], "t"),
        ("Relu", ["t"], "h1"),
    ]
    third = [("MatMul", ["h1", "a2"], "m"), ("Relu", ["m"], "h2"), ("MatMul", ["h2", "a3"], "logits")]
    inputs = ["image"] if pictures else ["x"]
    return [
        graph([*(picture if pictures else []), *first, *_head(head, 0)], inputs, ["h0", x] if pictures else ["h0"], 0),
        graph([*second, *_head(head, 1)], ["h0", x], ["h1"], 1),
        graph(third, ["h1"], [], 2),
    ]


def graph(nodes: Sequence[tuple[str, list[str], str]], inputs: Sequence[str], outputs: Sequence[str], k: int) -> bytes:
    """One segment; names out of `weights` are initialisers, those of a head are inputs."""
    from onnx import TensorProto, helper, numpy_helper

    known = {**weights(), "255": np.array(255, F32)}
    used = {name for _, names, _ in nodes for name in names}
    lengths = {"x": 4, "flat.x": 4, "h0": 8, "h1": 8, "logits": CLASSES}

    def value(name: str) -> Any:
        if name == "image":
            return helper.make_tensor_value_info(name, TensorProto.UINT8, ["batch", 8, 8, 1])
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", lengths[name]])

    policy = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, known[name].shape)
        for name in (f"exit.{k}.weight", f"exit.{k}.bias")
        if name in used
    ]
    made = helper.make_graph(
        [
            helper.make_node(op, names, [output], **({"to": TensorProto.FLOAT} if op == "Cast" else {}))
            for op, names, output in nodes
        ],
        f"segment{k}",
        [*map(value, inputs), *policy],
        [*map(value, outputs), value("logits")],
        [
            numpy_helper.from_array(known[name], name)
            for name in sorted(used & known.keys())
            if not name.startswith("exit.")
        ],
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    data: bytes = model.SerializeToString()
    return data


def _head(nodes: Sequence[tuple[str, list[str], str]], k: int) -> list[tuple[str, list[str], str]]:
    return [(op, [f"h{k}" if name == "h" else name.format(k=k) for name in names], out) for op, names, out in nodes]
