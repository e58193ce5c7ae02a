"""Collecting what a report shows: logits, a comparison of policies, and pictures."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.cached import CachedLogits
from edgeexit.comparison import compare, cross_fit, steps
from edgeexit.console import human_count, progress
from edgeexit.contenders import Contender
from edgeexit.data import Dataset
from edgeexit.manifest import CalibrationSummary, Manifest
from edgeexit.reports.content import Comparison, Report, compose
from edgeexit.reports.evidence import Evidence, examine
from edgeexit.reports.gallery import Gallery, choose_pictures
from edgeexit.reports.thumbnails import data_address
from edgeexit.reports.words import count, decimals, percent
from edgeexit_runtime.cascade import Cascade
from edgeexit_runtime.gathering import Labels, gather, open_for, within_memory

__all__ = ["Order", "collect", "facts", "notes", "picture_gallery"]

SEED = 0
FOLDS = 2
SEEDS = 1
PICTURES_AT_ONCE = 32


@dataclass(frozen=True)
class Order:
    """What is to be reported.

    Attributes:
        data: What is measured on.
        calibration: What policies are fitted on; the other half of `data` if None.
        budgets: Mean costs to compare policies at, as fractions of the whole model's MACs.
        contenders: Policies to compare; none leaves the comparison out.
        labels: What counts as right.
        samples: Of more data than that, so many samples are drawn at random.
        batch: Samples per run.
    """

    data: str
    calibration: str | None
    budgets: tuple[float, ...]
    contenders: tuple[Contender, ...]
    labels: Labels
    samples: int
    batch: int


def collect(bundle: Bundle, order: Order, *, threads: int = 1) -> Report:
    """Run all exits on the data, compare the policies, and gather what the page shows.

    Raises:
        DataError: The data cannot be read or fitted on, or have no labels where they are wanted.
        BackendError: The device failed.
    """
    manifest = bundle.manifest
    cascade = Cascade.open(bundle, threads=threads)
    whole = open_for(manifest, order.data, order.labels)
    part = _drawn(whole, order, cascade)
    cached = _gathered(cascade, part, order.data, order)
    comparison = _compared(cascade, cached, order) if order.contenders else None
    evidence = examine(manifest, cascade.policy, cached.logits, cached.labels)
    return compose(
        manifest,
        evidence,
        name=bundle.path.resolve().name,
        facts=facts(manifest, order.data, evidence),
        notes=notes(len(whole), len(part), order.labels),
        comparison=comparison,
        gallery=picture_gallery(manifest, part, evidence),
    )


def picture_gallery(manifest: Manifest, dataset: Dataset, evidence: Evidence) -> Gallery | None:
    """The samples to show with their pictures; None where the samples are no pictures.

    Raises:
        DataError: A picture cannot be read.
    """
    if manifest.preprocessing.kind != "image":
        return None
    chosen = choose_pictures(evidence)
    name = manifest.inputs[0].name
    images: list[NDArray[np.uint8]] = []
    for arrays in dataset.batches(PICTURES_AT_ONCE, chosen.rows):
        images += list(arrays[name])
    return replace(chosen, images=dict(zip(chosen.rows, map(data_address, images), strict=True)))


def facts(manifest: Manifest, data: str | Path, evidence: Evidence) -> list[tuple[str, str]]:
    """What a reader wants to know of the bundle and the data. Of a path only the last name is told."""
    return [
        ("model", ", ".join(source.name for source in manifest.provenance.sources)),
        ("size", f"{human_count(manifest.macs)} MACs, {human_count(manifest.params)} parameters"),
        ("exits", str(evidence.exits)),
        ("policy", manifest.policy.name),
        ("fitted for", _asked(manifest.calibration)),
        ("data", f"{Path(data).resolve().name}, {count(evidence.samples)} samples, {len(evidence.classes)} classes"),
    ]


def notes(available: int, drawn: int, labels: Labels) -> list[str]:
    """What a reader must know of the samples and of what counts as right."""
    found = []
    if drawn < available:
        found.append(
            f"All figures are of {count(drawn)} samples, drawn at random from the {count(available)} of the data."
        )
    if labels == "model":
        found.append(
            "No labels were used: the whole model's own answers count as right, "
            "so accuracy means how often the cascade answers as the whole model does."
        )
    return found


def _drawn(dataset: Dataset, order: Order, cascade: Cascade) -> Dataset:
    """The data, or as many samples of them, drawn at random and always the same, as are wanted and as fit in memory."""
    if len(dataset) > order.samples:
        dataset = dataset.take(np.sort(np.random.default_rng(SEED).permutation(len(dataset))[: order.samples]))
    return within_memory(dataset, cascade)


def _gathered(cascade: Cascade, dataset: Dataset, path: str, order: Order) -> CachedLogits:
    with progress(f"running all exits on {path}", len(dataset)) as advance:
        cached = gather(cascade, dataset, batch=order.batch, labels=order.labels, advance=advance)
    cached.check(cascade.manifest.labels, every_class=False)
    return cached


def _compared(cascade: Cascade, measuring: CachedLogits, order: Order) -> Comparison:
    """Every policy at every budget, fitted on the calibration data, or by cross-fitting."""
    manifest, every_class = cascade.manifest, order.labels == "data"
    fitting = None
    if order.calibration is not None:
        dataset = _drawn(open_for(manifest, order.calibration, order.labels), order, cascade)
        fitting = _gathered(cascade, dataset, order.calibration, order)
    (measuring if fitting is None else fitting).check(manifest.labels, every_class=every_class)
    how: Any = {"contenders": order.contenders, "seeds": SEEDS, "every_class": every_class}
    costs = np.array([entry.cost for entry in manifest.exits])
    rounds = (FOLDS if fitting is None else 1) * steps(order.contenders, order.budgets, SEEDS)
    with progress("fitting policies", rounds) as advance:
        if fitting is None:
            rows = cross_fit(measuring, costs, order.budgets, folds=FOLDS, **how, advance=advance)
        else:
            rows = compare(fitting, measuring, costs, order.budgets, **how, advance=advance)
    return Comparison(rows, _how(measuring, fitting), _own_name(manifest, order))


def _how(measuring: CachedLogits, fitting: CachedLogits | None) -> str:
    if fitting is None:
        return (
            f"Every policy was fitted to each budget on one half of these {count(measuring.samples)} samples "
            "and measured on the other, and the other way round."
        )
    return (
        f"Every policy was fitted to each budget on {count(fitting.samples)} calibration samples "
        f"and measured on these {count(measuring.samples)}."
    )


def _own_name(manifest: Manifest, order: Order) -> str | None:
    """The name of the bundle's policy among the contenders: with its own method, or with joint thresholds."""
    names = {(contender.policy, contender.method): contender.name for contender in order.contenders}
    own = manifest.policy.name
    return names.get((own, manifest.calibration.method or "joint"), names.get((own, "joint")))


def _asked(calibration: CalibrationSummary) -> str:
    if calibration.budget is not None:
        unit = " ms" if calibration.unit == "ms" else " of the whole model"
        return f"a mean cost of {decimals(calibration.budget, 2)}{unit}"
    certainty = "" if calibration.delta is None else f", with probability {decimals(1 - calibration.delta, 2)}"
    return f"a loss of {percent(calibration.max_drop, 2)} at most{certainty}"
