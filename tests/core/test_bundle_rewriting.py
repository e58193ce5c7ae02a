"""Rewriting a bundle: another policy or other tensors, the same segments."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.bundles import TEMPERATURES, bundle_parts, opens, write_small
from edgeexit.bundle import Bundle, write_bundle
from edgeexit.bundle.rewrite import rewrite
from edgeexit.errors import UsageError
from edgeexit.manifest import FORMAT_VERSION, CalibrationSummary, PayloadEntry
from edgeexit.policies import MaxProbability, PooledProbability
from edgeexit.replay import replay

INF = float("inf")
POOLED = PooledProbability(((1.0, 0.0), (0.5, 0.5), (1.0, 0.25)), (0.9, INF, INF))


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return Bundle.open(write_small(tmp_path / "old", segments=3))


def written(bundle: Bundle, **changes: object) -> Bundle:
    """The rewritten bundle, on disk and opened again."""
    path = bundle.path.with_name("new.eexit")
    write_bundle(path, *rewrite(bundle, **changes))  # type: ignore[arg-type]
    assert opens(path)
    return Bundle.open(path)


def test_nothing_changed_is_the_same_bundle(bundle: Bundle) -> None:
    again = written(bundle)
    assert again.manifest.exits == bundle.manifest.exits
    assert again.manifest.policy == bundle.manifest.policy
    assert again.manifest.calibration == bundle.manifest.calibration
    assert again.contents["exits.safetensors"] == bundle.contents["exits.safetensors"]


def test_another_policy_takes_the_place_of_the_old_one_and_its_tensors(bundle: Bundle) -> None:
    again = written(bundle, policy=POOLED)
    assert again.policy() == POOLED
    assert TEMPERATURES not in again.exits
    assert [entry.criterion for entry in again.manifest.exits] == ["pooled-probability"] * 3
    assert [entry.threshold for entry in again.manifest.exits] == [0.9, None, None]


def test_segments_heads_and_costs_stay_as_they_are(bundle: Bundle) -> None:
    again = written(bundle, policy=POOLED)
    assert again.manifest.segments == bundle.manifest.segments
    assert [again.segment(k) for k in range(3)] == [bundle.segment(k) for k in range(3)]
    np.testing.assert_array_equal(again.exits["exit.1.means"], bundle.exits["exit.1.means"])
    costs = [(entry.name, entry.cost, entry.cost_macs) for entry in again.manifest.exits]
    assert costs == [(entry.name, entry.cost, entry.cost_macs) for entry in bundle.manifest.exits]


def test_the_golden_samples_are_answered_by_the_new_policy(bundle: Bundle) -> None:
    policy = MaxProbability((1.0, 1.0, 1.0), (0.999, 0.7, INF))
    again = written(bundle, policy=policy)
    answers = replay(policy, [bundle.check[f"logits.{k}"] for k in range(3)])
    np.testing.assert_array_equal(again.check["exits"], answers.exit)
    np.testing.assert_array_equal(again.check["labels"], answers.label)
    np.testing.assert_array_equal(again.check["probabilities"], answers.probability)
    assert set(again.check["exits"]) != set(bundle.check["exits"])


def test_a_new_summary_is_kept(bundle: Bundle) -> None:
    summary = CalibrationSummary(
        samples=5, held_out=False, labels="model", budget=3.5, unit="ms", method="joint", full_accuracy=1.0,
        accuracy=0.75, mean_cost=0.5, exit_shares=(0.5, 0.25, 0.25),
    )  # fmt: skip
    assert written(bundle, policy=POOLED, calibration=summary).manifest.calibration == summary


def test_a_bundle_of_version_1_becomes_one_of_the_newest_version(bundle: Bundle) -> None:
    import msgspec

    old = Bundle(
        bundle.path,
        msgspec.structs.replace(bundle.manifest, version=1),
        bundle.size_bytes,
        bundle.contents,
        bundle.exits,
    )
    assert written(old, policy=POOLED).manifest.version == FORMAT_VERSION


def test_a_policys_own_tensors_can_be_replaced(bundle: Bundle) -> None:
    warm = np.full(3, 4.0, np.float32)
    again = written(bundle, tensors={TEMPERATURES: warm})
    policy = again.policy()
    assert isinstance(policy, MaxProbability)
    assert policy.temperatures == (4.0, 4.0, 4.0)
    assert policy.thresholds == bundle.policy().thresholds


def test_other_heads_come_with_the_golden_logits_that_they_give(bundle: Bundle) -> None:
    means = np.ones((3, 4), np.float32)
    logits = [np.full_like(bundle.check[f"logits.{k}"], k) for k in range(3)]
    again = written(bundle, tensors={"exit.0.means": means}, golden_logits=logits)
    np.testing.assert_array_equal(again.exits["exit.0.means"], means)
    np.testing.assert_array_equal(again.check["logits.2"], logits[2])
    np.testing.assert_array_equal(again.check["exits"], replay(bundle.policy(), logits).exit)


def test_other_heads_without_golden_logits_are_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="other heads give other logits"):
        rewrite(bundle, tensors={"exit.0.means": np.ones((3, 4), np.float32)})


@pytest.mark.parametrize(
    ("name", "array"),
    [
        ("exit.9.means", np.ones((3, 4), np.float32)),
        ("exit.0.means", np.ones((4, 3), np.float32)),
        ("exit.0.means", np.ones((3, 4), np.float64)),
    ],
)
def test_a_tensor_that_the_bundle_does_not_have_is_refused(bundle: Bundle, name: str, array: np.ndarray) -> None:
    with pytest.raises(UsageError, match="cannot be replaced"):
        rewrite(bundle, tensors={name: array})


def test_a_policy_for_another_number_of_exits_is_refused(bundle: Bundle) -> None:
    with pytest.raises(UsageError, match="not for this bundle"):
        rewrite(bundle, policy=MaxProbability((1.0, 1.0), (0.5, INF)))


@pytest.mark.parametrize(
    ("changes", "kept"),
    [({}, True), ({"policy": POOLED}, False), ({"tensors": {TEMPERATURES: np.ones(3, "f4")}}, False)],
)
def test_what_rounding_changed_is_kept_only_under_the_same_policy(
    bundle: Bundle, changes: dict[str, object], kept: bool
) -> None:
    import msgspec

    entry = PayloadEntry(precision="fp32", size_bytes=8, compressed_bytes=7, changed=0.0)
    first, second, third = bundle.manifest.segments
    measured = msgspec.structs.replace(second, payloads=(entry,))
    manifest = msgspec.structs.replace(bundle.manifest, segments=(first, measured, third))
    old = Bundle(bundle.path, manifest, bundle.size_bytes, bundle.contents, bundle.exits)
    assert written(old, **changes).manifest.segments[1].payloads == ((entry,) if kept else None)


def test_the_parts_that_were_read_are_not_changed(bundle: Bundle) -> None:
    before = dict(bundle.contents)
    rewrite(bundle, policy=POOLED)
    assert dict(bundle.contents) == before
    assert bundle.manifest == bundle_parts(segments=3)[0]
