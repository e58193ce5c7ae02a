"""Updating on the device: the head of old and new samples together, and no way to spoil it."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import STATISTICS_FILE, Bundle, file_entry, write_bundle
from edgeexit.errors import BundleError, DataError, UsageError
from edgeexit.heads import ClassMeansLearner, GaussianLearner
from edgeexit.tensors import save_tensors
from edgeexit_runtime import Cascade
from edgeexit_runtime.living import Updater, updated_bundle
from edgeexit_runtime.verification import verify
from runtime.cascades import batch_of, fake_cascade, write_tiny
from runtime.living import CLASSES, FITTED, Samples, dim, fitted_on, open_living, usual, write_living

HEADS = ["gaussian", "class-means"]
EARLY = (0, 1)  # the fitted exits


def updater_of(bundle: Bundle, samples: Samples, *, forget: float = 0.0, batch: int = 64) -> Updater:
    cascade, (x, y) = Cascade.open(bundle, tapped=True), samples
    updater = Updater(bundle, forget=forget)
    for start in range(0, len(x), batch):
        updater.add(cascade.insight(x[start : start + batch]).features, y[start : start + batch])
    return updater


def updated(bundle: Bundle, samples: Samples, **options: Any) -> Cascade:
    return Cascade.open(bundle).with_tensors(updater_of(bundle, samples, **options).tensors())


def accuracies(cascade: Cascade, samples: Samples) -> NDArray[np.float64]:
    """Of each exit."""
    return np.asarray((cascade.logits(samples[0]).argmax(axis=2) == samples[1]).mean(axis=1))


def about_their_mean(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """What is added to all logits of a sample changes nothing."""
    return np.asarray(logits - logits.mean(axis=1, keepdims=True))


def fitted_from_scratch(bundle: Bundle, head: str, *parts: Samples) -> Cascade:
    """The cascade with heads fitted on all parts at once, in random order, the shrinkage as it was."""
    x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    order = np.random.default_rng(0).permutation(len(y))
    features = Cascade.open(bundle, tapped=True).insight(x[order]).features
    stored = bundle.statistics() or {}
    tensors = {}
    for k in EARLY:
        found = features[k]
        assert found is not None
        learner = (GaussianLearner if head == "gaussian" else ClassMeansLearner)(CLASSES, found.shape[1])
        learner.add(found, y[order])
        statistics: Any = learner.statistics()
        if head == "gaussian":
            statistics = replace(statistics, shrinkage=float(stored[f"shrinkage.{k}"][0]))
        names = [spec.name for spec in bundle.manifest.segments[k].policy_inputs]
        tensors |= {name: statistics.head()[name.rpartition(".")[2]] for name in names}
    return Cascade.open(bundle).with_tensors(tensors)


@pytest.mark.parametrize("head", HEADS)
def test_what_a_head_reads_gives_its_logits(tmp_path: Path, head: str) -> None:
    bundle, (x, _) = open_living(tmp_path, head), usual(9, 5)
    features, logits = Cascade.open(bundle, tapped=True).insight(x)
    assert features[2] is None
    for k in EARLY:
        found, names = features[k], [spec.name for spec in bundle.manifest.segments[k].policy_inputs]
        first, second = (bundle.exits[name] for name in names)
        assert found is not None
        if head == "gaussian":
            expected = found @ first.T + second
        else:
            expected = -np.linalg.norm(found[:, None] - first, axis=2) / second
        np.testing.assert_allclose(logits[k], expected, rtol=1e-3, atol=1e-3)


def test_a_tapped_cascade_answers_as_one_that_is_not(tmp_path: Path) -> None:
    bundle, (x, _) = open_living(tmp_path), usual(40, 5)
    plain, tapped = Cascade.open(bundle), Cascade.open(bundle, tapped=True)
    np.testing.assert_array_equal(plain.logits(x), tapped.insight(x).logits)
    for batch in (x, x[:1]):
        one, other = plain.run(batch), tapped.run(batch)
        np.testing.assert_array_equal(one.exit, other.exit)
        np.testing.assert_array_equal(one.score, other.score)


def test_features_stay_inside_unless_the_cascade_is_tapped(tmp_path: Path) -> None:
    bundle = open_living(tmp_path)
    for segment, opened in zip(bundle.manifest.segments, Cascade.open(bundle)._segments, strict=True):
        outputs = [output.name for output in opened.graph.session.get_outputs()]  # type: ignore[attr-defined]
        assert outputs == [*(spec.name for spec in segment.outputs), segment.logits]


def test_insight_needs_a_tapped_cascade_and_samples(tmp_path: Path) -> None:
    bundle, (x, _) = open_living(tmp_path), usual(5, 5)
    with pytest.raises(UsageError, match="tapped=True"):
        Cascade.open(bundle).insight(x)
    with pytest.raises(DataError, match="no samples"):
        Cascade.open(bundle, tapped=True).insight(x[:0])


@pytest.mark.parametrize(("head", "tolerance"), [("gaussian", 2e-3), ("class-means", 0.02)])
@pytest.mark.parametrize("new", [usual(200, 77), dim(150, 78)], ids=["usual", "dim"])
def test_an_updated_head_is_the_head_fitted_on_old_and_new_samples_together(
    tmp_path: Path, head: str, tolerance: float, new: Samples
) -> None:
    bundle, (x, _) = open_living(tmp_path, head), usual(100, 9)
    found = updated(bundle, new, batch=50).logits(x)
    expected = fitted_from_scratch(bundle, head, fitted_on(), new).logits(x)
    for k in EARLY:
        one, other = (about_their_mean(v[k]) if head == "gaussian" else v[k] for v in (found, expected))
        np.testing.assert_allclose(one, other, atol=tolerance * np.abs(other).max())
    np.testing.assert_array_equal(found[-1], expected[-1])


@pytest.mark.parametrize("head", HEADS)
def test_single_samples_update_as_batches_do(tmp_path: Path, head: str) -> None:
    bundle, new = open_living(tmp_path, head), dim(40, 78)
    one, other = (updater_of(bundle, new, batch=batch).tensors() for batch in (1, 40))
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-3, atol=1e-3 * np.abs(array).max())


@pytest.mark.parametrize("head", HEADS)
def test_samples_in_other_light_make_the_heads_better_in_that_light(tmp_path: Path, head: str) -> None:
    bundle, test = open_living(tmp_path, head), dim(600, 90)
    before = accuracies(Cascade.open(bundle), test)
    after = accuracies(updated(bundle, dim(400, 91), forget=0.8), test)
    assert (after[:2] > before[:2] + 0.05).all()
    assert after[2] == before[2]


def test_the_more_is_forgotten_the_nearer_class_means_come_to_the_new_samples(tmp_path: Path) -> None:
    bundle, (x, y) = open_living(tmp_path, "class-means"), dim(150, 91)
    features = Cascade.open(bundle, tapped=True).insight(x).features[0]
    assert features is not None
    new = np.stack([features[y == k].mean(axis=0) for k in range(CLASSES)])
    (name,) = (spec.name for spec in bundle.manifest.segments[0].policy_inputs if spec.name.endswith("means"))
    apart = [
        np.abs(updater_of(bundle, (x, y), forget=forget).tensors()[name] - new).max() for forget in (0.0, 0.6, 0.95)
    ]
    assert apart[0] > 1.2 * apart[1] > 3 * apart[2]


@pytest.mark.parametrize("head", HEADS)
def test_an_updated_bundle_is_whole_and_right_and_can_be_updated_again(tmp_path: Path, head: str) -> None:
    bundle, first, second = open_living(tmp_path, head), dim(90, 91), usual(80, 92)
    for number, new in enumerate((first, second)):
        parts = updated_bundle(bundle, Cascade.open(bundle), updater_of(bundle, new))
        write_bundle(tmp_path / f"{number}.eexit", *parts)
        bundle = Bundle.open(tmp_path / f"{number}.eexit")
        assert verify(bundle, Cascade.open(bundle)).samples
    stored = bundle.statistics()
    assert stored is not None
    assert stored["counts.0"].sum() == FITTED + 170
    found = Cascade.open(bundle).logits(first[0])
    expected = fitted_from_scratch(bundle, head, fitted_on(), first, second).logits(first[0])
    one, other = (about_their_mean(v[0]) if head == "gaussian" else v[0] for v in (found, expected))
    np.testing.assert_allclose(one, other, atol=0.03 * np.abs(other).max())


def test_an_updated_bundle_keeps_its_thresholds_and_loses_what_drift_is_measured_against(tmp_path: Path) -> None:
    bundle = open_living(tmp_path)
    manifest, contents = updated_bundle(bundle, Cascade.open(bundle), updater_of(bundle, dim(50, 91)))
    assert [e.threshold for e in manifest.exits] == [e.threshold for e in bundle.manifest.exits]
    assert manifest.policy == bundle.manifest.policy
    assert (bundle.manifest.calibration.drift is None, manifest.calibration.drift is None) == (False, True)
    changed = {path for path in contents if contents[path] != bundle.contents[path]}
    assert changed == {"exits.safetensors", "check.safetensors", STATISTICS_FILE}


def test_a_running_cascade_goes_on_with_old_tensors_beside_one_with_new(tmp_path: Path) -> None:
    bundle, (x, _) = open_living(tmp_path), usual(20, 91)
    old = Cascade.open(bundle)
    before = [old.run(x).score, old.run(x[:1]).score]
    new = old.with_tensors(updater_of(bundle, dim(200, 92), forget=0.5).tensors())
    assert new._segments[0].graph.session is old._segments[0].graph.session  # type: ignore[attr-defined]
    after = [new.run(x).score, new.run(x[:1]).score]
    for found, expected in zip([old.run(x).score, old.run(x[:1]).score], before, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert not np.array_equal(after[0], before[0])
    np.testing.assert_allclose(after[1], after[0][:1], rtol=1e-5)


@pytest.mark.parametrize("damage", ["shape", "missing"])
def test_tensors_that_do_not_fit_are_refused(tmp_path: Path, damage: str) -> None:
    bundle = open_living(tmp_path)
    first, second = (spec.name for spec in bundle.manifest.segments[0].policy_inputs)
    tensors = {first: bundle.exits[first][:, :-1] if damage == "shape" else bundle.exits[first]}
    if damage == "shape":
        tensors[second] = bundle.exits[second]
    with pytest.raises(BundleError, match=r"exits\.safetensors does not hold"):
        Cascade.open(bundle).with_tensors(tensors)


def test_a_fake_cascade_takes_tensors_and_ignores_them() -> None:
    cascade = fake_cascade(3)
    assert cascade.with_tensors({"exit.0.means": np.ones((3, 4))}).run(batch_of(0, 1, 2)).exit.tolist() == [0, 1, 2]


BAD: dict[str, tuple[Any, Any, str]] = {
    "NaN": (lambda f: np.where(f == f[2, 0], np.nan, f), None, "features of exit 0 .* not finite(.|\n)*sample 2"),
    "infinite": (lambda f: f / np.float32(0), None, "not finite"),
    "short": (lambda f: f[:, 1:], None, "wrong shape"),
    "fewer": (lambda f: f[:-1], None, "wrong shape"),
    "absent": (lambda f: None, None, "wrong shape"),
    "label too large": (None, lambda y: y + 1, "out of range(.|\n)*got: 5"),
    "label below zero": (None, lambda y: y - 1, "out of range(.|\n)*got: -1"),
    "labels that are not whole": (None, lambda y: y + 0.5, "no labels"),
    "no labels": (None, lambda y: y[:0], "no labels"),
}


@pytest.mark.filterwarnings("ignore:divide by zero", "ignore:invalid value")
@pytest.mark.parametrize("bad", BAD)
def test_samples_that_cannot_be_used_are_refused_and_change_nothing(tmp_path: Path, bad: str) -> None:
    bundle, (x, y) = open_living(tmp_path), usual(10, 5)
    alter_features, alter_labels, message = BAD[bad]
    features = list(Cascade.open(bundle, tapped=True).insight(x).features)
    if alter_features is not None:
        features[0] = alter_features(features[0])
    updater = Updater(bundle)
    with pytest.raises(DataError, match=message):
        updater.add(features, y if alter_labels is None else alter_labels(y))
    assert updater.samples == 0
    for name, array in updater.tensors().items():
        np.testing.assert_allclose(array, bundle.exits[name], rtol=1e-3, atol=1e-3 * np.abs(array).max())


def test_a_gaussian_bundle_without_statistics_names_the_option(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--updatable"):
        Updater(Bundle.open(write_living(tmp_path / "plain.eexit", updatable=False)))


def test_class_means_need_no_option(tmp_path: Path) -> None:
    bundle = Bundle.open(write_living(tmp_path / "plain.eexit", "class-means", updatable=False))
    assert Updater(bundle).exits == EARLY


def test_a_bundle_whose_exits_are_the_models_own_cannot_be_updated(tmp_path: Path) -> None:
    bundle = Bundle.open(write_tiny(tmp_path / "tiny"))
    exits = tuple(msgspec.structs.replace(entry, head="model") for entry in bundle.manifest.exits)
    write_bundle(tmp_path / "own", msgspec.structs.replace(bundle.manifest, exits=exits), bundle.contents)
    with pytest.raises(UsageError, match="no exits that can be updated"):
        Updater(Bundle.open(tmp_path / "own"))


@pytest.mark.parametrize("forget", [-0.1, 1.0, float("nan")])
def test_a_share_to_forget_is_a_share(tmp_path: Path, forget: float) -> None:
    with pytest.raises(UsageError, match="not a share"):
        Updater(open_living(tmp_path), forget=forget)


def test_a_shrinkage_that_no_fit_gives_is_refused(tmp_path: Path) -> None:
    bundle = open_living(tmp_path)
    data = save_tensors({**(bundle.statistics() or {}), "shrinkage.1": np.array([7.0])})
    manifest = msgspec.structs.replace(bundle.manifest, statistics_file=file_entry(STATISTICS_FILE, data))
    write_bundle(tmp_path / "bad", manifest, {**bundle.contents, STATISTICS_FILE: data})
    with pytest.raises(BundleError, match="shrinkage"):
        Updater(Bundle.open(tmp_path / "bad"))


ON_A_DEVICE = """
import sys
import numpy as np
from edgeexit.bundle import Bundle, write_bundle
from edgeexit_runtime import Cascade
from edgeexit_runtime.living import Generations, Updater, updated_bundle

bundle = Bundle.open(sys.argv[1])
cascade = Cascade.open(bundle, tapped=True)
updater = Updater(bundle)
found = np.load(sys.argv[2])
updater.add(cascade.insight(found["x"]).features, found["y"])
write_bundle(sys.argv[3], *updated_bundle(bundle, cascade, updater))
Generations(sys.argv[4]).install(Bundle.open(sys.argv[3]))
sys.exit(", ".join({"torch", "onnx", "onnxscript", "edgeexit_exporters", "PIL", "rich"} & set(sys.modules)) or None)
"""


def test_a_device_updates_without_torch_and_onnx(tmp_path: Path) -> None:
    path = write_living(tmp_path / "bundle.eexit")
    x, y = dim(30, 91)
    np.savez(tmp_path / "new.npz", x=x, y=y)
    arguments = [path, tmp_path / "new.npz", tmp_path / "updated.eexit", tmp_path / "bundles"]
    command = [sys.executable, "-c", ON_A_DEVICE, *map(str, arguments)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert Bundle.open(tmp_path / "bundles" / "current").statistics()
