"""Where a threshold can lie: between different scores of one exit, so that rounding changes nobody's exit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["allowed_cuts", "cut"]


def allowed_cuts(descending: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which numbers of samples a threshold can let leave, (n + 1,) for n scores in falling order.

    0 and n always are; between equal scores no threshold falls.
    """
    ends = np.ones(1, dtype=bool)
    return np.concatenate([ends, descending[:-1] != descending[1:], ends[: len(descending)]])


def cut(descending: NDArray[np.float32], position: int) -> float:
    """The threshold that lets the first `position` of n scores in falling order leave.

    Halfway between the last that leaves and the first that stays; infinity if nobody leaves, the
    lowest score if everybody does.
    """
    if position == 0:
        return float("inf")
    last_in = descending[position - 1]
    if position == len(descending):
        return float(last_in)
    middle = np.float32((float(last_in) + float(descending[position])) / 2)
    return float(middle if middle > descending[position] else last_in)
