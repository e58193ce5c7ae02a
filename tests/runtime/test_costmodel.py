"""The cost model: how batches are cut, when compaction pays, and that it changes no answer."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.manifest import Manifest
from edgeexit.profiles import Machine, Profile, SegmentProfile, identity
from edgeexit_runtime import Cascade
from edgeexit_runtime.costmodel import ObservedCosts, WholeBatches
from edgeexit_runtime.costmodel.measured import MeasuredCosts
from edgeexit_runtime.costmodel.table import crossing_bytes
from runtime.cascades import EXITS, F32, batch_of, fake_cascade, rows_run, tiny_parts, write_tiny

MANIFEST, _ = tiny_parts()
BATCHES = (1, 2, 4, 8, 16, 32, 64)
MACHINE = Machine(cpu="any", cores=2, architecture="any", system="any", python="3.11", packages={})

Times = tuple[float, ...]


def profile_of(
    manifest: Manifest, row_ms: Times, compact_ms: float = 0.0, batches: tuple[int, ...] = BATCHES
) -> Profile:
    """Every segment costs `row_ms` a row at each of the batch sizes."""
    segment = SegmentProfile(
        name="",
        run_ms=tuple(row * size for row, size in zip(row_ms, batches, strict=True)),
        check_ms=None,
        compact_ms=(compact_ms,) * len(batches),
        decide_ms=(0.0,) * len(batches),
    )
    return Profile(
        bundle=identity(manifest),
        precision="fp32",
        backend="onnxruntime",
        threads=1,
        target=None,
        machine=MACHINE,
        batches=batches,
        segments=tuple(msgspec.structs.replace(segment, name=entry.name) for entry in manifest.exits),
        exits_ms=tuple(float(k + 1) for k in range(len(manifest.exits))),
        energy_mj=None,
        energy_note="not measured",
    )


CHEAP_ALONE = (1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6)
CHEAP_TOGETHER = (1.0, 0.6, 0.4, 0.3, 0.25, 0.22, 0.2)
CHEAP_AT_EIGHT = (1.0, 0.8, 0.6, 0.5, 0.6, 0.8, 1.0)


@pytest.mark.parametrize(
    ("row_ms", "sizes"), [(CHEAP_ALONE, [1] * 64), (CHEAP_TOGETHER, [64]), (CHEAP_AT_EIGHT, [8] * 8)]
)
def test_a_batch_is_cut_where_a_row_costs_least(row_ms: Times, sizes: list[int]) -> None:
    nobody_leaves = msgspec.structs.replace(
        MANIFEST, calibration=msgspec.structs.replace(MANIFEST.calibration, exit_shares=(0.0, 0.0, 1.0))
    )
    assert MeasuredCosts(profile_of(MANIFEST, row_ms), nobody_leaves, EXITS).sizes(64) == sizes


@given(st.integers(1, 300), st.lists(st.floats(0.01, 10), min_size=7, max_size=7))
def test_the_pieces_of_a_batch_add_up(n: int, row_ms: list[float]) -> None:
    for costs in (
        MeasuredCosts(profile_of(MANIFEST, tuple(row_ms)), MANIFEST, EXITS),
        ObservedCosts(MANIFEST, EXITS),
        WholeBatches(),
    ):
        sizes = costs.sizes(n)
        assert sum(sizes) == n
        assert min(sizes) >= 1


def test_compaction_pays_when_later_segments_save_more_than_it_costs() -> None:
    cheap = MeasuredCosts(profile_of(MANIFEST, (1.0,) * 7, compact_ms=2.0), MANIFEST, EXITS)
    assert cheap.saved_s(0, 64, 32) == pytest.approx(0.032)
    assert cheap.compaction_s(0, 64, 32) == pytest.approx(0.002)


def test_a_cost_between_two_sizes_lies_between_theirs() -> None:
    costs = MeasuredCosts(profile_of(MANIFEST, CHEAP_TOGETHER), MANIFEST, EXITS)
    times = [costs.step_s(1, rows) for rows in range(1, 130)]
    assert times == sorted(times)
    assert costs.step_s(1, 128) == pytest.approx(2 * costs.step_s(1, 64))


def test_shares_are_counted() -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    for _ in range(3000):
        costs.left(1, 1)
    assert costs.reach() == pytest.approx([1, 1, 0], abs=0.05)


def observed(row_s: dict[int, float], n: int) -> ObservedCosts:
    """Costs that saw steps of all sizes, of so many seconds a row."""
    costs = ObservedCosts(MANIFEST, EXITS)
    for _ in range(40):
        for size in costs.sizes(n):
            nearest = min(row_s, key=lambda known: abs(known - size))
            for index in range(EXITS):
                costs.ran(index, size, row_s[nearest] * size)
    return costs


def test_all_sizes_are_tried_before_one_is_chosen() -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    tried: list[int] = []
    for _ in range(10):
        for size in costs.sizes(64):
            tried.append(size)
            costs.ran(0, size, 0.001)
    assert {1, 2, 4, 8, 16, 32, 64} <= set(tried)


@pytest.mark.parametrize(("cheapest", "sizes"), [(1, [1] * 32), (8, [8] * 4), (32, [32])])
def test_the_size_that_was_cheapest_is_chosen(cheapest: int, sizes: list[int]) -> None:
    costs = observed({size: 1.0 if size == cheapest else 2.0 for size in (1, 2, 4, 8, 16, 32)}, 32)
    for _ in range(2000):
        costs.left(2, 1)
    costs._chosen.clear()
    assert costs.sizes(32) == sizes


def test_one_slow_run_does_not_count() -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    costs.sizes(2)
    for seconds in (5.0, 1.0, 100.0, 1.0):
        costs.ran(0, 1, seconds)
    assert costs.row_s(0, 0) == 1.0


def test_learning_comes_to_an_end() -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    batches = 0
    while costs.learning(64):
        for size in costs.sizes(64):
            costs.ran(0, size, 0.001 * size)
        batches += 1
    assert batches < 20
    assert costs.sizes(64) == costs.sizes(64) == [64]


@given(st.lists(st.integers(2, 300), min_size=1, max_size=6))
def test_learning_comes_to_an_end_whatever_batches_came_before(sizes: list[int]) -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    for n in sizes:
        costs.sizes(n)
    batches = 0
    while costs.learning(sizes[-1]):
        assert sum(costs.sizes(sizes[-1])) == sizes[-1]
        batches += 1
        assert batches < 40


def test_pooling_pays_only_where_a_row_costs_less_among_many() -> None:
    together = MeasuredCosts(profile_of(MANIFEST, CHEAP_TOGETHER), MANIFEST, EXITS)
    alone = MeasuredCosts(profile_of(MANIFEST, CHEAP_ALONE), MANIFEST, EXITS)
    assert (together.pools(8), alone.pools(8)) == (True, False)
    assert (together.enough(1), alone.enough(1)) == (64, 1)


class Costs(WholeBatches):
    """Cuts as it is told, and compacts only if told."""

    def __init__(self, sizes: list[int], compacts: bool) -> None:
        self._sizes, self._compacts = sizes, compacts

    def sizes(self, n: int) -> list[int]:
        sizes, left = [], n
        for size in self._sizes * n:
            if left:
                sizes.append(min(size, left))
                left -= sizes[-1]
        return sizes

    def compaction_s(self, index: int, rows: int, staying: int) -> float:
        return 0.0 if self._compacts else float("inf")


PLAN = st.lists(st.integers(0, 3), min_size=1, max_size=12)


@given(PLAN, st.lists(st.integers(1, 5), min_size=1, max_size=4), st.booleans())
def test_what_the_model_decides_changes_no_answer(plan: list[int], sizes: list[int], compacts: bool) -> None:
    plain = fake_cascade(4)
    cascade = Cascade(plain.manifest, plain.policy, plain._backend, plain._segments, costs=Costs(sizes, compacts))
    answers = cascade.run(batch_of(*plan))
    assert answers.exit.tolist() == plan
    assert answers.label.tolist() == [i % 3 for i in range(len(plan))]
    assert not answers.degraded.any()


def test_rows_that_left_are_carried_on_where_compaction_does_not_pay() -> None:
    plain = fake_cascade(3)
    cascade = Cascade(plain.manifest, plain.policy, plain._backend, plain._segments, costs=Costs([9], False))
    cascade.run(batch_of(0, 2, 1, 2))
    assert rows_run(cascade) == [[4], [4], [4]]


def test_everybody_gone_means_that_nothing_more_is_run() -> None:
    plain = fake_cascade(3)
    cascade = Cascade(plain.manifest, plain.policy, plain._backend, plain._segments, costs=Costs([9], False))
    cascade.run(batch_of(0, 1, 1, 0))
    assert rows_run(cascade) == [[4], [4], []]


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 40), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_real_bundle_answers_alike_however_its_batches_are_cut(
    tmp_path_factory: pytest.TempPathFactory, n: int, compacts: bool, seed: int
) -> None:
    bundle = tmp_path_factory.getbasetemp() / "tiny.eexit"
    if not bundle.exists():
        write_tiny(bundle)
    x: NDArray[np.float32] = np.random.default_rng(seed).standard_normal((n, 4)).astype(F32)
    opened = Cascade.open(bundle)
    expected = Cascade(MANIFEST, opened.policy, opened._backend, opened._segments).run(x)
    for sizes in ([1], [3, 1, 7], [64]):
        costs = Costs(sizes, compacts)
        found = Cascade(MANIFEST, opened.policy, opened._backend, opened._segments, costs=costs).run(x)
        np.testing.assert_array_equal(found.exit, expected.exit)
        np.testing.assert_array_equal(found.label, expected.label)
        np.testing.assert_allclose(found.score, expected.score, rtol=1e-5)


def test_a_cascade_opened_with_a_profile_runs_batches_by_it(tmp_path: Path) -> None:
    bundle = write_tiny(tmp_path / "tiny")
    cascade = Cascade.open(bundle, profile=profile_of(MANIFEST, CHEAP_ALONE))
    assert cascade._costs.sizes(8) == [1] * 8


def test_bytes_that_cross_count_skipping_tensors_too() -> None:
    assert crossing_bytes(MANIFEST) == [4 * (8 + 4), 4 * 8, 0]


class Timed(WholeBatches):
    """Remembers what steps took."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def ran(self, index: int, rows: int, seconds: float) -> None:
        self.seconds.append(seconds)


def test_the_time_that_somebody_takes_over_the_answers_is_not_the_cascades() -> None:
    plain, costs = fake_cascade(3), Timed()
    cascade = Cascade(plain.manifest, plain.policy, plain._backend, plain._segments, costs=costs)
    for _ in cascade.stream([batch_of(0, 1, 2)]):
        time.sleep(0.05)
    assert len(costs.seconds) == 3
    assert max(costs.seconds) < 0.05


def test_single_samples_are_watched_only_while_something_is_learned() -> None:
    costs = ObservedCosts(MANIFEST, EXITS)
    costs.sizes(4)
    assert costs.watches()
    while costs.learning(4):
        costs.sizes(4)
    costs.sizes(4)
    assert not costs.watches()
