"""A bundle as one ONNX graph in which every exit is an `If`, run in ONNX Runtime one sample at a time.

Where the weights lie decides how fast it is. `torch.onnx.export` writes those of a `torch.cond` into the outermost
graph, and ONNX Runtime 1.31 then leaves out much of what it does to a graph's own weights. With each branch's
weights inside the branch it is faster by far, but no exporter known to us writes that. Both are rivals, as `if` and
`if-local`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgeexit.bundle import Bundle
from edgeexit.errors import ModelError
from edgeexit.manifest import SegmentEntry
from edgeexit_exporters.renaming import rename

__all__ = ["EXIT_INPUT", "NestedIf", "nested", "nested_graph", "nested_local"]

EXIT_INPUT = "edgeexit.exit"
ANSWER = "edgeexit.answer"
ERRORS_ONLY = 4


class NestedIf:
    """See the module. The exit is an input of the graph, so that any policy's decisions can be replayed.

    This flatters it: a real graph would have to decide too.

    Args:
        name: See `edgeexit.rivals`.
        model: As `nested_graph` writes it.
        bundle: The bundle.
        threads: CPU threads that one operator may use.
    """

    largest_batch = 1

    def __init__(self, name: str, model: onnx.ModelProto, bundle: Bundle, threads: int) -> None:
        self.name = name
        manifest = bundle.manifest
        self._inputs = {spec.name: np.zeros((1, *spec.shape), spec.dtype) for spec in manifest.inputs}
        self._exit = np.zeros((), np.int64)
        self._logits = np.zeros((1, len(manifest.labels)), np.float32)
        session = _session(model.SerializeToString(), threads)
        self._binding = session.io_binding()
        arrays = {**self._inputs, EXIT_INPUT: self._exit, ANSWER: self._logits}
        self._values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in arrays.items()}
        for name in (*self._inputs, EXIT_INPUT):
            self._binding.bind_ortvalue_input(name, self._values[name])
        self._binding.bind_ortvalue_output(ANSWER, self._values[ANSWER])
        self._session = session

    def __call__(self, batch: Mapping[str, NDArray[Any]], exits: NDArray[np.int64]) -> NDArray[np.int64]:
        """Answer one sample, leaving at `exits[0]`. Gives its label (1,)."""
        for name, array in self._inputs.items():
            array[...] = batch[name]
        self._exit[...] = exits[0]
        self._session.run_with_iobinding(self._binding)
        label: NDArray[np.int64] = self._logits.argmax(axis=1)
        return label


def nested(bundle: Bundle, threads: int) -> NestedIf:
    """The graph as exporters write it.

    Raises:
        ModelError: The segments cannot be put into one graph, or ONNX Runtime does not take it.
    """
    return NestedIf("if", nested_graph(bundle), bundle, threads)


def nested_local(bundle: Bundle, threads: int) -> NestedIf:
    """The graph with each branch's weights inside the branch.

    Raises:
        ModelError: As `nested`.
    """
    return NestedIf("if-local", nested_graph(bundle, local=True), bundle, threads)


def nested_graph(bundle: Bundle, *, local: bool = False) -> onnx.ModelProto:
    """One graph: segment 0, then `If` the sample leaves here its logits, else segment 1, and so on.

    Its inputs are the model's, and the exit as int64 (); its output is the logits of that exit. Class means
    and other policy tensors are constants.

    Args:
        bundle: The bundle.
        local: Whether the weights of a branch are the branch's own, rather than the outermost graph's.

    Raises:
        ModelError: Segments have different operator sets.
    """
    entries = bundle.manifest.segments
    models = [onnx.load_model_from_string(bundle.segment(k)) for k in range(len(entries))]
    domains = [{entry.domain: entry.version for entry in model.opset_import} for model in models]
    opsets = {domain: version for versions in domains for domain, version in versions.items()}
    if any(opsets[domain] != version for versions in domains for domain, version in versions.items()):
        raise ModelError("the segments have different operator sets", got=domains)
    shared = {spec.name for entry in entries for spec in (*entry.inputs, *entry.outputs, *entry.policy_inputs)}
    for k, model in enumerate(models):
        rename(model.graph, f"segment{k}/", {name: name for name in shared})
    tail: onnx.GraphProto | None = None
    weights = [_weights(model.graph, entry, bundle.exits) for model, entry in zip(models, entries, strict=True)]
    for k in reversed(range(len(models))):
        tail = _tail(k, models[k].graph, entries[k], weights[k] if local else [], tail)
    assert tail is not None
    if not local:
        tail.initializer.extend(tensor for tensors in weights for tensor in tensors)
    given = {value.name: value for model in models for value in model.graph.input}
    tail.input.extend(given[spec.name] for spec in bundle.manifest.inputs)
    tail.input.append(helper.make_tensor_value_info(EXIT_INPUT, TensorProto.INT64, []))
    return helper.make_model(
        tail,
        opset_imports=[helper.make_opsetid(domain, version) for domain, version in opsets.items()],
        ir_version=max(model.ir_version for model in models),
        functions=[function for model in models for function in model.functions],
    )


def _weights(
    graph: onnx.GraphProto, entry: SegmentEntry, tensors: Mapping[str, NDArray[Any]]
) -> list[onnx.TensorProto]:
    bound = [numpy_helper.from_array(tensors[spec.name], spec.name) for spec in entry.policy_inputs]
    return [*graph.initializer, *bound]


def _tail(
    k: int,
    graph: onnx.GraphProto,
    entry: SegmentEntry,
    weights: Sequence[onnx.TensorProto],
    later: onnx.GraphProto | None,
) -> onnx.GraphProto:
    """Segment k and all after it, as a graph without inputs."""
    logits = f"segment{k}/{entry.logits}"
    nodes = list(graph.node)
    answer = ANSWER if k == 0 else f"{ANSWER}.{k}"
    if later is None:
        nodes.append(helper.make_node("Identity", [logits], [answer]))
    else:
        here = helper.make_graph(
            [helper.make_node("Identity", [logits], [f"{answer}.here"])], f"leave{k}", [], [_logits(f"{answer}.here")]
        )
        number, leaves = f"edgeexit.number.{k}", f"edgeexit.leaves.{k}"
        nodes += [
            helper.make_node("Constant", [], [number], value=numpy_helper.from_array(np.int64(k))),
            helper.make_node("LessOrEqual", [EXIT_INPUT, number], [leaves]),
            helper.make_node("If", [leaves], [answer], then_branch=here, else_branch=later),
        ]
    return helper.make_graph(nodes, f"segment{k}", [], [_logits(answer)], weights)


def _logits(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None])


def _session(data: bytes, threads: int) -> ort.InferenceSession:
    """With the settings of the cascade's: no spinning, no memory pattern, the process's arena if there is one."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = ERRORS_ONLY
    options.enable_mem_pattern = False
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its exceptions have no common base below Exception
        raise ModelError(
            "ONNX Runtime does not take the graph with If", got=str(error).splitlines()[0][:300]
        ) from error
