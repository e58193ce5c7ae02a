"""A passage: samples go through all segments of a tail, and leave it answered or in front of the next tier."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit_runtime.answers import Resolved
from edgeexit_runtime.groups import Group
from edgeexit_runtime.tail import Tail

__all__ = ["Unresolved", "passage"]


class Unresolved(NamedTuple):
    """Samples that no exit of a tail was sure of.

    Attributes:
        rows: (m,) where they are, strictly increasing.
        best: What the tail's last exit says of them all the same.
        group: They, in front of the segment behind it.
    """

    rows: NDArray[np.intp]
    best: Resolved
    group: Group


def passage(tail: Tail, group: Group) -> Iterator[Resolved | Unresolved]:
    """Run a tail's segments on samples that stand in front of its first.

    Yields:
        The samples that leave, one exit after another, and at the end those that stay, if any. `rows` are
        positions in `group`.

    Raises:
        BackendError: The device failed.
    """
    rows: NDArray[np.intp] = np.arange(group.size)
    for k in range(tail.first, tail.last + 1):
        decision, group = tail.step(k, group)
        leaving, staying = decision.leave.nonzero()[0], (~decision.leave).nonzero()[0]
        if len(leaving):
            yield Resolved.some(k, rows, decision, leaving)
        if not len(staying):
            return
        if k == tail.last:
            yield Unresolved(rows[staying], Resolved.some(k, rows, decision, staying), tail.keep(group, staying))
            return
        group, rows = tail.keep(group, staying), rows[staying]
