"""Profiling: what is measured, with clocks that the segments move."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.errors import BackendError
from edgeexit.profiles import Profile, decode_profile, encode_profile, identity
from edgeexit_runtime import profiling
from edgeexit_runtime.backends import FakeBackend, SessionSettings, load_backend
from edgeexit_runtime.profiling import MIN_ROUNDS, Subject, opened_subject
from edgeexit_runtime.profiling.unchecked import unchecked_chain
from runtime.cascades import CLASSES, EXITS, F32, forward, write_tiny

X = np.random.default_rng(2).standard_normal((6, 4)).astype(F32)
BATCHES = (1, 2, 8)
SECONDS = (3.0, 1.0, 2.0)


class Clock:
    """Stands still unless somebody moves it."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class SlowUnchecked:
    """A chain without checks: a quarter of a second less in each segment but the last, for every sample."""

    leaves_out = (True, True, False)

    def seconds(self, arrays: Sequence[NDArray[Any]], clock: object) -> list[float]:
        n = len(arrays[0])
        return [SECONDS[0] * n - 0.25 * n, SECONDS[1] * n - 0.25 * n, SECONDS[2] * n]


class SlowBackend(FakeBackend):
    """Segments that take so many seconds a sample, and a compaction that takes one for each sample and tensor."""

    def __init__(self, clock: Clock, cold_runs: int = 0) -> None:
        self.clock, self.cold_runs = clock, cold_runs
        super().__init__([self._segment(k) for k in range(EXITS)])

    def _segment(self, k: int) -> Any:
        outputs = ((8,), (8,), ())[k]

        def run(*inputs: NDArray[Any]) -> tuple[Sequence[NDArray[Any]], NDArray[np.float32]]:
            n = len(inputs[0])
            self.cold_runs -= 1
            self.clock.now_s += SECONDS[k] * n + (50.0 if self.cold_runs >= 0 else 0.0)
            return [np.zeros((n, width), F32) for width in outputs], np.zeros((n, CLASSES), F32)

        return run

    def take(self, handle: Any, rows: NDArray[np.intp]) -> Any:
        self.clock.now_s += len(rows)
        return super().take(handle, rows)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.open(write_tiny(tmp_path_factory.mktemp("profiling") / "tiny"))


def measured(bundle: Bundle, *, cold_runs: int = 0, **changes: Any) -> Profile:
    clock = Clock()
    backend = SlowBackend(clock, cold_runs)
    subject = Subject(bundle, bundle.policy(), backend, backend.segments, SlowUnchecked(), SessionSettings(threads=3))  # type: ignore[arg-type]
    arguments: Any = {"seconds": 0.0, "clock": clock, "advance": lambda n=1: None, **changes}
    return profiling.profile(subject, {"x": X}, BATCHES, **arguments)


def test_every_segment_is_timed_at_every_batch_size(bundle: Bundle) -> None:
    found = measured(bundle)
    for entry, seconds in zip(found.segments, SECONDS, strict=True):
        assert entry.run_ms == pytest.approx([1e3 * seconds * n for n in BATCHES])


def test_a_check_is_what_a_segment_takes_longer_with_it(bundle: Bundle) -> None:
    first, second, _ = measured(bundle).segments
    assert first.check_ms == second.check_ms == pytest.approx([250.0, 500.0, 2000.0])


def test_the_models_own_logits_are_no_check(bundle: Bundle) -> None:
    assert measured(bundle).segments[-1].check_ms == (0.0, 0.0, 0.0)


def test_compaction_is_given_for_as_many_samples_as_are_kept(bundle: Bundle) -> None:
    found = measured(bundle)
    assert found.segments[0].compact_ms == pytest.approx([2e3 * n for n in BATCHES])  # h0, and x that skips it
    assert found.segments[1].compact_ms == pytest.approx([1e3 * n for n in BATCHES])
    assert found.segments[2].compact_ms == (0.0, 0.0, 0.0)


def test_exits_are_timed_from_the_start_to_each(bundle: Bundle) -> None:
    assert measured(bundle).exits_ms == pytest.approx([3e3, 4e3, 6e3])


def test_what_the_first_round_took_does_not_count(bundle: Bundle) -> None:
    assert measured(bundle, cold_runs=60) == measured(bundle)


def test_the_profile_says_what_it_is_of(bundle: Bundle) -> None:
    found = measured(bundle, energy_note="no sensor here")
    assert (found.bundle, found.backend, found.threads) == (identity(bundle.manifest), "fake", 3)
    assert (found.batches, [entry.name for entry in found.segments]) == (
        BATCHES,
        [entry.name for entry in bundle.manifest.exits],
    )
    assert (found.energy_mj, found.energy_note, found.target) == (None, "no sensor here", None)


def test_the_profile_can_be_stored(bundle: Bundle) -> None:
    found = measured(bundle)
    assert decode_profile(encode_profile(found), "p") == found


def test_more_time_gives_more_rounds_and_progress_ends_at_100(bundle: Bundle) -> None:
    parts: dict[float, list[int]] = {}
    for seconds in (0.0, 3e4):
        parts[seconds] = []
        measured(bundle, seconds=seconds, advance=lambda n=1, to=parts[seconds]: to.append(n))
    assert [sum(found) for found in parts.values()] == [100, 100]
    assert len(parts[0.0]) == MIN_ROUNDS + 2  # with the round that warms up, and the end
    assert len(parts[3e4]) > len(parts[0.0])


class CountingMeter:
    """A joule for each second of the clock."""

    note = "counts"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.entered = clock, 0

    def __enter__(self) -> CountingMeter:
        self.entered += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.entered -= 1

    def joules(self) -> float:
        assert self.entered == 1
        return self.clock.now_s


def test_energy_is_given_for_a_sample_until_each_exit(bundle: Bundle) -> None:
    clock = Clock()
    backend = SlowBackend(clock)
    subject = Subject(bundle, bundle.policy(), backend, backend.segments, None, SessionSettings())
    meter = CountingMeter(clock)
    found = profiling.profile(subject, {"x": X}, (1,), seconds=9.0, meter=meter, clock=clock, advance=lambda n=1: None)
    assert found.energy_mj == pytest.approx([3e3, 4e3, 6e3])
    assert meter.entered == 0


def test_without_a_way_to_leave_checks_out_they_are_not_told_apart(bundle: Bundle) -> None:
    clock = Clock()
    backend = SlowBackend(clock)
    subject = Subject(bundle, bundle.policy(), backend, backend.segments, None, SessionSettings())
    found = profiling.profile(subject, {"x": X}, (1, 2), seconds=0.0, clock=clock, advance=lambda n=1: None)
    assert [entry.check_ms for entry in found.segments] == [None, None, (0.0, 0.0)]


def test_a_batch_that_memory_does_not_hold_is_an_error_with_a_way_out(bundle: Bundle) -> None:
    class Full(SlowBackend):
        def take(self, handle: Any, rows: NDArray[np.intp]) -> Any:
            raise MemoryError

    backend = Full(Clock())
    subject = Subject(bundle, bundle.policy(), backend, backend.segments, None, SessionSettings())
    with pytest.raises(BackendError, match="too little memory for batches of 8") as refused:
        profiling.profile(subject, {"x": X}, BATCHES, seconds=0.0, advance=lambda n=1: None)
    assert "--batch" in str(refused.value.remedy)


@pytest.mark.parametrize("n", [1, 5])
def test_the_chain_without_checks_hands_on_what_the_chain_does(bundle: Bundle, n: int) -> None:
    backend = load_backend("onnxruntime")
    subject = opened_subject(bundle, backend, SessionSettings(), largest=n)
    chain = unchecked_chain(bundle, backend, subject.segments, SessionSettings(), n)
    assert chain is not None
    assert chain.leaves_out == (True, True, False)
    ticks: Iterator[float] = iter(range(100))
    assert chain.seconds([X[:n]], lambda: next(ticks)) == [1, 1, 1]
    if n == 1:
        np.testing.assert_allclose(chain._lane._logits[-1], forward(X[:1])[-1], rtol=1e-5, atol=1e-6)  # type: ignore[attr-defined]


def test_other_backends_have_no_chain_without_checks(bundle: Bundle) -> None:
    backend = SlowBackend(Clock())
    assert unchecked_chain(bundle, backend, backend.segments, SessionSettings(), 1) is None


def test_a_real_bundle_is_measured(bundle: Bundle) -> None:
    subject = opened_subject(bundle, load_backend("onnxruntime"), SessionSettings(), largest=4, target="raspberry-pi-5")
    found = profiling.profile(subject, {"x": X}, (1, 4), seconds=0.0, advance=lambda n=1: None)
    assert found.target == "raspberry-pi-5"
    assert all(ms > 0 for entry in found.segments for ms in (*entry.run_ms, *entry.decide_ms))
    assert decode_profile(encode_profile(found), "p") == found


def test_a_written_file_names_no_host_or_folder(bundle: Bundle, tmp_path: Path) -> None:
    import getpass
    import socket

    data = encode_profile(measured(bundle)).decode()
    assert str(bundle.path.parent) not in data
    assert socket.gethostname() not in data.replace(str(tmp_path), "") or len(socket.gethostname()) < 4
    assert getpass.getuser() not in data
