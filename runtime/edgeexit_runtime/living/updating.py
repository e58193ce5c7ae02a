"""Updating: heads continued with new samples, in closed form, on the device.

cascade = Cascade.open(bundle, tapped=True)
updater = Updater(bundle)
updater.add(cascade.insight(batch).features, labels)      # as often as samples come
cascade = cascade.with_tensors(updater.tensors())         # nothing is opened again
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import STATISTICS_FILE, Bundle, file_entry
from edgeexit.bundle.rewrite import rewrite
from edgeexit.console import Advance
from edgeexit.errors import DataError, UsageError
from edgeexit.heads.stored import CLOSED_FORMS, continued_exits, head_names, load_statistics, stored_statistics
from edgeexit.manifest import Manifest
from edgeexit.tensors import save_tensors
from edgeexit_runtime.cascade import Cascade

if TYPE_CHECKING:  # reading data takes Pillow, which a program with samples of its own need not load
    from edgeexit.data import Dataset
    from edgeexit_runtime.gathering import Labels

__all__ = ["Update", "Updater", "update", "updated_bundle"]

Tensors = dict[str, NDArray[Any]]


class Updater:
    """Continues the statistics of a bundle's heads with new samples.

    A head updated with samples B after it was fitted on samples A is the head fitted on A and B
    together: a Gaussian head within the rounding of single precision, class means too, and their norms
    within about a percent.

    Args:
        bundle: One with statistics.
        forget: How much of the old samples' weight is taken away, 0 to 1. Updated again and again
            with the same value, a bundle forgets exponentially.

    Attributes:
        samples: How many were added.
        exits: The indices of the exits whose heads are updated.

    Raises:
        UsageError: The bundle has no statistics, or `forget` is out of range.
        BundleError: The statistics are malformed.
    """

    def __init__(self, bundle: Bundle, *, forget: float = 0.0) -> None:
        if not 0 <= forget < 1:
            raise UsageError("the weight to take away is not a share", got=forget, expected="0 ≤ F < 1")
        stored = bundle.statistics()
        if stored is None:
            raise _nothing_to_update(bundle)
        self.samples = 0
        self._manifest = bundle.manifest
        self._lengths = continued_exits(bundle.manifest)
        self.exits = tuple(self._lengths)
        classes = len(bundle.manifest.labels)
        self._learners = {
            k: CLOSED_FORMS[bundle.manifest.exits[k].head].learner(
                classes, self._lengths[k], statistics.scaled(1 - forget)
            )
            for k, statistics in load_statistics(bundle.manifest, bundle.exits, stored)
        }

    def add(self, features: Sequence[NDArray[np.float32] | None], labels: NDArray[np.int64]) -> None:
        """Add samples.

        Args:
            features: What each exit's head read, (n, D) float32, as `Cascade.insight` gives them.
            labels: (n,) integers, the samples' classes.

        Raises:
            DataError: A label is out of range, or features have another shape or are not finite.
                Nothing was added then.
        """
        classes = len(self._manifest.labels)
        labels = np.asarray(labels)
        if labels.ndim != 1 or labels.dtype.kind not in "iu" or not len(labels):
            raise DataError(
                "these are no labels", got=f"{labels.dtype} {labels.shape}", expected="integers (n,), at least one"
            )
        if labels.min() < 0 or labels.max() >= classes:
            wrong = labels[(labels < 0) | (labels >= classes)][0]
            raise DataError("a label is out of range", got=int(wrong), expected=f"0 to {classes - 1}")
        for k, length in self._lengths.items():
            self._check(k, features[k] if k < len(features) else None, (len(labels), length))
        for k, learner in self._learners.items():
            learner.add(np.asarray(features[k], dtype=np.float32), labels)
        self.samples += len(labels)

    def tensors(self) -> Tensors:
        """The updated heads' tensors, by their names in `exits.safetensors`.

        Raises:
            DataError: The samples allow no head.
        """
        found: Tensors = {}
        for k, learner in self._learners.items():
            names = head_names(self._manifest, k)
            try:
                head = learner.statistics().head()
            except np.linalg.LinAlgError as error:
                raise self._no_head(k) from error
            if not all(np.isfinite(array).all() for array in head.values()):
                raise self._no_head(k)
            found |= {names[word]: array for word, array in head.items()}
        return found

    def statistics(self) -> Tensors:
        """What the updated bundle's `statistics.safetensors` holds."""
        return stored_statistics((k, learner.statistics()) for k, learner in self._learners.items())

    def _check(self, k: int, features: NDArray[np.float32] | None, shape: tuple[int, int]) -> None:
        name = self._manifest.exits[k].name
        if features is None or features.shape != shape:
            raise DataError(
                f"the features of exit {k} ({name}) have the wrong shape",
                got=None if features is None else features.shape,
                expected=shape,
            )
        good = np.isfinite(features).all(axis=1)
        if not good.all():
            raise DataError(
                f"the features of exit {k} ({name}) are not finite",
                got=f"NaN or infinity for sample {int(good.argmin())} of the batch",
                remedy="check the data",
            )

    def _no_head(self, k: int) -> DataError:
        return DataError(
            f"exit {k} ({self._manifest.exits[k].name}) cannot be updated with these samples",
            got="a head that is not finite",
            remedy="check the data, or export again",
        )


@dataclass(frozen=True)
class Update:
    """What an update saw.

    Attributes:
        samples: How many were added.
        accuracy: Per exit, how many of them it had right before the update.
    """

    samples: int
    accuracy: tuple[float, ...]


def update(
    updater: Updater, cascade: Cascade, dataset: Dataset, *, labels: Labels = "data", batch: int = 64, advance: Advance
) -> Update:
    """Run every sample through the whole cascade, and add it.

    Args:
        updater: Of the cascade's bundle.
        cascade: All segments, tapped.
        dataset: New samples.
        labels: Where the labels come from: the data, or the whole model's answers.
        batch: Samples per run; changes the speed, not the result.
        advance: Told after each batch how many samples are done.

    Raises:
        DataError: There are no samples, no labels where they are wanted, or a sample cannot be used.
        BackendError: The device failed.
    """
    if len(dataset) == 0:
        raise DataError("there are no samples to update with", expected="at least one")
    if labels == "data" and dataset.labels is None:
        raise DataError("the data have no labels", remedy="give labels, or take the whole model's: --labels model")
    right = np.zeros(cascade.exits, dtype=np.int64)
    done = 0
    for arrays in dataset.batches(batch):
        features, logits = cascade.insight(arrays)
        answers = logits.argmax(axis=2)
        given = None if labels == "model" or dataset.labels is None else dataset.labels[done : done + len(answers[0])]
        truth = answers[-1] if given is None else given
        updater.add(features, truth)
        right += (answers == truth).sum(axis=1)
        done += len(truth)
        advance(len(truth))
    return Update(done, tuple(map(float, right / done)))


def updated_bundle(bundle: Bundle, cascade: Cascade, updater: Updater) -> tuple[Manifest, dict[str, bytes]]:
    """What `write_bundle` needs for the bundle with updated heads.

    Policy and thresholds stay. The golden samples' answers are made on this device. What drift is
    measured against is left out, because it was counted with the old heads.

    Args:
        bundle: The bundle that the updater started from.
        cascade: All its segments.
        updater: With the new samples.

    Raises:
        DataError: The samples allow no head.
    """
    tensors = updater.tensors()
    golden = {spec.name: bundle.check[f"input.{spec.name}"] for spec in bundle.manifest.inputs}
    manifest, contents = rewrite(
        bundle,
        tensors=tensors,
        calibration=msgspec.structs.replace(bundle.manifest.calibration, drift=None),
        golden_logits=list(cascade.with_tensors(tensors).logits(golden)),
    )
    contents[STATISTICS_FILE] = save_tensors(updater.statistics())
    entry = file_entry(STATISTICS_FILE, contents[STATISTICS_FILE])
    return msgspec.structs.replace(manifest, statistics_file=entry), contents


def _nothing_to_update(bundle: Bundle) -> UsageError:
    manifest = bundle.manifest
    kinds = {entry.head for entry in manifest.exits}
    if not kinds & CLOSED_FORMS.keys():
        return UsageError(
            f"{bundle.path} has no exits that can be updated",
            got=f"heads: {', '.join(sorted(kinds))}",
            expected=" or ".join(CLOSED_FORMS),
        )
    return UsageError(
        f"{bundle.path} holds no statistics to continue its heads from",
        expected="a bundle exported with --updatable",
        remedy="edgeexit export … --updatable, once more on the workstation",
    )
