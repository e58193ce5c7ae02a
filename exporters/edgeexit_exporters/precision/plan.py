"""Which precision each node gets: one for the whole model, or one for each segment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from edgeexit.errors import UsageError
from edgeexit_exporters.analysis import Analysis
from edgeexit_exporters.cuts import Cut

__all__ = ["PRECISIONS", "Precision", "node_precisions", "parse_precision", "segment_nodes"]

Precision = Literal["fp32", "fp16", "int8"]

PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def parse_precision(text: str) -> tuple[Precision, ...]:
    """One precision for the whole model, or one for each segment, separated by commas.

    Raises:
        UsageError: Something else was given.
    """
    names = [part.strip() for part in text.split(",")]
    known: dict[str, Precision] = {name: name for name in PRECISIONS}
    if not all(name in known for name in names):
        raise UsageError(
            "no such precision",
            got=text,
            expected="fp32, fp16 or int8, or one of them for each segment, such as fp32,int8,int8",
        )
    return tuple(known[name] for name in names)


def segment_nodes(analysis: Analysis, cuts: Sequence[Cut]) -> list[int]:
    """The nodes of each segment, one bit a node, when the graph is cut after `cuts` and at its own exits."""
    own = [exit_.done(analysis.graph, analysis.stages) for exit_ in analysis.own]
    places = [(analysis.spent(cut.done), 0, cut.done) for cut in cuts]
    places += [(analysis.spent(done), 1, done) for done in own]
    before, parts = 0, []
    for _, _, done in sorted(places, key=lambda place: place[:2]):
        parts.append(done & ~before)
        before |= done
    return parts


def node_precisions(analysis: Analysis, cuts: Sequence[Cut], wanted: Sequence[Precision]) -> list[Precision]:
    """The precision of each node, in the graph's order.

    Args:
        analysis: The model in float32.
        cuts: Where it will be cut; used only if `wanted` has several entries.
        wanted: One precision, or one for each segment.

    Raises:
        UsageError: There are more segments than precisions, or fewer.
    """
    if len(wanted) == 1:
        return [wanted[0]] * len(analysis.graph.nodes)
    parts = segment_nodes(analysis, cuts)
    if len(parts) != len(wanted):
        raise UsageError(
            "--precision does not have one entry for each segment",
            got=f"{len(wanted)} entries for {len(parts)} segments",
            expected=f"one entry, or {len(parts)}: exits and the whole model end a segment each",
        )
    found: list[Precision] = ["fp32"] * len(analysis.graph.nodes)
    for part, precision in zip(parts, wanted, strict=True):
        for i in range(len(found)):
            if part >> i & 1:
                found[i] = precision
    return found
