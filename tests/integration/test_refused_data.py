"""Data that cannot be used end an export or an evaluation with exit code 4 and the path, and nothing is written."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.bundles import snapshot
from integration.material import LABELS, NORMALISE, normalised, pictures, save_arrays, save_folder

Cli = Callable[..., Any]
Fails = Callable[[Path, str], None]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pixels, labels = pictures(40, 5)
    return save_folder(tmp_path / "data", pixels, labels)


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    pixels, labels = pictures(40, 5)
    return save_arrays(tmp_path / "data.npz", x=normalised(pixels), y=labels)


@pytest.fixture(params=["export", "export --calibration", "eval"])
def fails(
    request: pytest.FixtureRequest, cli: Cli, world: Path, exported: Callable[..., Path], tmp_path: Path
) -> Callable[..., None]:
    """Give data to a command and see it refused with exit code 4."""

    def check(data: Path, named: str, *, kind: str = "pictures") -> None:
        if request.param == "eval":
            arguments = ["eval", exported("plain.onnx", "--exits", "2", kind=kind), "--data", data]
        else:
            arguments = ["export", world / "plain.onnx", "--exits", "2", "--quiet", "-o", tmp_path / "out"]
            arguments += NORMALISE if kind == "pictures" else []
            good = world / ("train" if kind == "pictures" else "train.npz")
            is_calibration = request.param.endswith("--calibration")
            arguments += ["--data", good, "--calibration", data] if is_calibration else ["--data", data]
        _refused(cli, tmp_path, arguments, named)

    return check


@pytest.fixture
def export_fails(cli: Cli, tmp_path: Path) -> Callable[..., None]:
    """Export with these arguments and see it refused with exit code 4."""

    def check(named: str, *arguments: object) -> None:
        _refused(cli, tmp_path, ["export", *arguments, "--quiet", "-o", tmp_path / "out"], named)

    return check


def _refused(cli: Cli, folder: Path, arguments: list[Any], named: str) -> None:
    before = snapshot(folder)
    outcome = cli(*arguments)
    assert (outcome.code, outcome.stdout) == (4, ""), outcome.stderr
    _, found, message = outcome.stderr.partition("error: ")
    assert found
    assert named in message
    assert "Traceback" not in message
    assert snapshot(folder) == before
    assert not (folder / "out").exists()


def test_an_unreadable_picture_is_named(fails: Fails, folder: Path) -> None:
    victim = folder / "elm" / "0003.png"
    victim.write_bytes(victim.read_bytes()[:60])
    fails(folder, str(victim))


def test_a_picture_that_is_something_else_is_named(fails: Fails, folder: Path) -> None:
    (folder / "ash" / "zebra.jpg").write_bytes(b"GIF? no: nothing at all")
    fails(folder, str(folder / "ash" / "zebra.jpg"))


def test_an_empty_picture_file_is_named(fails: Fails, folder: Path) -> None:
    (folder / "oak" / "empty.png").touch()
    fails(folder, str(folder / "oak" / "empty.png"))


def test_a_picture_of_another_size_is_named(fails: Fails, folder: Path) -> None:
    Image.new("RGB", (8, 9)).save(folder / "oak" / "tall.png")
    fails(folder, str(folder / "oak" / "tall.png"))


def test_pictures_that_are_all_of_another_size_are_refused_with_their_folder(fails: Fails, tmp_path: Path) -> None:
    pixels, labels = pictures(40, 5)
    folder = save_folder(tmp_path / "data", pixels[:, :7], labels)
    fails(folder, str(folder))


def test_a_file_that_is_no_picture_is_named(fails: Fails, folder: Path) -> None:
    (folder / "oak" / "notes.txt").write_text("oaks")
    fails(folder, str(folder / "oak" / "notes.txt"))


def test_a_picture_beside_the_class_folders_is_named(fails: Fails, folder: Path) -> None:
    shutil.copy(folder / "ash" / "0000.png", folder / "stray.png")
    fails(folder, str(folder / "stray.png"))


def test_litter_of_file_managers_is_left_alone(cli: Cli, folder: Path, exported: Callable[..., Path]) -> None:
    (folder / ".DS_Store").touch()
    (folder / "ash" / "Thumbs.db").touch()
    assert cli("eval", exported("plain.onnx", "--exits", "2"), "--data", folder).code == 0


def test_one_class_is_refused(fails: Fails, folder: Path) -> None:
    for name in LABELS[1:]:
        shutil.rmtree(folder / name)
    fails(folder, str(folder))


def test_no_pictures_are_refused(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fails(tmp_path / "empty", str(tmp_path / "empty"))


def test_a_class_without_pictures_is_named(fails: Fails, folder: Path) -> None:
    shutil.rmtree(folder / "cedar")
    (folder / "cedar").mkdir()
    fails(folder, str(folder / "cedar"))


def test_a_folder_that_does_not_exist_is_named(fails: Fails, tmp_path: Path) -> None:
    fails(tmp_path / "nowhere", str(tmp_path / "nowhere"))


def test_a_file_that_is_no_data_set_is_named(fails: Fails, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_text("1,2,3")
    fails(tmp_path / "data.csv", str(tmp_path / "data.csv"))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_is_named(fails: Callable[..., None], archive: Path, value: float) -> None:
    arrays = dict(np.load(archive))
    arrays["x"][7, 1, 2, 3] = value
    save_arrays(archive, **arrays)
    fails(archive, f"{archive}: x[7, 1, 2, 3]", kind="arrays")


def test_pixels_as_bytes_for_a_model_of_floats_are_refused(fails: Callable[..., None], archive: Path) -> None:
    arrays = dict(np.load(archive))
    save_arrays(archive, x=arrays["x"].astype(np.uint8), y=arrays["y"])
    fails(archive, f"{archive}: x has the wrong dtype", kind="arrays")


def test_objects_are_never_unpickled(fails: Callable[..., None], archive: Path) -> None:
    arrays = dict(np.load(archive))
    save_arrays(archive, x=arrays["x"], y=arrays["y"].astype(object))
    fails(archive, str(archive), kind="arrays")


@pytest.mark.parametrize("label", [-1, 5, 2**40])
def test_a_label_out_of_range_is_named(fails: Callable[..., None], archive: Path, label: int) -> None:
    arrays = dict(np.load(archive))
    arrays["y"][11] = label
    save_arrays(archive, **arrays)
    fails(archive, str(archive), kind="arrays")


def test_one_class_in_an_archive_is_refused(fails: Callable[..., None], archive: Path) -> None:
    arrays = dict(np.load(archive))
    save_arrays(archive, x=arrays["x"], y=np.zeros_like(arrays["y"]))
    fails(archive, str(archive), kind="arrays")


def test_arrays_of_different_lengths_are_refused(fails: Callable[..., None], archive: Path) -> None:
    arrays = dict(np.load(archive))
    save_arrays(archive, x=arrays["x"], y=arrays["y"][:-1])
    fails(archive, str(archive), kind="arrays")


def test_arrays_of_another_shape_are_refused(fails: Callable[..., None], archive: Path) -> None:
    arrays = dict(np.load(archive))
    save_arrays(archive, x=arrays["x"].transpose(0, 2, 3, 1), y=arrays["y"])
    fails(archive, str(archive), kind="arrays")


@pytest.mark.parametrize("missing", ["x", "y"])
def test_a_missing_array_is_named(fails: Callable[..., None], archive: Path, missing: str) -> None:
    arrays = dict(np.load(archive))
    del arrays[missing]
    save_arrays(archive, **arrays)
    fails(archive, str(archive), kind="arrays")


def test_a_truncated_archive_is_named(fails: Callable[..., None], archive: Path) -> None:
    archive.write_bytes(archive.read_bytes()[:-100])
    fails(archive, str(archive), kind="arrays")


def test_a_damaged_archive_is_named(fails: Callable[..., None], archive: Path) -> None:
    data = bytearray(archive.read_bytes())
    data[len(data) // 2] ^= 0x40
    archive.write_bytes(data)
    fails(archive, str(archive), kind="arrays")


def test_a_class_that_the_model_does_not_know_is_named(fails: Fails, folder: Path) -> None:
    shutil.copytree(folder / "oak", folder / "pine")
    fails(folder, str(folder))


def test_fewer_classes_than_the_model_are_refused(export_fails: Callable[..., None], folder: Path, world: Path) -> None:
    shutil.rmtree(folder / "oak")
    export_fails(str(folder), world / "plain.onnx", "--data", folder, *NORMALISE)


def test_a_label_that_no_sample_has_is_refused(export_fails: Callable[..., None], archive: Path, world: Path) -> None:
    arrays = dict(np.load(archive))
    arrays["y"][arrays["y"] == 4] = 3
    save_arrays(archive, **arrays)
    export_fails(str(archive), world / "plain.onnx", "--data", archive)


def test_pictures_for_a_model_of_sentences_are_refused(
    export_fails: Callable[..., None], folder: Path, world: Path
) -> None:
    export_fails(str(folder), world / "text.onnx", "--data", folder)


def test_pictures_are_refused_by_a_bundle_that_takes_arrays(
    cli: Cli, exported: Callable[..., Path], folder: Path
) -> None:
    outcome = cli("eval", exported("plain.onnx", "--exits", "2", kind="arrays"), "--data", folder)
    assert outcome.code == 4
    assert str(folder) in outcome.stderr


def test_arrays_that_lack_an_input_of_the_model_are_refused(
    export_fails: Callable[..., None], world: Path, tmp_path: Path
) -> None:
    arrays = dict(np.load(world / "train-text.npz"))
    del arrays["attention_mask"]
    data = save_arrays(tmp_path / "half.npz", **arrays)
    export_fails("attention_mask", world / "text.onnx", "--data", data)
    export_fails(str(data), world / "text.onnx", "--data", data)


def test_run_refuses_what_it_cannot_read(cli: Cli, exported: Callable[..., Path], folder: Path) -> None:
    victim = folder / "elm" / "0003.png"
    victim.write_bytes(b"nothing")
    outcome = cli("run", exported("plain.onnx", "--exits", "2"), folder)
    assert outcome.code == 4
    assert str(victim) in outcome.stderr
