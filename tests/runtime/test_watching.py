"""Watching on the device: what is counted and audited is what the cascade did."""

from __future__ import annotations

import numpy as np
import pytest

from edgeexit.bundle import Bundle
from edgeexit.drift import DriftMonitor
from edgeexit.errors import UsageError
from edgeexit_runtime import Cascade
from edgeexit_runtime.living import audit
from runtime.cascades import batch_of, fake_cascade, rows_run
from runtime.living import Samples, dim, open_living, usual


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return open_living(tmp_path_factory.mktemp("watching"))


def watched(bundle: Bundle, cascade: Cascade, samples: Samples, share: float = 0.2) -> DriftMonitor:
    x, random = samples[0], np.random.default_rng(0)
    monitor = DriftMonitor(bundle.manifest.calibration.drift, [e.name for e in bundle.manifest.exits])
    answers = cascade.run(x)
    monitor.add(answers.exit, answers.score)
    monitor.audit(audit(cascade, x, answers, share, random))
    return monitor


def test_an_exported_bundle_says_what_its_calibration_split_did(bundle: Bundle) -> None:
    reference, calibration = bundle.manifest.calibration.drift, bundle.manifest.calibration
    assert reference is not None
    shares = [sum(counts) / calibration.samples for counts in reference.counts]
    assert shares == pytest.approx(list(calibration.exit_shares))


def test_the_calibration_split_gives_the_reference_again(bundle: Bundle) -> None:
    report = watched(bundle, Cascade.open(bundle), usual(400, 2), share=1.0).report()
    assert report.verdict == "steady"
    for entry in report.exits:
        assert entry.share == pytest.approx(entry.expected_share, abs=0.005)
    assert report.audit.agreement == pytest.approx(report.audit.expected_agreement, abs=0.005)


def test_samples_of_the_same_kind_raise_an_alarm_in_at_most_5_of_100_trials(bundle: Bundle) -> None:
    cascade = Cascade.open(bundle)
    found = [watched(bundle, cascade, usual(400, seed)).report().verdict for seed in range(1000, 1060)]
    assert found.count("drifting") <= 3


def test_bad_light_raises_an_alarm(bundle: Bundle) -> None:
    cascade = Cascade.open(bundle)
    found = [watched(bundle, cascade, dim(300, seed)).report().verdict for seed in range(1000, 1010)]
    assert found.count("drifting") >= 9


def test_an_audit_runs_only_the_samples_drawn_to_the_end() -> None:
    cascade, batch = fake_cascade(3), batch_of(*[0] * 100)
    answers = cascade.run(batch)
    found = audit(cascade, batch, answers, 0.1, np.random.default_rng(0))
    assert 0 < len(found) < 30
    assert rows_run(cascade) == [[100, len(found)], [len(found)], [len(found)]]


def test_an_audit_compares_with_the_last_exit() -> None:
    def first(x: np.ndarray) -> tuple[tuple[np.ndarray], np.ndarray]:
        return (x,), np.tile(np.array([9, 0, 0], np.float32), (len(x), 1))

    def last(x: np.ndarray) -> tuple[tuple[np.ndarray], np.ndarray]:
        return (x,), 9 * (np.arange(3) == x[:, 1:2]).astype(np.float32)

    cascade, batch = fake_cascade(2, [first, last]), batch_of(0, 0, 0, 0, 0, 0)  # of the labels 0, 1, 2, 0, …
    found = audit(cascade, batch, cascade.run(batch), 1.0, np.random.default_rng(0))
    assert found.tolist() == [True, False, False] * 2


def test_no_audit_runs_nothing() -> None:
    cascade, batch = fake_cascade(3), batch_of(0, 1)
    answers = cascade.run(batch)
    before = rows_run(cascade)
    assert len(audit(cascade, batch, answers, 0.0, np.random.default_rng(0))) == 0
    assert rows_run(cascade) == before


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_share_to_audit_is_a_share(share: float) -> None:
    cascade, batch = fake_cascade(2), batch_of(0)
    with pytest.raises(UsageError, match="not a share"):
        audit(cascade, batch, cascade.run(batch), share, np.random.default_rng(0))
