"""Groups: samples that stand in front of the same segment, with what the policy remembers of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import State
from edgeexit_runtime.backends.base import Backend, Handle

__all__ = ["Group", "join", "keep"]


@dataclass(frozen=True, slots=True)
class Group:
    """Samples in front of a segment; axis 0 of everything is the same samples.

    Attributes:
        tensors: The boundary tensors, in the order of the wiring.
        state: What the policy remembers of earlier exits.
        size: How many samples, n.
    """

    tensors: tuple[Handle, ...]
    state: State
    size: int


def keep(backend: Backend, group: Group, rows: NDArray[np.intp]) -> Group:
    """The samples at `rows`, (m,) strictly increasing positions, m ≥ 1."""
    if len(rows) == group.size:
        return group
    tensors = tuple(backend.take(tensor, rows) for tensor in group.tensors)
    return Group(tensors, tuple(array[rows] for array in group.state), len(rows))


def join(backend: Backend, groups: Sequence[Group]) -> Group:
    """The samples of several groups in front of the same segment, one after another."""
    if len(groups) == 1:
        return groups[0]
    tensors = tuple(backend.concat(parts) for parts in zip(*(g.tensors for g in groups), strict=True))
    state = tuple(np.concatenate(parts) for parts in zip(*(g.state for g in groups), strict=True))
    return Group(tensors, state, sum(g.size for g in groups))
