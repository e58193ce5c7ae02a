"""Gathering: every exit's logits for every sample."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgeexit.data import Dataset, open_files
from edgeexit.errors import DataError
from edgeexit_runtime import Cascade, gathering
from edgeexit_runtime.gathering import gather, open_for, within_memory
from runtime.cascades import F32, forward, write_tiny

N = 70
X = np.random.default_rng(2).standard_normal((N, 4)).astype(F32)
Y = np.arange(N) % 3


@pytest.fixture
def cascade(tmp_path: Path) -> Cascade:
    return Cascade.open(write_tiny(tmp_path / "tiny"))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    np.savez(tmp_path / "data.npz", x=X, y=Y)
    return tmp_path / "data.npz"


@pytest.fixture
def dataset(cascade: Cascade, archive: Path) -> Dataset:
    return open_for(cascade.manifest, archive, "data")


@pytest.mark.parametrize("batch", [1, 16, 500])
def test_the_logits_are_those_of_every_exit_with_nobody_leaving(cascade: Cascade, dataset: Dataset, batch: int) -> None:
    cached = gather(cascade, dataset, batch=batch, advance=lambda n=1: None)
    np.testing.assert_allclose(np.stack(cached.logits), forward(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(cached.labels, Y)


def test_progress_adds_up_to_the_samples(cascade: Cascade, dataset: Dataset) -> None:
    done: list[int] = []
    gather(cascade, dataset, batch=16, advance=lambda n=1: done.append(n))
    assert sum(done) == N


def test_the_whole_models_answers_are_labels_on_request(cascade: Cascade, dataset: Dataset) -> None:
    cached = gather(cascade, dataset, labels="model", advance=lambda n=1: None)
    np.testing.assert_array_equal(cached.labels, cached.logits[-1].argmax(axis=1))


def test_data_without_labels_will_do_where_the_model_gives_them(cascade: Cascade, tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=X)
    dataset = open_for(cascade.manifest, tmp_path / "unlabelled.npz", "model")
    assert gather(cascade, dataset, labels="model", advance=lambda n=1: None).samples == N


def test_pictures_in_one_folder_will_do_where_the_model_gives_the_labels(tmp_path: Path) -> None:
    cascade = Cascade.open(write_tiny(tmp_path / "tiny", pictures=True))
    (tmp_path / "pictures").mkdir()
    for i in range(12):
        pixels = np.random.default_rng(i).integers(0, 256, (8, 8), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{i}.png")
    dataset = open_for(cascade.manifest, tmp_path / "pictures", "model")
    assert gather(cascade, dataset, labels="model", advance=lambda n=1: None).samples == 12


def test_data_without_labels_are_refused_where_they_are_wanted(cascade: Cascade, archive: Path) -> None:
    dataset = open_files([archive], cascade.manifest.inputs, cascade.manifest.preprocessing)
    with pytest.raises(DataError, match=r"no labels(.|\n)*--labels model"):
        gather(cascade, dataset, advance=lambda n=1: None)


def test_no_samples_at_all_are_refused(cascade: Cascade, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="no samples"):
        gather(cascade, dataset.take([]), advance=lambda n=1: None)


def test_of_more_data_than_memory_allows_a_random_part_is_taken(
    cascade: Cascade, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert within_memory(dataset, cascade) is dataset
    monkeypatch.setattr(gathering, "MAX_BYTES", 20 * 4 * 3 * 3)
    part = within_memory(dataset, cascade)
    assert len(part) == 20
    assert len(set(part.names)) == 20
    assert list(part.names) != list(dataset.names)[:20]
