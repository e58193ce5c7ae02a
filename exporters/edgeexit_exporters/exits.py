"""The places where a sample can leave: the model's own logits, and the cuts that may get a fitted head."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from edgeexit.errors import ModelError, UsageError
from edgeexit_exporters.cuts import Cut, candidates, cut_after, enumerate_cuts, evenly_spread, is_feature
from edgeexit_exporters.graph import Graph, bits
from edgeexit_exporters.heads.table import TensorPlace
from edgeexit_exporters.probe import TensorInfo

__all__ = ["MAX_CANDIDATES", "OwnExit", "choose_cuts", "find_own_exits", "logits_before_softmax", "place"]

MAX_CANDIDATES = 24
"""Most candidates of "auto" for heads that one pass fits."""

_FEWEST_CLASSES = 2
_MAP_OPERATORS = {"Conv", "ConvTranspose", "BatchNormalization", "InstanceNormalization", "MaxPool", "AveragePool"}


@dataclass(frozen=True)
class OwnExit:
    """An exit that the model brings.

    Attributes:
        name: The output's name, or the model's in a cascade of models.
        tensor: The logits.
        stage: Which model of a cascade.
    """

    name: str
    tensor: str
    stage: int

    def done(self, graph: Graph, stages: Sequence[int]) -> int:
        """The nodes that have run when this exit answers, those of earlier models included."""
        return graph.needs([self.tensor]) | sum(stages[: self.stage])


def logits_before_softmax(graph: Graph, output: str) -> str:
    """The tensor that a final softmax reads; `output` itself where there is none.

    Heads write logits, and a softmax more or less changes no answer.
    """
    producer = graph.producer.get(output)
    if producer is not None and graph.nodes[producer].op_type == "Softmax":
        node = graph.nodes[producer]
        if next((a.i for a in node.attribute if a.name == "axis"), -1) in (-1, 1):
            return str(node.input[0])
    return output


def find_own_exits(
    graph: Graph, infos: Mapping[str, TensorInfo], stages: Sequence[int], names: Sequence[str]
) -> tuple[tuple[OwnExit, ...], int]:
    """The model's logits outputs, cheapest first, and the number of classes.

    Every output that has the form of logits for the same classes as the last is an exit; other
    outputs (embeddings, hidden states) are left out.

    Args:
        graph: The whole graph.
        infos: What `probe` measured.
        stages: For a cascade of models, the nodes of each as a bit mask.
        names: The models' names.

    Raises:
        ModelError: No output has the form (batch, classes), or models of a cascade disagree.
    """
    found: list[tuple[int, int, int, str]] = []
    for output in graph.outputs:
        info = infos.get(output)
        if info is None or not is_feature(info) or info.shape[0] < _FEWEST_CLASSES or set(info.shape[1:]) - {1}:
            continue
        nodes = graph.needs([output])
        stage = next((s for s, of_model in enumerate(stages) if nodes & of_model), 0)
        found.append((stage, nodes.bit_count(), info.shape[0], output))
    found.sort(key=lambda entry: entry[:2])
    missing = set(range(max(1, len(stages)))) - {stage for stage, *_ in found}
    if missing:
        raise ModelError(
            f"{names[min(missing)]} has no output that could be logits",
            got="; ".join(f"{name}: {_describe(infos.get(name))}" for name in graph.outputs),
            expected="an output of shape (batch, classes) with floating-point values",
        )
    mixing = next((output for *_, output in found if infos[output].mixes), None)
    if mixing is not None:
        raise ModelError(
            f"the model's answer for a sample ({mixing}) depends on the other samples of its batch",
            expected="an answer that depends on the sample alone",
            remedy="export the model in inference mode (eval), with the batch as axis 0 throughout",
        )
    classes = found[-1][2]
    exits: list[OwnExit] = []
    for stage, name in enumerate(names):
        outputs = [output for at, _, number, output in found if at == stage and number == classes]
        if not outputs:
            raise ModelError(
                "the models of the cascade do not have the same classes",
                got=f"{name} with {[number for at, _, number, _ in found if at == stage]}",
                expected=f"{classes} classes, as in {names[-1]}",
            )
        titles = [*outputs[:-1], name if len(names) > 1 else outputs[-1]]  # a whole model goes by its own name
        exits += [OwnExit(t, logits_before_softmax(graph, o), stage) for t, o in zip(titles, outputs, strict=True)]
    return tuple(exits), classes


def choose_cuts(
    graph: Graph,
    infos: Mapping[str, TensorInfo],
    macs: Sequence[int],
    stages: Sequence[int],
    wanted: str,
    *,
    most: int = MAX_CANDIDATES,
    check: Callable[[Cut], None] | None = None,
) -> tuple[Cut, ...]:
    """The cuts that get a head: `wanted` is "auto", a number, or tensor names separated by commas.

    For "auto" these are candidates, at most `most` with even shares of the cost; measuring decides later.

    Args:
        graph: The graph.
        infos: What `probe` measured.
        macs: What `count_macs` counted.
        stages: For a cascade of models, the nodes of each as a bit mask.
        wanted: See above.
        most: See above.
        check: Raises a UsageError for a place whose tensor the head cannot read; such places are left out, and
            refused where they are named.

    Raises:
        UsageError, ModelError: See `edgeexit_exporters.cuts`; or no head can read any place.
    """
    if wanted != "auto" and not wanted.isdigit():
        names = [name.strip() for name in wanted.split(",") if name.strip()]
        if not names:
            raise UsageError("--exits names no exit", got=repr(wanted), expected="auto, a number, or tensor names")
        cuts = [cut_after(graph, infos, macs, name, stages) for name in dict.fromkeys(names)]
        unfit = next((cut for cut in cuts if not is_feature(infos[cut.after])), None)
        if unfit is not None:
            raise UsageError(
                f"no head can read {unfit.after}",
                got=_describe(infos[unfit.after]),
                expected="a floating-point tensor with the batch as axis 0",
            )
        if check is not None:
            for cut in cuts:
                check(cut)
        return tuple(sorted(cuts, key=lambda cut: cut.macs_before))
    if wanted == "0":
        return ()
    total = sum(macs)
    everywhere = enumerate_cuts(graph, infos, macs, stages)
    found = candidates(graph, infos, macs, _readable(everywhere, infos, check), stages)
    if wanted.isdigit():
        return tuple(evenly_spread(found, int(wanted), total))
    if len(found) > most:
        found = evenly_spread(found, most, total)
    return tuple(found)


def _readable(
    cuts: Sequence[Cut], infos: Mapping[str, TensorInfo], check: Callable[[Cut], None] | None
) -> Sequence[Cut]:
    """The cuts without those after features that `check` refuses.

    Raises:
        UsageError: It refuses all of them: the error of the last.
    """
    if check is None:
        return cuts
    rest, some, refusal = [], False, None
    for cut in cuts:
        if is_feature(infos[cut.after]):
            try:
                check(cut)
            except UsageError as error:
                refusal = error
                continue
            some = True
        rest.append(cut)
    if refusal is not None and not some:
        raise refusal
    return rest


def place(graph: Graph, infos: Mapping[str, TensorInfo], cut: Cut) -> TensorPlace:
    """How a head reads the tensor after which the graph is cut."""
    info = infos[cut.after]
    users = [graph.nodes[i].op_type for i in bits(graph.consumers.get(cut.after, 0))]
    maker = graph.nodes[graph.producer[cut.after]]
    around = {*users, maker.op_type}
    for name in maker.input:
        if name in graph.producer:
            around.add(graph.nodes[graph.producer[name]].op_type)
    mask = None
    if len(info.shape) == 2:
        tokens = info.shape[0]
        mask = next((n for n in graph.inputs if "mask" in n.lower() and infos[n].shape == (tokens,)), None)
    return TensorPlace(cut.after, info, f"exit.{cut.after}.", bool(around & _MAP_OPERATORS), mask)


def _describe(info: TensorInfo | None) -> str:
    if info is None:
        return "unknown"
    axes = ", ".join("batch" if a.per_sample else str(a.fixed) for a in info.axes)
    return f"{info.dtype} ({axes})"
