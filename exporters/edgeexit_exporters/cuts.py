"""Where a graph can be cut: after which tensor, what then is alive, what was spent before.

The position *after tensor t* is reached when t and all that it needs have been computed. That
definition depends on the graph alone, not on the order in which a file happens to list its nodes,
and it finds every place where a single tensor crosses.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from edgeexit.errors import ModelError, UsageError
from edgeexit_exporters.graph import Graph, bits
from edgeexit_exporters.probe import TensorInfo

__all__ = ["Cut", "candidates", "cut_after", "enumerate_cuts", "evenly_spread"]

_MAX_TENSORS = 16
_SPACING = 0.05
_FEATURE_RANKS = range(2, 6)


@dataclass(frozen=True)
class Cut:
    """A position in the graph.

    Attributes:
        after: The tensor that was computed last.
        done: The nodes that have run, one bit a node.
        live: The activations that cross, inputs of the graph included.
        size_bytes: Bytes of one sample of them.
        macs_before: MACs of one sample spent so far.
        obstacle: Why samples cannot be separated here; None where they can.
    """

    after: str
    done: int
    live: tuple[str, ...]
    size_bytes: int
    macs_before: int
    obstacle: str | None


def enumerate_cuts(
    graph: Graph, infos: Mapping[str, TensorInfo], macs: Sequence[int], stages: Sequence[int] = ()
) -> list[Cut]:
    """The position after every activation, in topological order, illegal ones included.

    Args:
        graph: The graph.
        infos: What `probe` measured.
        macs: What `count_macs` counted.
        stages: For a cascade of models, the nodes of each model as a bit mask: a position inside a
            later model comes after all of the earlier ones.
    """
    finals = set(graph.outputs)
    cuts = []
    for name in graph.activations:
        if name in finals:
            continue
        cuts.append(_cut(graph, infos, macs, name, _after(graph, name, stages)))
    return cuts


def cut_after(
    graph: Graph, infos: Mapping[str, TensorInfo], macs: Sequence[int], name: str, stages: Sequence[int] = ()
) -> Cut:
    """The position after the tensor called `name`.

    Raises:
        UsageError: No activation has that name, or samples cannot be separated there.
    """
    places = [tensor for tensor in graph.activations if tensor not in graph.outputs]
    if name not in places:
        near = [tensor for tensor in places if name in tensor][:5]
        raise UsageError(
            "no tensor of the model has the name given for an exit",
            got=name,
            expected=("for example " + ", ".join(near)) if near else "the name of an activation in the ONNX graph",
            remedy="edgeexit export SOURCE --list-cuts",
        )
    cut = _cut(graph, infos, macs, name, _after(graph, name, stages))
    if cut.obstacle is not None:
        raise UsageError(f"the model cannot be cut after {name}", got=cut.obstacle, remedy="choose another place")
    return cut


def candidates(
    graph: Graph, infos: Mapping[str, TensorInfo], macs: Sequence[int], cuts: Sequence[Cut], stages: Sequence[int] = ()
) -> list[Cut]:
    """The positions that are worth an exit, one for each amount of work done, cheapest first.

    Among positions with the same MACs before them the one with the fewest tensors, then the fewest
    bytes, then the latest is taken. Positions where more tensors cross are taken only where the
    nearest one with fewer is more than a twentieth of the whole model's MACs away. In a cascade of
    models, the work between two models is none: there a model's own exit stands.

    Raises:
        ModelError: There is no legal cut; the message says why.
    """
    total = sum(macs)
    starts = {sum(macs[i] for nodes in stages[:stage] for i in bits(nodes)) for stage in range(len(stages) + 1)}
    inside = [cut for cut in cuts if 0 < cut.macs_before < total and cut.macs_before not in starts]
    legal = [
        cut for cut in inside if cut.obstacle is None and len(cut.live) <= _MAX_TENSORS and is_feature(infos[cut.after])
    ]
    if not legal:
        raise _no_cut(total, inside)
    position = {name: i for i, name in enumerate(graph.activations)}
    best: list[Cut] = []
    for most in sorted({len(cut.live) for cut in legal}):
        of_size = sorted((cut for cut in legal if len(cut.live) == most), key=lambda cut: cut.macs_before)
        groups = groupby(of_size, key=lambda cut: cut.macs_before)
        found = [min(group, key=lambda cut: (cut.size_bytes, -position[cut.after])) for _, group in groups]
        best += [
            cut for cut in found if all(abs(cut.macs_before - other.macs_before) > _SPACING * total for other in best)
        ]
    return sorted(best, key=lambda cut: cut.macs_before)


def is_feature(info: TensorInfo) -> bool:
    """Whether an exit head can read this tensor."""
    return info.batched and len(info.axes) in _FEATURE_RANKS and info.continuous


def evenly_spread(cuts: Sequence[Cut], number: int, total: int) -> list[Cut]:
    """`number` cuts whose MACs come closest to even shares of the whole.

    Raises:
        UsageError: There are fewer positions than asked for.
    """
    if number > len(cuts):
        raise UsageError(
            "the model has fewer places for exits than asked for",
            got=f"--exits {number}",
            expected=f"at most {len(cuts)}",
        )
    chosen: list[Cut] = []
    rest = list(cuts)
    for i in range(number):
        share = (i + 1) * total / (number + 1)
        usable = rest[: len(rest) - (number - i - 1)]
        at = min(range(len(usable)), key=lambda j: abs(usable[j].macs_before - share))
        chosen.append(usable[at])
        rest = rest[at + 1 :]
    return chosen


def _after(graph: Graph, name: str, stages: Sequence[int]) -> int:
    done = graph.needs([name])
    for stage, nodes in enumerate(stages):
        if nodes >> graph.producer[name] & 1:
            return done | sum(stages[:stage])
    return done


def _cut(graph: Graph, infos: Mapping[str, TensorInfo], macs: Sequence[int], name: str, done: int) -> Cut:
    live = graph.live(done)
    stuck = [tensor for tensor in live if not infos[tensor].batched]
    obstacle = None
    if stuck:
        axes = ", ".join(
            f"{a.per_sample}·batch+{a.fixed}" if a.per_sample else str(a.fixed) for a in infos[stuck[0]].axes
        )
        obstacle = f"axis 0 of {stuck[0]} is not the batch: ({axes})"
    return Cut(
        after=name,
        done=done,
        live=tuple(live),
        size_bytes=sum(infos[tensor].size_bytes for tensor in live),
        macs_before=sum(macs[i] for i in bits(done)),
        obstacle=obstacle,
    )


def _no_cut(total: int, inside: Sequence[Cut]) -> ModelError:
    if total == 0:
        reason = "the model does no multiply-accumulate that could be saved"
    elif not inside:
        reason = "all of the model's work is done in one step, so nothing is saved by stopping before or after it"
    else:
        obstacles = [cut.obstacle for cut in inside if cut.obstacle]
        reason = obstacles[0] if obstacles else f"more than {_MAX_TENSORS} tensors cross at every position"
    return ModelError(
        "the model has no place where it can be cut",
        got=reason,
        expected="a position between its layers where every live tensor has the batch as axis 0",
        remedy="export the model batch-first, or give several models to make a cascade of models",
    )
