"""EENet's scheduler as a policy: leave where the learned utility is high enough (eq. 2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.errors import BundleError
from edgeexit.policies.base import PLAIN, Setting, State
from edgeexit.policies.eenet.forward import agreement, own_inputs, utility
from edgeexit.policies.scored import TEMPERATURES, Opinion, Scored, load_temperatures
from edgeexit.policies.stored import finite_tensor, positive_tensor

__all__ = ["LearnedScheduler"]

SHARED, UTILITY, SHARES, RANKED = "policy.shared", "policy.utility", "policy.shares", "policy.ranked"


@dataclass(frozen=True, eq=False)
class LearnedScheduler(Scored):
    """score = q̂_k of the package, in [0, 1]; the label and its calibrated probability are the exit's own.

    The state is the utilities and the labels of the exits passed so far, (n, k) each.

    Args:
        temperatures: One positive value per exit; logits are divided by it.
        thresholds: One value per exit, in utility; infinity where nobody leaves.
        ranked: Whether ŷ is sorted, the largest first, or in the order of the classes.
        shared: W^sh of all exits, (E, H, D) float32. Each exit has as many columns as it has inputs,
            one more than the exit before; what is beyond is not used.
        utility: W^g of all exits, (E, H) float32.
        shares: The part of the samples that each exit was assigned, p of algorithm 1, summing to 1.
    """

    ranked: bool
    shared: NDArray[np.float32]
    utility: NDArray[np.float32]
    shares: tuple[float, ...]

    name: ClassVar[str] = "eenet"
    criterion: ClassVar[str] = "utility"

    def start(self, samples: int, classes: int) -> State:
        """Nothing passed yet."""
        return np.empty((samples, 0), dtype=np.float32), np.empty((samples, 0), dtype=np.float32)

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        earlier, labels = state
        own, probability = own_inputs(logits, self.temperatures[exit_index], self.ranked)
        label = logits.argmax(axis=1)
        labels = np.concatenate([labels, label[:, None].astype(np.float32)], axis=1)
        inputs = np.concatenate([own, agreement(labels)[:, None], earlier], axis=1)
        shared, head = self._weights
        score = utility(inputs, shared[exit_index, :, : inputs.shape[1]], head[exit_index]).astype(np.float32)
        return Opinion(score, probability, label), (np.concatenate([earlier, score[:, None]], axis=1), labels)

    @cached_property
    def _weights(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        return self.shared.astype(np.float64), self.utility.astype(np.float64)

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Temperatures (E,), weights (E, H, D) and (E, H), shares (E,), and whether ŷ is ranked, (1,)."""
        return {
            **super().tensors(),
            SHARED: self.shared,
            UTILITY: self.utility,
            SHARES: np.asarray(self.shares, dtype=np.float32),
            RANKED: np.asarray([self.ranked], dtype=np.float32),
        }

    @classmethod
    def fit(
        cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> LearnedScheduler:
        """Fit on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet.

        The setting's costs and budget guide the assignment to exits, if both are given.
        """
        from edgeexit.policies.eenet.fitting import fit_scheduler  # a device has it fitted

        found = fit_scheduler(logits, labels, setting)
        nobody = (float("inf"),) * len(logits)
        return cls(found.temperatures, nobody, found.ranked, found.shared, found.utility, found.shares)

    @classmethod
    def load(cls, thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> LearnedScheduler:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: One is missing, not finite, out of range, or of another shape than the others ask for.
        """
        exits = len(thresholds)
        temperatures = load_temperatures(tensors, TEMPERATURES, exits)
        shares = positive_tensor(tensors, SHARES, (exits,), allow_zero=True)
        (ranked,) = positive_tensor(tensors, RANKED, (1,), allow_zero=True)
        found = tensors.get(SHARED)
        shape = () if found is None else found.shape
        if len(shape) != 3 or shape[2] <= exits + 2:
            raise BundleError(
                f"exits.safetensors has no usable tensor {SHARED}",
                got=None if found is None else f"shape {shape}",
                expected=f"three axes: {exits}, hidden units, and at least {exits + 3} inputs",
            )
        shared = finite_tensor(tensors, SHARED, (exits, *shape[1:]))
        head = finite_tensor(tensors, UTILITY, shape[:2])
        return cls(temperatures, tuple(thresholds), ranked > 0, shared, head, tuple(map(float, shares)))
