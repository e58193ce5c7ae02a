"""Leave when the nearest class mean is clearly the nearest (E2CM).

E2CM takes any layer's output x. Here the layer is the exit's logits, so that it works on every cascade
and on cached logits. Logits mean the same after a constant is added to all of a sample's, so each
sample's are taken less their mean over the classes. Per exit and class c, with μ_c the mean over the
samples of that class (eq. 2) and m_c the mean distance from it over *all* calibration samples:

    d_c = ‖x − μ_c‖₂ (eq. 3),   d_c / m_c (eq. 4),   p = softmax(−d_c / (m_c · T)) (eq. 5)

- Eq. 4 averages over the samples at hand; at run time that would be the batch, and at batch 1 every
  distance would be 1. The m_c are fitted once and stored.
- Normalised distances are all near 1, and their plain softmax near 1 / C. A temperature T is fitted per
  exit (the paper has none), so that thresholds in [0, 1] do something.
- The last layer is the network's output in the paper too: the last exit answers as the model does.
- The means are fitted on the samples that thresholds are fitted on as well. Each mean takes part in its own
  samples' distances, which looks better than it is where a class has few samples.

On exits whose heads are class means of *features* the logits are minus normalised distances already:
there, maximum probability is E2CM on the features.

Stored are C × C floats for each exit but the last: 40 kB for 100 classes, 4 MB for 1,000.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from edgeexit.calibration import fit_temperature
from edgeexit.errors import BundleError
from edgeexit.policies.base import PLAIN, Setting, State
from edgeexit.policies.scored import TEMPERATURES, Opinion, Scored, fit_temperatures, load_temperatures
from edgeexit.policies.stored import finite_tensor, positive_tensor

__all__ = ["ClassMeans", "NearestMeans", "WithClassMeans", "normalised_distances"]

MEANS = "policy.class_means"
DISTANCES = "policy.mean_distances"
DISTANCE_TEMPERATURES = "policy.distance_temperatures"

WithT = TypeVar("WithT", bound="WithClassMeans")

_MAX_ROWS = 20_000
_BLOCK_VALUES = 1 << 22


@dataclass(frozen=True, eq=False)
class NearestMeans:
    """The class means of every exit but the last.

    Args:
        means: (E−1, C, C), μ of each exit and class.
        distances: (E−1, C), the mean distance m > 0 of all samples from each; 0 marks a class that had
            no sample: it has no mean, and probability 0.
        temperatures: E−1 positive values of T.
    """

    means: NDArray[np.float32]
    distances: NDArray[np.float32]
    temperatures: tuple[float, ...]

    def opinion(self, exit_index: int, logits: NDArray[np.float32]) -> Opinion:
        """The nearest class's probability, which is the score too, and its label; logits (n, C)."""
        normalised = normalised_distances(logits, self.means[exit_index], self.distances[exit_index])
        nearest = normalised.min(axis=1, keepdims=True)
        scaled = ((nearest - normalised) / self.temperatures[exit_index]).astype(np.float32)
        probability = 1 / np.exp(scaled).sum(axis=1)
        return Opinion(probability, probability, scaled.argmax(axis=1))

    def check_classes(self, classes: int) -> None:
        """Raise if the means are those of another number of classes.

        Raises:
            BundleError: They are.
        """
        if len(self.means) and self.means.shape[1] != classes:
            raise BundleError(
                f"exits.safetensors: {MEANS} is for another number of classes",
                got=self.means.shape[1],
                expected=classes,
            )

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """Means, distances and temperatures; nothing where there is only one exit."""
        if not len(self.means):
            return {}
        temperatures = np.asarray(self.temperatures, dtype=np.float32)
        return {MEANS: self.means, DISTANCES: self.distances, DISTANCE_TEMPERATURES: temperatures}

    @classmethod
    def fit(cls, logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64]) -> NearestMeans:
        """Fit on cached logits, E arrays of shape (n, C) of which the last is not used, with labels (n,)."""
        classes = logits[0].shape[1]
        means = np.zeros((len(logits) - 1, classes, classes), dtype=np.float32)
        distances = np.zeros((len(logits) - 1, classes), dtype=np.float32)
        temperatures = []
        for k, values in enumerate(logits[:-1]):
            means[k], distances[k], temperature = _fit_exit(values, labels)
            temperatures.append(temperature)
        return cls(means, distances, tuple(temperatures))

    @classmethod
    def load(cls, exits: int, tensors: Mapping[str, NDArray[np.float32]]) -> NearestMeans:
        """Rebuild from a bundle's tensors for a cascade of `exits` exits.

        Raises:
            BundleError: A tensor is missing, of another shape, or holds an unusable value.
        """
        if exits == 1:
            return cls(np.zeros((0, 0, 0), dtype=np.float32), np.zeros((0, 0), dtype=np.float32), ())
        found = tensors.get(MEANS)
        classes = found.shape[-1] if found is not None and found.ndim else 0
        means = finite_tensor(tensors, MEANS, (exits - 1, classes, classes))
        distances = positive_tensor(tensors, DISTANCES, (exits - 1, classes), allow_zero=True)
        if not distances.any(axis=1).all():
            raise BundleError(
                f"exits.safetensors: {DISTANCES} holds an unusable value",
                got="zeros only at an exit",
                expected="a class with samples at each exit",
            )
        return cls(means, distances, load_temperatures(tensors, DISTANCE_TEMPERATURES, exits - 1))


@dataclass(frozen=True, eq=False)
class WithClassMeans(Scored):
    """A policy that looks at class means.

    Args:
        temperatures: One positive value per exit, those of the logits.
        thresholds: One value per exit, in probability; infinity where nobody leaves.
        nearest: The class means of every exit but the last.
    """

    nearest: NearestMeans

    def start(self, samples: int, classes: int) -> State:
        """No state."""
        self.nearest.check_classes(classes)
        return ()

    def tensors(self) -> Mapping[str, NDArray[np.float32]]:
        """The temperatures, shape (exits,), and what `NearestMeans` stores."""
        return {**super().tensors(), **self.nearest.tensors()}

    @classmethod
    def fit(
        cls: type[WithT], logits: Sequence[NDArray[np.float32]], labels: NDArray[np.int64], setting: Setting = PLAIN
    ) -> WithT:
        """Fit on cached logits, E arrays of shape (n, C), with labels (n,); nobody leaves yet."""
        nobody = (float("inf"),) * len(logits)
        return cls(fit_temperatures(logits, labels), nobody, NearestMeans.fit(logits, labels))

    @classmethod
    def load(cls: type[WithT], thresholds: Sequence[float], tensors: Mapping[str, NDArray[np.float32]]) -> WithT:
        """Rebuild the policy from a bundle's tensors.

        Raises:
            BundleError: A tensor is missing, of another shape, or holds an unusable value.
        """
        exits = len(thresholds)
        temperatures = load_temperatures(tensors, TEMPERATURES, exits)
        return cls(temperatures, tuple(thresholds), NearestMeans.load(exits, tensors))


@dataclass(frozen=True, eq=False)
class ClassMeans(WithClassMeans):
    """score = the probability of the nearest class mean (eq. 6); the answer is its class (eq. 7).

    The last exit answers with its logits' own label and largest probability.
    """

    name: ClassVar[str] = "class-means"
    criterion: ClassVar[str] = "class-means probability"

    def opinion(self, exit_index: int, logits: NDArray[np.float32], state: State) -> tuple[Opinion, State]:
        """See `Scored.opinion`."""
        if not self.is_last(exit_index):
            return self.nearest.opinion(exit_index, logits), state
        probability = self.confidence(exit_index, logits)
        return Opinion(probability, probability, logits.argmax(axis=1)), state


def normalised_distances(
    logits: NDArray[np.float32], means: NDArray[np.float32], distances: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Eq. 4: distances of logits (n, C) from means (C, C), over mean distances (C,).

    Returns:
        (n, C); infinity for classes whose mean distance is 0.
    """
    seen = distances > 0
    found = _distances(_centred(logits), means)
    found /= np.where(seen, distances.astype(np.float64), 1.0)
    found[:, ~seen] = np.inf
    return found


def _centred(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.mean(axis=1, keepdims=True)
    return values


def _distances(values: NDArray[np.float64], means: NDArray[np.float32]) -> NDArray[np.float64]:
    # In float64 what rounding makes of the order of a matrix product is lost again in float32.
    wide = means.astype(np.float64)
    squared = values @ (-2.0 * wide.T)
    squared += (values**2).sum(axis=1, keepdims=True)
    squared += (wide**2).sum(axis=1)
    return np.asarray(np.sqrt(np.maximum(squared, 0.0, out=squared), out=squared))


def _fit_exit(
    logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    from edgeexit.statistics import ClassSums

    n, classes = logits.shape
    sums = ClassSums(classes, classes)
    for rows in _blocks(n, classes):
        sums.add(_centred(logits[rows]).astype(np.float32), labels[rows])
    seen = sums.counts > 0
    means = sums.means().astype(np.float32)
    total = np.zeros(classes)
    for rows in _blocks(n, classes):
        total += _distances(_centred(logits[rows]), means).sum(axis=0)
    # Where all samples are the same, every distance is 0 and may be over anything.
    distances = np.where(seen, np.where(total > 0, total / n, 1.0), 0.0).astype(np.float32)
    some = slice(None, None, max(1, n // _MAX_ROWS))
    towards = -normalised_distances(logits[some], means, distances)[:, seen].astype(np.float32)
    number = np.cumsum(seen) - 1
    temperature = fit_temperature(towards, number[labels[some]])
    return means, distances, float(np.float32(temperature))


def _blocks(rows: int, columns: int) -> Iterator[slice]:
    size = max(1, _BLOCK_VALUES // columns)
    return (slice(start, start + size) for start in range(0, rows, size))
