"""Adam, the optimiser (Kingma and Ba 2015, algorithm 1), on one flat array of parameters."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["Adam"]

_FIRST, _SECOND, _SMALL = 0.9, 0.999, 1e-8


class Adam:
    """Running moments of the gradient, and the steps that follow from them.

    Args:
        size: How many parameters there are.
        rate: The learning rate.
    """

    def __init__(self, size: int, rate: float) -> None:
        self.rate = rate
        self._mean = np.zeros(size)
        self._square = np.zeros(size)
        self._steps = 0

    def step(self, parameters: NDArray[np.float64], gradient: NDArray[np.float64]) -> None:
        """Move the parameters, shape (size,), in place, against a gradient of the same shape."""
        self._steps += 1
        self._mean += (1 - _FIRST) * (gradient - self._mean)
        self._square += (1 - _SECOND) * (gradient**2 - self._square)
        mean = self._mean / (1 - _FIRST**self._steps)
        square = self._square / (1 - _SECOND**self._steps)
        parameters -= self.rate * mean / (np.sqrt(square) + _SMALL)
