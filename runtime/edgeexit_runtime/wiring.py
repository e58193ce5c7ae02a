"""Which tensors go where: the boundary tensors of a chain of segments, as positions in a short list."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry, TensorSpec

__all__ = ["Step", "wire"]


class Step(NamedTuple):
    """One segment's part of the plan.

    `takes` are the positions of its inputs among the tensors known before it. `keeps` are the
    positions, among those tensors followed by its own outputs, of what later segments need.
    """

    takes: tuple[int, ...]
    keeps: tuple[int, ...]

    def inputs(self, tensors: Sequence[Any]) -> list[Any]:
        """The segment's inputs, out of the tensors known before it."""
        return [tensors[i] for i in self.takes]

    def carry(self, tensors: Sequence[Any], outputs: Sequence[Any]) -> list[Any]:
        """What is still needed after it.

        A caller lets go of all else before the next segment runs: its outputs then find room in memory
        that is still in the cache.
        """
        known = [*tensors, *outputs]
        return [known[i] for i in self.keeps]


def wire(inputs: Sequence[TensorSpec], segments: Sequence[SegmentEntry]) -> tuple[Step, ...]:
    """Plan a chain, so that nothing is looked up by name while it runs.

    Args:
        inputs: The tensors known before the first segment, in the order in which they are given.
        segments: The segments in order.

    Raises:
        BundleError: A segment takes a tensor that nothing before it makes.
    """
    known = [spec.name for spec in inputs]
    steps = []
    for k, segment in enumerate(segments):
        takes = tuple(_position(known, spec.name, segment) for spec in segment.inputs)
        made = known + [spec.name for spec in segment.outputs]
        needed = {spec.name for later in segments[k + 1 :] for spec in later.inputs}
        keeps = tuple(i for i, name in enumerate(made) if name in needed)
        known = [made[i] for i in keeps]
        steps.append(Step(takes, keeps))
    return tuple(steps)


def _position(known: Sequence[str], name: str, segment: SegmentEntry) -> int:
    if name not in known:
        raise BundleError(
            f"{segment.file.path} takes a tensor that nothing before it makes",
            got=name,
            expected="one of " + ", ".join(known),
        )
    return known.index(name)
