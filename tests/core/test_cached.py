"""Cached logits: what can be fitted on, and what is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from core.logits import drawn
from edgeexit.cached import CachedLogits
from edgeexit.errors import DataError

DATA = drawn(60)


def with_logit(value: float, exit_index: int = 1, row: int = 7) -> CachedLogits:
    logits = [values.copy() for values in DATA.logits]
    logits[exit_index][row, 2] = value
    return CachedLogits(tuple(logits), DATA.labels)


def with_labels(alter: Callable[[np.ndarray], object]) -> CachedLogits:
    labels = DATA.labels.copy()
    alter(labels)
    return CachedLogits(DATA.logits, labels)


def test_good_logits_are_accepted() -> None:
    DATA.check()


def test_the_sizes_are_those_of_the_arrays() -> None:
    assert (DATA.samples, DATA.exits, DATA.classes) == (60, 3, 4)


@pytest.mark.parametrize(
    "chosen", [np.array([5, 2]), np.isin(np.arange(60), [2, 5])], ids=["positions", "truth values"]
)
def test_some_rows_keep_their_labels(chosen: np.ndarray) -> None:
    some = DATA.rows(chosen)
    np.testing.assert_array_equal(some.labels, DATA.labels[chosen])
    for part, values in zip(some.logits, DATA.logits, strict=True):
        np.testing.assert_array_equal(part, values[chosen])


def test_the_models_own_labels_are_what_the_last_exit_answers() -> None:
    np.testing.assert_array_equal(DATA.labelled_by_the_model().labels, DATA.logits[-1].argmax(axis=1))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_logit_that_is_not_finite_is_refused_by_exit_and_row(value: float) -> None:
    with pytest.raises(DataError, match="exit 1 gives a logit that is not finite for sample 7"):
        with_logit(value).check()


@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_out_of_range_is_refused_with_its_sample(label: int) -> None:
    with pytest.raises(DataError, match=r"the label of sample 9 is out of range(.|\n)*0 to 3"):
        with_labels(lambda labels: labels.__setitem__(9, label)).check()


@pytest.mark.parametrize("samples", [1, 9])
def test_too_few_samples_are_refused(samples: int) -> None:
    with pytest.raises(DataError, match=rf"too few samples(.|\n)*got: {samples}"):
        DATA.rows(np.arange(samples)).check()


def test_a_class_without_samples_is_refused_by_name() -> None:
    with pytest.raises(DataError, match=r"a class has no sample(.|\n)*none of cedar"):
        DATA.rows(DATA.labels != 2).check(["ash", "birch", "cedar", "elm"])


def test_several_classes_without_samples_are_counted() -> None:
    with pytest.raises(DataError, match=r"2 classes have no sample(.|\n)*none of 2, 3"):
        DATA.rows(DATA.labels < 2).check()


def test_the_models_own_labels_need_not_name_every_class() -> None:
    DATA.rows(DATA.labels != 2).check(every_class=False)


def test_exits_that_disagree_on_the_samples_are_refused() -> None:
    with pytest.raises(DataError, match="differ in shape"):
        CachedLogits((DATA.logits[0], DATA.logits[1][:-1]), DATA.labels).check()


@pytest.mark.parametrize(
    "logits", [(), (np.zeros((60, 1), np.float32),), (np.zeros(60, np.float32),)], ids=["none", "one class", "one axis"]
)
def test_what_is_no_logits_is_refused(logits: tuple[np.ndarray, ...]) -> None:
    with pytest.raises(DataError, match="no logits"):
        CachedLogits(logits, DATA.labels).check()


@pytest.mark.parametrize("labels", [DATA.labels[:-1], DATA.labels.astype(np.float64), DATA.labels[:, None]])
def test_labels_that_do_not_go_with_the_logits_are_refused(labels: np.ndarray) -> None:
    with pytest.raises(DataError, match="the labels do not fit"):
        CachedLogits(DATA.logits, labels).check()
