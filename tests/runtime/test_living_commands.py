"""`edgeexit update`, `install`, `rollback` and `drift`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.bundles import rewrite_manifest, snapshot
from edgeexit.bundle import Bundle, write_bundle
from edgeexit_runtime import Cascade
from runtime.cascades import COMMANDS
from runtime.living import dim, open_living, usual, write_living

Cli = Callable[..., Any]


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return write_living(tmp_path / "bundle.eexit")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x, y = dim(200, 91)
    np.savez(tmp_path / "new.npz", x=x, y=y)
    return tmp_path / "new.npz"


@pytest.fixture
def edgeexit(cli: Cli) -> Cli:
    return lambda *arguments: cli(*arguments, commands=COMMANDS)


def accuracies(path: Path, n: int = 400) -> np.ndarray:
    x, y = dim(n, 95)
    return np.asarray((Cascade.open(path).logits(x).argmax(axis=2) == y).mean(axis=1))


def test_update_writes_a_bundle_whose_exits_know_the_new_samples(
    edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path
) -> None:
    done = edgeexit("update", bundle, "--data", data, "-o", tmp_path / "updated.eexit")
    assert done.code == 0
    assert "200 new samples" in done.stdout
    assert "edgeexit tune" in done.stderr
    assert (accuracies(tmp_path / "updated.eexit")[:2] > accuracies(bundle)[:2] + 0.05).all()
    assert edgeexit("verify", tmp_path / "updated.eexit").code == 0


def test_the_document_of_update_says_what_the_exits_knew_before(
    edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path
) -> None:
    document = edgeexit("update", bundle, "--data", data, "-o", tmp_path / "out", "--json").document()
    assert list(document) == ["bundle", "samples", "forget", "labels", "exits"]
    assert document["samples"] == 200
    assert [e["updated"] for e in document["exits"]] == [True, True, False]
    x, y = dim(200, 91)
    expected = (Cascade.open(bundle).logits(x).argmax(axis=2) == y).mean(axis=1)
    assert [e["accuracy_before"] for e in document["exits"]] == pytest.approx(expected.tolist())


def test_the_models_answers_are_labels_enough(edgeexit: Cli, bundle: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "unlabelled.npz", x=dim(200, 91)[0])
    arguments = ("update", bundle, "--data", tmp_path / "unlabelled.npz", "--labels", "model", "--json")
    document = edgeexit(*arguments, "-o", tmp_path / "out").document()
    assert document["exits"][-1]["accuracy_before"] == 1
    x = dim(400, 95)[0]

    def agreement(path: Path) -> np.ndarray:
        found = Cascade.open(path).logits(x).argmax(axis=2)
        return np.asarray((found == found[-1]).mean(axis=1))

    assert (agreement(tmp_path / "out")[:2] > agreement(bundle)[:2]).all()


def test_the_size_of_batches_changes_next_to_nothing(edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path) -> None:
    for batch in (7, 200):
        edgeexit("update", bundle, "--data", data, "--batch", batch, "-o", tmp_path / f"{batch}")
    one, other = (Bundle.open(tmp_path / f"{batch}").exits for batch in (7, 200))
    for name, array in one.items():
        np.testing.assert_allclose(array, other[name], rtol=1e-3, atol=1e-3 * np.abs(array).max())


def bad_data(tmp_path: Path, kind: str) -> Path:
    x, y = usual(20, 5)
    if kind == "an unknown class":
        picture = Image.fromarray(np.zeros((8, 8, 3), np.uint8))
        for name in ("0", "1", "stranger"):
            (tmp_path / "folder" / name).mkdir(parents=True)
            picture.save(tmp_path / "folder" / name / "a.png")
        return tmp_path / "folder"
    arrays = {
        "a label out of range": {"x": x, "y": y + 1},
        "no labels": {"x": x},
        "no samples": {"x": x[:0], "y": y[:0]},
        "NaN": {"x": np.where(x == x[3, 0, 0, 0], np.nan, x), "y": y},
        "another shape": {"x": x[:, :, :4], "y": y},
    }
    np.savez(tmp_path / "bad.npz", **arrays[kind])
    return tmp_path / "bad.npz"


@pytest.mark.parametrize(
    "kind", ["an unknown class", "a label out of range", "no labels", "no samples", "NaN", "another shape"]
)
def test_bad_data_end_update_with_exit_code_4_and_no_bundle(
    edgeexit: Cli, bundle: Path, tmp_path: Path, kind: str
) -> None:
    done = edgeexit("update", bundle, "--data", bad_data(tmp_path, kind), "-o", tmp_path / "out")
    assert (done.code, done.stdout) == (4, "")
    assert not (tmp_path / "out").exists()


def test_a_bundle_that_was_not_exported_to_be_updated_ends_with_exit_code_2(
    edgeexit: Cli, data: Path, tmp_path: Path
) -> None:
    plain = write_living(tmp_path / "plain.eexit", updatable=False)
    done = edgeexit("update", plain, "--data", data, "-o", tmp_path / "out")
    assert done.code == 2
    assert "--updatable" in done.stderr


def test_update_does_not_replace_the_bundle_it_starts_from(edgeexit: Cli, bundle: Path, data: Path) -> None:
    before = bundle.read_bytes()
    done = edgeexit("update", bundle, "--data", data, "-o", bundle)
    assert done.code == 2
    assert "edgeexit install" in done.stderr
    assert bundle.read_bytes() == before


def test_install_and_rollback_go_forth_and_back(edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path) -> None:
    folder, updated = tmp_path / "bundles", tmp_path / "updated.eexit"
    assert edgeexit("install", bundle, folder).code == 0
    assert edgeexit("update", folder / "current", "--data", data, "-o", updated).code == 0
    document = edgeexit("install", updated, folder, "--json").document()
    assert [Path(path).name for path in document["generations"]] == ["000001.eexit", "000002.eexit"]
    assert (folder / "current").read_bytes() == updated.read_bytes()
    assert edgeexit("verify", folder / "current").code == 0
    document = edgeexit("rollback", folder, "--json").document()
    assert [Path(document[key]).name for key in ("left", "current")] == ["000002.eexit", "000001.eexit"]
    assert (folder / "current").read_bytes() == bundle.read_bytes()
    assert edgeexit("rollback", folder).code == 2


def test_a_folder_bundle_is_installed_as_well(edgeexit: Cli, bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    write_bundle(tmp_path / "folder", opened.manifest, opened.contents)
    assert edgeexit("install", tmp_path / "folder", tmp_path / "bundles").code == 0
    assert (tmp_path / "bundles" / "current").read_bytes() == bundle.read_bytes()


def test_a_bundle_that_answers_otherwise_here_is_not_installed(edgeexit: Cli, bundle: Path, tmp_path: Path) -> None:
    opened = Bundle.open(bundle)
    folder, bundles = tmp_path / "folder", tmp_path / "bundles"
    edgeexit("install", bundle, bundles)
    write_bundle(folder, opened.manifest, opened.contents)

    def lower(document: Any) -> None:
        document["exits"][0]["threshold"] = -1e30  # everybody leaves there

    rewrite_manifest(folder, lower)
    before = snapshot(bundles)
    assert edgeexit("install", folder, bundles).code == 3
    assert snapshot(bundles) == before


def test_rollback_of_no_folder_of_bundles_ends_with_exit_code_2(edgeexit: Cli, tmp_path: Path) -> None:
    done = edgeexit("rollback", tmp_path)
    assert done.code == 2
    assert "edgeexit install" in done.stderr


def test_drift_needs_no_labels_and_is_steady_on_samples_of_the_same_kind(
    edgeexit: Cli, bundle: Path, tmp_path: Path
) -> None:
    np.savez(tmp_path / "today.npz", x=usual(300, 44)[0])
    document = edgeexit("drift", bundle, "--data", tmp_path / "today.npz", "--fail", "--json").document()
    assert document["verdict"] == "steady"
    assert document["samples"] == 300
    assert [entry["name"] for entry in document["exits"]] == [e.name for e in Bundle.open(bundle).manifest.exits]
    assert 3 < document["audit"]["samples"] < 40


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--fail",), 7)])
def test_drift_says_what_has_changed_and_fails_only_if_asked(
    edgeexit: Cli, bundle: Path, data: Path, options: tuple[str, ...], code: int
) -> None:
    done = edgeexit("drift", bundle, "--data", data, "--audit", 0.5, *options)
    assert done.code == code
    assert "have changed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("drifting")


def test_drift_is_the_same_whatever_the_batches_are(edgeexit: Cli, bundle: Path, data: Path) -> None:
    documents = [
        edgeexit("drift", bundle, "--data", data, "--batch", n, "--audit", 0, "--json").document() for n in (1, 64)
    ]
    assert documents[0]["verdict"] == documents[1]["verdict"]
    assert [e["samples"] for e in documents[0]["exits"]] == [e["samples"] for e in documents[1]["exits"]]


def test_after_an_update_drift_asks_for_tuning(edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path) -> None:
    edgeexit("update", bundle, "--data", data, "-o", tmp_path / "updated")
    done = edgeexit("drift", tmp_path / "updated", "--data", data)
    assert done.code == 2
    assert "edgeexit tune" in done.stderr


def test_update_tune_drift_go_round(edgeexit: Cli, bundle: Path, data: Path, tmp_path: Path) -> None:
    x, y = dim(400, 96)
    np.savez(tmp_path / "more.npz", x=x, y=y)
    edgeexit("update", bundle, "--data", data, "-o", tmp_path / "updated")
    tuned = tmp_path / "tuned"
    assert (
        edgeexit("tune", tmp_path / "updated", "--data", tmp_path / "more.npz", "--max-drop", 0.05, "-o", tuned).code
        == 0
    )
    assert edgeexit("update", tuned, "--data", tmp_path / "more.npz", "-o", tmp_path / "again").code == 0
    np.savez(tmp_path / "today.npz", x=dim(300, 97)[0])
    assert edgeexit("drift", tuned, "--data", tmp_path / "today.npz", "--json").document()["verdict"] == "steady"


def test_class_means_are_updated_from_the_command_line_too(edgeexit: Cli, data: Path, tmp_path: Path) -> None:
    bundle = open_living(tmp_path, "class-means").path
    assert edgeexit("update", bundle, "--data", data, "--forget", 0.9, "-o", tmp_path / "updated").code == 0
    assert (accuracies(tmp_path / "updated")[:2] > accuracies(bundle)[:2]).all()
