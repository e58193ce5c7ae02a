"""Feeding: order and augmentation follow from numbers, and pictures become what the network takes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from edgeexit.data import Dataset, open_data
from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import Preprocessing, TensorSpec

torch = pytest.importorskip("torch", reason="training needs torch")

from edgeexit.training.feeding import Feed, TrainBatch  # noqa: E402
from edgeexit.training.feeding.augmenting import augmented  # noqa: E402 torch may be missing
from edgeexit.training.settings import TrainSettings  # noqa: E402

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
PREPROCESSING = Preprocessing(kind="image", mode="RGB", size=(8, 8), mean=MEAN, std=STD)


@pytest.fixture
def folder(tmp_path):
    """Six pictures of two classes, as a dataset, and their pixels in its order."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    for index, picture in enumerate(pixels):
        path = tmp_path / ("cat" if index < 3 else "dog") / f"{index}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(picture).save(path)
    dataset = open_data(tmp_path, (TensorSpec(name="image", dtype="uint8", shape=(8, 8, 3)),), PREPROCESSING)
    return dataset, pixels


def numbered(count: int = 10, *, batch: int = 4, seed: int = 0, **changes) -> Feed:
    feed = Feed.from_arrays(torch.arange(count, dtype=torch.float32)[:, None], np.arange(count) % 3)
    return feed.under(TrainSettings(batch=batch, seed=seed, **changes))


def rows(batches: list[TrainBatch]) -> list[list[float]]:
    return [batch.inputs[0][:, 0].tolist() for batch in batches]


@settings(max_examples=40)
@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 5), st.data())
def test_an_epoch_taken_up_in_the_middle_is_the_rest_of_the_same_epoch(count, batch, number, data) -> None:
    feed = numbered(count, batch=batch)
    whole = rows(list(feed.epoch(number)))
    start = data.draw(st.integers(0, feed.steps))
    assert rows(list(feed.epoch(number, start))) == whole[start:]
    assert len(whole) == feed.steps


def test_no_sample_comes_twice_in_an_epoch_and_all_come_when_batches_are_full() -> None:
    assert sorted(number for batch in rows(list(numbered(12).epoch(0))) for number in batch) == list(range(12))


def test_a_last_batch_that_is_not_full_is_left_out_of_an_epoch_but_not_of_what_is_held_out() -> None:
    feed = numbered(10, batch=4)
    assert [len(batch) for batch in feed.epoch(0)] == [4, 4]
    assert rows(list(feed.in_order())) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_fewer_samples_than_a_batch_are_one_batch() -> None:
    feed = numbered(3, batch=8)
    assert feed.steps == 1
    assert len(next(feed.epoch(0))) == 3


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    feed = numbered(20)
    assert rows(list(feed.epoch(0))) != rows(list(feed.epoch(1)))
    assert rows(list(feed.epoch(0))) != rows(list(numbered(20, seed=1).epoch(0)))
    assert rows(list(feed.epoch(0))) == rows(list(numbered(20).epoch(0)))


def test_labels_go_with_their_samples() -> None:
    for batch in numbered().epoch(3):
        assert batch.labels is not None
        assert (batch.inputs[0][:, 0].long() % 3 == batch.labels).all()


@pytest.mark.parametrize("kept_bytes", [0, 1 << 20], ids=["decoded each time", "kept"])
def test_pictures_become_normalised_channels_first(folder, kept_bytes: int) -> None:
    dataset, pixels = folder
    feed = Feed.from_dataset(dataset, PREPROCESSING, kept_bytes=kept_bytes)
    expected = (pixels / 255 - np.array(MEAN)) / np.array(STD)
    for _ in range(2):
        (batch,) = feed.in_order()
        assert batch.inputs[0].dtype == torch.float32
        assert batch.inputs[0].is_contiguous()
        np.testing.assert_allclose(batch.inputs[0].numpy(), expected.transpose(0, 3, 1, 2), atol=1e-5)
        assert batch.labels is not None
        assert batch.labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_pictures_that_are_kept_are_decoded_once(folder) -> None:
    dataset, _ = folder
    feed = Feed.from_dataset(dataset, PREPROCESSING)
    before = list(feed.in_order())
    for name in dataset.source.paths:
        with open(name, "wb"):
            pass
    assert torch.equal(before[0].inputs[0], next(feed.in_order()).inputs[0])


def test_a_sample_that_an_epoch_left_out_is_read_when_another_needs_it(folder) -> None:
    feed = Feed.from_dataset(folder[0], PREPROCESSING).under(TrainSettings(batch=4))
    expected = next(Feed.from_dataset(folder[0], PREPROCESSING, kept_bytes=0).in_order())
    assert sum(len(batch) for batch in feed.epoch(0)) == 4
    assert torch.equal(torch.cat([batch.inputs[0] for batch in feed.in_order()]), expected.inputs[0])


def test_kept_or_not_the_batches_are_the_same(folder) -> None:
    settings = TrainSettings(batch=2, augment="crop")
    feeds = [Feed.from_dataset(folder[0], PREPROCESSING, kept_bytes=n).under(settings) for n in (0, 1 << 20)]
    for one, other in zip(*(feed.epoch(1, 1) for feed in feeds), strict=True):
        assert torch.equal(one.inputs[0], other.inputs[0])
        assert torch.equal(one.labels, other.labels)


@pytest.mark.parametrize("shape", [(6, 3), (6, 3, 5)])
def test_arrays_that_are_no_pictures_are_normalised_by_their_first_axis(shape: tuple[int, ...]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    (batch,) = Feed.from_arrays(x, preprocessing=Preprocessing(kind="array", mean=MEAN, std=STD)).in_order()
    along = (3,) + (1,) * (len(shape) - 2)
    expected = (x - np.reshape(MEAN, along)) / np.reshape(STD, along)
    np.testing.assert_allclose(batch.inputs[0].numpy(), expected, atol=1e-5)


def test_byte_arrays_with_a_mean_are_scaled_and_keep_their_axes() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 5, 5), dtype=np.uint8)
    preprocessing = Preprocessing(kind="array", mean=MEAN, std=STD)
    (batch,) = Feed.from_arrays(pixels, preprocessing=preprocessing).in_order()
    expected = (pixels / 255 - np.array(MEAN)[:, None, None]) / np.array(STD)[:, None, None]
    np.testing.assert_allclose(batch.inputs[0].numpy(), expected, atol=1e-5)


def test_arrays_go_as_they_are_in_the_order_that_is_asked_for() -> None:
    arrays = {"mask": np.ones((3, 2), np.int64), "ids": np.arange(6).reshape(3, 2)}
    (batch,) = Feed.from_arrays(arrays, names=("ids", "mask")).in_order()
    assert [tensor.tolist() for tensor in batch.inputs] == [arrays["ids"].tolist(), arrays["mask"].tolist()]
    assert batch.inputs[0].dtype == torch.int64
    assert batch.labels is None


def test_an_input_that_is_not_there_is_named() -> None:
    with pytest.raises(DataError, match="expected: ids"):
        Feed.from_arrays({"x": np.zeros((2, 1))}, names=("ids",))


@pytest.mark.parametrize("labels", [np.arange(3), np.zeros(4), np.array([0, 1, -1, 0]), np.zeros((4, 1), int)])
def test_labels_that_do_not_fit_are_refused(labels) -> None:
    with pytest.raises(DataError):
        Feed.from_arrays(np.zeros((4, 2)), labels)


def test_no_samples_are_refused() -> None:
    with pytest.raises(DataError):
        Feed.from_arrays(np.zeros((0, 2)))
    empty = Dataset(numbered().rows, np.zeros(0, np.int64), None, (), ())  # type: ignore[arg-type] never read
    with pytest.raises(DataError, match="no samples"):
        Feed.from_dataset(empty)


def test_missing_labels_and_a_single_class_are_told_apart() -> None:
    with pytest.raises(DataError, match="distilled"):
        Feed.from_arrays(np.zeros((4, 2))).check_labels("training samples")
    with pytest.raises(DataError, match="one class only"):
        Feed.from_arrays(np.zeros((4, 2)), np.full(4, 2)).check_labels("training samples")


def test_only_pictures_are_augmented() -> None:
    with pytest.raises(UsageError, match="only pictures"):
        numbered(augment="flip")


def pictures(count: int = 64) -> torch.Tensor:
    return torch.randint(1, 255, (count, 9, 7, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def test_a_flip_mirrors_about_half_of_the_pictures_and_leaves_the_rest() -> None:
    before = pictures()
    after = augmented(before, "flip", torch.Generator().manual_seed(1))
    mirrored = [torch.equal(one, other.flip(1)) for one, other in zip(after, before, strict=True)]
    same = [torch.equal(one, other) for one, other in zip(after, before, strict=True)]
    assert all(a != b for a, b in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_a_crop_shifts_a_picture_or_its_mirror_by_at_most_four_and_fills_with_black(seed: int) -> None:
    before = pictures(8)
    after = augmented(before, "crop", torch.Generator().manual_seed(seed))
    assert after.shape == before.shape
    for one, picture in zip(after, before, strict=True):
        padded = torch.zeros(17, 15, 3, dtype=torch.uint8), torch.zeros(17, 15, 3, dtype=torch.uint8)
        padded[0][4:13, 4:11], padded[1][4:13, 4:11] = picture, picture.flip(1)
        crops = (side[top : top + 9, left : left + 7] for side in padded for top in range(9) for left in range(9))
        assert any(torch.equal(one, crop) for crop in crops)


def test_each_step_of_each_epoch_is_augmented_in_its_own_way() -> None:
    feed = Feed.from_arrays(pictures(4).permute(0, 3, 1, 2)).under(TrainSettings(batch=4, augment="crop"))
    first, again, second = (next(feed.epoch(number)).inputs[0] for number in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first.sum((1, 2, 3)).sort().values, second.sum((1, 2, 3)).sort().values)


def test_held_out_samples_are_not_augmented() -> None:
    images = pictures(4).permute(0, 3, 1, 2)
    feed = Feed.from_arrays(images).under(TrainSettings(batch=4, augment="crop"))
    assert torch.equal(next(feed.in_order()).inputs[0], images)


def test_an_example_has_as_many_rows_as_asked_even_of_one_sample() -> None:
    assert numbered(1).example(2)[0].tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize("row", [0, -1])
def test_the_fingerprint_tells_other_samples_of_the_same_number_apart(row: int) -> None:
    values = np.arange(300.0, dtype=np.float32).reshape(100, 3)
    first = Feed.from_arrays(values)
    assert Feed.from_arrays(values.copy()).fingerprint() == first.fingerprint()
    others = values.copy()
    others[row, 1] += 1
    assert Feed.from_arrays(others).fingerprint() != first.fingerprint()
    assert Feed.from_arrays(values[::-1]).fingerprint() != first.fingerprint()


def test_one_sample_has_a_fingerprint_too() -> None:
    assert Feed.from_arrays(np.ones((1, 2), np.float32)).fingerprint().startswith("1 samples")
