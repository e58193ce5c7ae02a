from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="activations are torch's")

from core.training.search_material import Drawn  # noqa: E402
from edgeexit.errors import DataError, UsageError  # noqa: E402
from edgeexit.training.frozen import ActivationBatch  # noqa: E402
from edgeexit.training.search import Recording, record  # noqa: E402

ROOMY = 10**9
FULL = 4 * (12 + 10) + 4 * 3 + 8 + 8 * 5
"""Bytes of a sample of `Drawn` as float32."""


def joined(feed: Recording, number: int = 0, part: str = "teacher") -> torch.Tensor:
    return torch.cat([getattr(batch, part) for batch in feed.epoch(number)])


@pytest.mark.parametrize("mapped", [False, True])
def test_a_recording_gives_what_the_feed_gave_to_the_bit(tmp_path: Path, mapped: bool) -> None:
    feed = Drawn(40)
    kept = record(feed, ROOMY, folder=tmp_path if mapped else None, quiet=True)
    assert torch.equal(torch.cat([batch.values[0] for batch in kept.epoch(0)]), feed.maps)
    assert torch.equal(torch.cat([batch.values[1] for batch in kept.epoch(0)]), feed.tokens)
    for part in ("teacher", "labels", "mask"):
        assert torch.equal(joined(kept, 0, part), getattr(feed, part))
    assert kept.note == "all 40 samples (float32)"


def test_a_mapped_recording_leaves_no_file_behind(tmp_path: Path) -> None:
    kept = record(Drawn(40), ROOMY, folder=tmp_path, quiet=True)
    assert isinstance(kept.values[0], np.memmap) or isinstance(kept.values[0].base, np.memmap)
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_kept_as_float16_and_given_as_float32() -> None:
    feed = Drawn(40)
    kept = record(feed, 40 * FULL - 1, quiet=True)
    values = torch.cat([batch.values[0] for batch in kept.epoch(0)])
    assert kept.note == "all 40 samples (float16)"
    assert values.dtype == torch.float32
    assert torch.allclose(values, feed.maps, rtol=1e-3, atol=1e-6)


def test_numbers_that_float16_cannot_hold_stay_finite() -> None:
    kept = record(Drawn(40, scale=1e6), 40 * FULL - 1, quiet=True)
    assert all(torch.isfinite(batch.values[0]).all() for batch in kept.epoch(0))


@given(st.integers(10, 90), st.integers(1, 12), st.floats(0.2, 1.5))
def test_a_recording_never_takes_more_than_its_room_and_its_samples_are_evenly_spread(
    samples: int, batch: int, share: float
) -> None:
    feed, room = Drawn(samples, batch=batch), max(1000, int(share * samples * FULL / 2))
    kept = record(feed, room, quiet=True)
    assert kept.size_bytes <= room
    places = [int((feed.teacher == row).all(dim=1).nonzero()[0, 0]) for row in joined(kept)]
    gaps = np.diff(places)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1
    assert kept.offered == samples


def test_a_recording_of_a_part_says_so() -> None:
    kept = record(Drawn(80), 5000, quiet=True)
    assert kept.samples < 80
    assert kept.note == f"{kept.samples} of 80 samples, evenly spread (float16)"


def test_epochs_have_their_own_order_which_follows_from_the_seed() -> None:
    feed = record(Drawn(40), ROOMY, seed=3, quiet=True)
    again = record(Drawn(40), ROOMY, seed=3, quiet=True)
    assert torch.equal(joined(feed, 1), joined(again, 1))
    assert not torch.equal(joined(feed, 0), joined(feed, 1))
    assert torch.equal(joined(feed, 0).sort(0).values, joined(feed, 1).sort(0).values)


def test_an_epoch_can_be_entered_in_the_middle() -> None:
    feed = record(Drawn(40), ROOMY, seed=3, quiet=True)
    whole, rest = list(feed.epoch(2)), list(feed.epoch(2, start=3))
    assert [batch.teacher.tolist() for batch in rest] == [batch.teacher.tolist() for batch in whole[3:]]


@given(st.integers(1, 300), st.integers(1, 64))
def test_batches_hold_all_samples_and_differ_by_one_at_most(samples: int, batch: int) -> None:
    teacher = np.zeros((samples, 2), np.float32)
    feed = Recording([teacher], teacher, None, None, batch=batch, seed=0)
    sizes = [len(part.teacher) for part in feed.epoch(0)]
    assert sum(sizes) == samples
    assert max(sizes) <= batch
    assert max(sizes) - min(sizes) <= 1
    assert len(sizes) == feed.steps


def test_without_labels_there_are_none() -> None:
    kept = record(Drawn(40, labels=False), ROOMY, quiet=True)
    assert all(batch.labels is None for batch in kept.epoch(0))


def test_room_for_less_than_a_sample_a_class_is_refused() -> None:
    with pytest.raises(UsageError, match="too few activations fit"):
        record(Drawn(40), 200, quiet=True)


class Growing(Drawn):
    """Sequences that get longer."""

    def epoch(self, number: int, start: int = 0) -> Iterator[ActivationBatch]:
        for step, batch in enumerate(super().epoch(number, start)):
            longer = torch.zeros(len(batch.teacher), 5 + step, 2)
            yield ActivationBatch([batch.values[0], longer], batch.teacher, batch.labels, batch.mask)


def test_fewer_samples_than_classes_are_kept_where_all_of_them_fit() -> None:
    assert record(Drawn(2, batch=2), ROOMY, quiet=True).samples == 2  # of four classes


def test_activations_that_change_their_shape_are_refused() -> None:
    with pytest.raises(DataError, match="shape changes"):
        record(Growing(40), ROOMY, quiet=True)


def test_an_empty_feed_is_refused() -> None:
    with pytest.raises(DataError, match="no activations"):
        record(Drawn(0), ROOMY, quiet=True)
