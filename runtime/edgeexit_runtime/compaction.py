"""Compaction: after an exit only the samples that stay are carried on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgeexit.policies import State
from edgeexit_runtime.backends.base import Backend, Handle

__all__ = ["Survivors", "compact", "split"]


class Survivors(NamedTuple):
    """What is carried on to the next segment; axis 0 of everything is the same samples."""

    tensors: list[Handle]
    state: State
    rows: NDArray[np.intp]  # (m,) the samples' rows in the batch that was given


def split(leave: NDArray[np.bool_]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The positions of those who leave and of those who stay, both increasing."""
    return leave.nonzero()[0], (~leave).nonzero()[0]


def compact(
    backend: Backend, tensors: Sequence[Handle], state: State, rows: NDArray[np.intp] | None, stay: NDArray[np.intp]
) -> Survivors:
    """Keep the rows `stay`, (m,) increasing, of every tensor still needed and of the policy's state.

    `rows` says which sample of the batch each row is; None stands for 0, 1, 2, …
    """
    return Survivors(
        tensors=[backend.take(tensor, stay) for tensor in tensors],
        state=tuple(array[stay] for array in state),
        rows=stay if rows is None else rows[stay],
    )
