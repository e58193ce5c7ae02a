"""Heads that torch trained: their nodes compute what torch computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from cascades import run
from edgeexit_exporters.heads.table import TensorPlace
from edgeexit_exporters.probe import Axis, Rounding, TensorInfo

torch = pytest.importorskip("torch", reason="needs edgeexit[train]")
pytest.importorskip("onnxscript", reason="needs edgeexit-exporters[torch]")

from edgeexit.training.heads import Head, HeadSpec, build_head, head_macs  # noqa: E402  torch may be missing
from edgeexit_exporters.heads.trained import TrainedHead, trained_head  # noqa: E402

CLASSES = 3
TOKENS = (6, 16)

SPECS: dict[str, tuple[str, tuple[int, ...], bool]] = {
    "linear": ("linear", (8, 12, 10), True),
    "hidden": ("linear/16,8@dropout=0.3", (8, 12, 10), True),
    "conv": ("conv:8,6/12", (4, 12, 12), True),
    "mixed": ("mixed", (8, 9, 7), True),
    "sequence": ("linear", (8, 40), True),
    "first token": ("token/8", TOKENS, False),
    "vector": ("linear", (20,), True),
}


def info(*shape: int, dtype: str = "float32", rounding: Rounding | None = None) -> TensorInfo:
    return TensorInfo(dtype, (Axis(1, 0), *(Axis(0, length) for length in shape)), rounding=rounding)


def random(*shape: int, seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.5, 2, shape).astype(np.float32)


def experienced(spec: str, shape: tuple[int, ...], channels_first: bool) -> Head:
    """A head in whose norms something has been learnt."""
    head = build_head(HeadSpec.parse(spec), shape, CLASSES, channels_first=channels_first, seed=0)
    head.train()
    with torch.no_grad():
        for seed in range(3):
            head(torch.from_numpy(random(32, *shape, seed=seed)))
    return head.eval()


def graft(head: Head, tensor: TensorInfo, *, channels_first: bool = True, mask: bool = False, opset: int = 18) -> Any:
    """The head as nodes, and a model that holds nothing else."""
    infos = {"t": tensor} | ({"mask": info(tensor.shape[0], dtype="int64")} if mask else {})
    place = TensorPlace("t", tensor, "exit.t.", channels_first, "mask" if mask else None)
    found = trained_head(head, place, infos, opset)
    nodes = found.nodes("exit.t.")
    kinds = {name: helper.np_dtype_to_tensor_dtype(np.dtype(each.dtype)) for name, each in infos.items()}
    graph = helper.make_graph(
        list(nodes.nodes),
        "head",
        [
            *(helper.make_tensor_value_info(n, kinds[n], ["batch", *infos[n].shape]) for n in nodes.reads),
            *(helper.make_tensor_value_info(n, TensorProto.FLOAT, list(a.shape)) for n, a in nodes.policy.items()),
        ],
        [
            helper.make_tensor_value_info(nodes.logits, TensorProto.FLOAT, ["batch", CLASSES]),
            helper.make_tensor_value_info(found.features.output, TensorProto.FLOAT, ["batch", found.features.length]),
        ],
        list(nodes.initializers),
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
    onnx.checker.check_model(model)
    return found, model


def logits(found: TrainedHead, model: onnx.ModelProto, feeds: dict[str, NDArray[Any]]) -> NDArray[np.float32]:
    """What the nodes answer, which is what `forward` makes of the features."""
    outputs = run(model, feeds | dict(found.nodes("exit.t.").policy))
    answers = outputs["exit.t.logits"]
    np.testing.assert_allclose(answers, found.forward(outputs[found.features.output]), rtol=1e-4, atol=1e-4)
    return answers


def told(head: Head, x: NDArray[np.float32], mask: NDArray[np.int64] | None = None) -> NDArray[np.float32]:
    with torch.no_grad():
        answers = head(torch.from_numpy(x), None if mask is None else torch.from_numpy(mask))
    return np.asarray(answers.numpy())


@pytest.mark.parametrize("name", SPECS)
def test_the_nodes_of_a_head_compute_what_torch_computes_alone_and_in_a_batch(name: str) -> None:
    spec, shape, channels_first = SPECS[name]
    head = experienced(spec, shape, channels_first)
    found, model = graft(head, info(*shape), channels_first=channels_first)
    x = random(5, *shape, seed=9)
    want = told(head, x)
    np.testing.assert_allclose(logits(found, model, {"t": x}), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(logits(found, model, {"t": x[:1]}), want[:1], rtol=1e-4, atol=1e-5)
    assert found.nodes("exit.t.").macs == head_macs(head, shape)
    assert found.kind == "trained"


def test_masked_tokens_do_not_count() -> None:
    head = experienced("token@tokens=mean", TOKENS, False)
    found, model = graft(head, info(*TOKENS), channels_first=False, mask=True)
    assert found.features.reads == ("t", "mask")
    x, mask = random(4, *TOKENS), (np.arange(6) < [[1], [3], [6], [0]]).astype(np.int64)
    want = told(head, x, mask)
    np.testing.assert_allclose(logits(found, model, {"t": x, "mask": mask}), want, rtol=1e-4, atol=1e-5)
    other = np.where(mask[..., None] == 0, np.float32(7), x)
    np.testing.assert_allclose(logits(found, model, {"t": other, "mask": mask}), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["fp16", "int8"])
def test_a_rounded_tensor_is_read_as_the_numbers_that_it_stands_for(kind: str) -> None:
    head = experienced("linear", (4, 6, 6), True)
    numbers = random(5, 4, 6, 6).round(1)
    rounded = (
        info(4, 6, 6, dtype="float16") if kind == "fp16" else info(4, 6, 6, dtype="int8", rounding=Rounding(0.1, 3))
    )
    stored = numbers.astype(np.float16) if kind == "fp16" else (np.rint(numbers / 0.1) + 3).astype(np.int8)
    found, model = graft(head, rounded)
    np.testing.assert_allclose(logits(found, model, {"t": stored}), told(head, numbers), rtol=1e-2, atol=1e-2)


def test_the_last_layer_is_policy_and_the_body_is_not() -> None:
    head = experienced("linear/16", (8, 12, 10), True)
    found, _ = graft(head, info(8, 12, 10))
    nodes = found.nodes("exit.t.")
    assert {name: array.shape for name, array in nodes.policy.items()} == {
        "exit.t.weight": (CLASSES, 16),
        "exit.t.bias": (CLASSES,),
    }
    (hidden,) = (layer for layer in head.body.layers if isinstance(layer, torch.nn.Linear))
    assert nodes.body_params == hidden.weight.numel() + hidden.bias.numel()
    assert nodes.params == nodes.body_params + 16 * CLASSES + CLASSES


def test_a_head_takes_no_operator_for_its_norm_and_its_torch_twin_stays_as_it_is() -> None:
    head = experienced("linear", (8, 12, 10), True)
    before = {name: value.clone() for name, value in head.state_dict().items()}
    found, _ = graft(head, info(8, 12, 10))
    assert not any("Norm" in node.op_type for node in found.features.nodes)
    assert all(torch.equal(value, before[name]) for name, value in head.state_dict().items())


def test_the_nodes_are_of_the_graphs_operator_set_and_their_names_are_their_own() -> None:
    head = experienced("linear", (8, 12, 10), True)
    found, model = graft(head, info(8, 12, 10), opset=20)
    x = random(2, 8, 12, 10)
    np.testing.assert_allclose(logits(found, model, {"t": x}), told(head, x), rtol=1e-4, atol=1e-5)
    made = [name for node in found.nodes("exit.t.").nodes for name in node.output]
    assert all(name.startswith("exit.t.") for name in [*made, *(t.name for t in found.features.initializers)])
