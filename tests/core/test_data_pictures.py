"""Image folders and picture files."""

from __future__ import annotations

import io
import os
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgeexit.data import Dataset, open_data, open_files, survey
from edgeexit.errors import DataError
from edgeexit.manifest import Preprocessing, TensorSpec

RED, BLUE = (200, 30, 10), (5, 40, 220)


def save(path: Path, size: tuple[int, int] = (6, 8), color: Any = RED, mode: str = "RGB") -> Path:
    """A picture of one colour; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (size[1], size[0]), color).save(path)
    return path


def spec(size: tuple[int, int] = (6, 8), channels: int = 3) -> tuple[TensorSpec, ...]:
    return (TensorSpec(name="image", dtype="uint8", shape=(*size, channels)),)


def rgb(size: tuple[int, int] = (6, 8), **options: Any) -> Preprocessing:
    return Preprocessing(kind="image", mode="RGB", size=size, **options)


def grey(size: tuple[int, int] = (6, 8)) -> Preprocessing:
    return Preprocessing(kind="image", mode="L", size=size)


def only(dataset: Dataset) -> NDArray[np.uint8]:
    """The only picture of a dataset."""
    (batch,) = dataset.batches(8)
    (picture,) = batch["image"]
    return picture


def noise(size: tuple[int, int], seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three classes, two pictures each."""
    for index, name in enumerate(["cat", "ant", "bee"]):
        save(tmp_path / "data" / name / "1.png", color=(index, 0, 0))
        save(tmp_path / "data" / name / "0.png", color=(index, 1, 0))
    return tmp_path / "data"


def test_pictures_come_class_by_class_in_sorted_order(folder: Path) -> None:
    dataset = open_data(folder, spec(), rgb())
    assert list(dataset.names) == ["ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png", "cat/0.png", "cat/1.png"]


def test_classes_are_the_sorted_subfolders(folder: Path) -> None:
    dataset = open_data(folder, spec(), rgb())
    assert dataset.class_names == ("ant", "bee", "cat")
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_labels_follow_the_class_names_that_are_given(folder: Path) -> None:
    dataset = open_data(folder, spec(), rgb(), class_names=["dog", "cat", "bee", "ant"])
    assert dataset.labels is not None
    assert dataset.labels.tolist() == [3, 3, 2, 2, 1, 1]
    assert dataset.class_names == ("dog", "cat", "bee", "ant")


def test_a_batch_holds_uint8_pixels_under_the_name_of_the_input(folder: Path) -> None:
    (batch,) = open_data(folder, spec(), rgb()).batches(6)
    assert list(batch) == ["image"]
    assert batch["image"].dtype == np.uint8
    assert batch["image"].shape == (6, 6, 8, 3)
    assert batch["image"][:, 0, 0].tolist() == [[1, 1, 0], [1, 0, 0], [2, 1, 0], [2, 0, 0], [0, 1, 0], [0, 0, 0]]


def test_pixels_are_those_that_were_stored(tmp_path: Path) -> None:
    pixels = noise((6, 8))
    Image.fromarray(pixels).save(tmp_path / "p.png")
    np.testing.assert_array_equal(only(open_files([tmp_path / "p.png"], spec(), rgb())), pixels)


def test_class_folders_may_have_subfolders(folder: Path) -> None:
    save(folder / "ant" / "more" / "2.png")
    assert list(open_data(folder, spec(), rgb()).names)[:3] == ["ant/0.png", "ant/1.png", "ant/more/2.png"]


@pytest.mark.parametrize("name", [".DS_Store", "Thumbs.db", "desktop.ini", ".hidden.png"])
def test_hidden_files_and_litter_are_ignored(folder: Path, name: str) -> None:
    (folder / name).write_bytes(b"not a picture")
    (folder / "ant" / name).write_bytes(b"not a picture")
    assert len(open_data(folder, spec(), rgb())) == 6


@pytest.mark.parametrize("suffix", ["jpg", "JPEG", "png", "bmp", "gif", "webp", "ppm", "tif"])
def test_common_formats_are_read(tmp_path: Path, suffix: str) -> None:
    path = save(tmp_path / f"p.{suffix}", color=(120, 120, 120))
    assert abs(only(open_files([path], spec(), rgb())).astype(int) - 120).max() <= 2


def test_a_grey_picture_fills_three_channels(tmp_path: Path) -> None:
    path = save(tmp_path / "p.png", mode="L", color=77)
    assert (only(open_files([path], spec(), rgb())) == 77).all()


def test_a_coloured_picture_becomes_grey_by_its_luma(tmp_path: Path) -> None:
    path = save(tmp_path / "p.png", color=RED)
    picture = only(open_files([path], spec(channels=1), grey()))
    assert picture.shape == (6, 8, 1)
    assert abs(int(picture[0, 0, 0]) - (0.299 * RED[0] + 0.587 * RED[1] + 0.114 * RED[2])) <= 1


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_palettes_alpha_and_print_colours_are_converted(tmp_path: Path, mode: str) -> None:
    picture = Image.new("RGB", (8, 6), BLUE)
    picture = picture.quantize() if mode == "P" else picture.convert(mode)
    path = tmp_path / ("p.tif" if mode == "CMYK" else "p.png")
    picture.save(path)
    assert abs(only(open_files([path], spec(), rgb())).astype(int) - BLUE).max() <= 2


def test_a_palette_with_transparency_is_converted_without_a_warning(tmp_path: Path) -> None:
    Image.new("RGB", (8, 6), BLUE).convert("P").save(tmp_path / "p.png", transparency=b"\x00\x80")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert only(open_files([tmp_path / "p.png"], spec(), rgb())).shape == (6, 8, 3)


def test_exif_orientation_is_left_alone(tmp_path: Path) -> None:
    pixels = noise((6, 8))
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "p.png", exif=exif)
    np.testing.assert_array_equal(only(open_files([tmp_path / "p.png"], spec(), rgb())), pixels)


def test_crop_takes_the_centre_of_a_wide_picture(tmp_path: Path) -> None:
    picture = Image.new("RGB", (30, 10), RED)
    picture.paste(BLUE, (10, 0, 20, 10))
    picture.save(tmp_path / "p.png")
    cropped = only(open_files([tmp_path / "p.png"], spec((10, 10)), rgb((10, 10), resize="crop")))
    assert (cropped == BLUE).all()


def test_crop_equals_scaling_the_shorter_side_and_cutting_the_centre(tmp_path: Path) -> None:
    picture = Image.fromarray(noise((80, 40)))
    picture.save(tmp_path / "p.png")
    wanted = np.asarray(picture.resize((10, 20), Image.Resampling.BILINEAR).crop((0, 5, 10, 15)))
    cropped = only(open_files([tmp_path / "p.png"], spec((10, 10)), rgb((10, 10), resize="crop")))
    assert abs(cropped.astype(int) - wanted).max() <= 1


def test_crop_leaves_a_picture_of_the_right_size_as_it_is(tmp_path: Path) -> None:
    pixels = noise((6, 8))
    Image.fromarray(pixels).save(tmp_path / "p.png")
    np.testing.assert_array_equal(only(open_files([tmp_path / "p.png"], spec(), rgb(resize="crop"))), pixels)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=40)
@given(height=st.integers(1, 50), width=st.integers(1, 50), wanted=st.tuples(st.integers(1, 20), st.integers(1, 20)))
def test_crop_gives_the_wanted_size_and_keeps_a_plain_colour(
    tmp_path: Path, height: int, width: int, wanted: tuple[int, int]
) -> None:
    path = save(tmp_path / "p.png", size=(height, width))
    cropped = only(open_files([path], spec(wanted), rgb(wanted, resize="crop")))
    assert cropped.shape == (*wanted, 3)
    assert (cropped == RED).all()


def test_a_picture_of_the_wrong_size_is_named_with_both_sizes_and_the_remedy(folder: Path) -> None:
    save(folder / "bee" / "2.png", size=(7, 9))
    dataset = open_data(folder, spec(), rgb())
    with pytest.raises(DataError) as caught:
        list(dataset.batches(4))
    assert str(folder / "bee" / "2.png") in str(caught.value)
    assert "7 x 9" in str(caught.value.got)
    assert "6 x 8" in str(caught.value.expected)
    assert "--resize crop" in str(caught.value.remedy)


def truncate(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("damage", [truncate, lambda _: b"", lambda _: b"<html>404</html>", lambda data: data[:20]])
def test_a_damaged_picture_is_named_when_it_is_read(folder: Path, damage: Callable[[bytes], bytes]) -> None:
    path = folder / "bee" / "0.png"
    Image.fromarray(noise((6, 8))).save(path)
    path.write_bytes(damage(path.read_bytes()))
    dataset = open_data(folder, spec(), rgb())
    with pytest.raises(DataError, match=re.escape(str(path))):
        list(dataset.batches(4))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data(), kind=st.sampled_from(["png", "jpeg", "gif", "bmp", "tiff", "webp", "ppm"]))
def test_damaged_bytes_raise_nothing_but_data_errors(tmp_path: Path, data: st.DataObject, kind: str) -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise((6, 8))).save(buffer, kind)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 8))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / f"p.{kind}"
    path.write_bytes(damaged)
    dataset = open_files([path], spec(), rgb())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            outcome = f"{path} is {only(dataset).shape}"
        except DataError as error:
            outcome = str(error)
    assert str(path) in outcome


def test_a_decompression_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1_000_000))
    path = tmp_path / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    with pytest.raises(DataError, match=r"bomb\.png"):
        only(open_files([path], spec(), rgb(resize="crop")))


def test_a_picture_with_more_pixels_than_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeexit.data.pictures.MAX_PIXELS", 47)
    path = save(tmp_path / "p.png")
    with pytest.raises(DataError, match="too large"):
        only(open_files([path], spec(), rgb()))


def test_a_picture_with_16_bits_is_refused_rather_than_clipped(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.fromarray(np.full((6, 8), 40_000, dtype=np.uint16)).save(path)
    with pytest.raises(DataError, match="8 bits"):
        only(open_files([path], spec(channels=1), grey()))


def test_a_file_that_is_not_a_picture_is_refused_at_once(folder: Path) -> None:
    path = folder / "bee" / "readme.txt"
    path.write_text("hello")
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_data(folder, spec(), rgb())


def test_a_format_that_runs_a_program_is_refused_under_any_name(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    Image.new("RGB", (8, 6)).save(path, "EPS")
    with pytest.raises(DataError, match=re.escape(str(path))):
        only(open_files([path], spec(), rgb()))


def test_a_picture_beside_the_class_folders_is_refused(folder: Path) -> None:
    path = save(folder / "stray.png")
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_data(folder, spec(), rgb())


def test_a_folder_of_one_class_is_refused(tmp_path: Path) -> None:
    save(tmp_path / "cat" / "0.png")
    with pytest.raises(DataError, match="one class") as caught:
        open_data(tmp_path, spec(), rgb())
    assert str(tmp_path) in str(caught.value)


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures") as caught:
        open_data(tmp_path, spec(), rgb())
    assert str(tmp_path) in str(caught.value)


def test_a_class_without_pictures_is_named(folder: Path) -> None:
    (folder / "dog").mkdir()
    with pytest.raises(DataError, match="no pictures") as caught:
        open_data(folder, spec(), rgb())
    assert str(folder / "dog") in str(caught.value)


def test_a_class_that_the_model_does_not_know_is_named(folder: Path) -> None:
    with pytest.raises(DataError, match="not a class") as caught:
        open_data(folder, spec(), rgb(), class_names=["ant", "cat"])
    assert str(folder / "bee") in str(caught.value)


def test_a_path_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist") as caught:
        open_data(tmp_path / "nowhere", spec(), rgb())
    assert str(tmp_path / "nowhere") in str(caught.value)


def test_a_broken_link_is_named(folder: Path) -> None:
    (folder / "ant" / "2.png").symlink_to("nowhere.png")
    with pytest.raises(DataError, match=re.escape(str(folder / "ant" / "2.png"))):
        open_data(folder, spec(), rgb())


def test_a_link_that_leads_back_is_named(folder: Path) -> None:
    (folder / "ant" / "again").symlink_to(folder, target_is_directory=True)
    with pytest.raises(DataError, match="leads back"):
        open_data(folder, spec(), rgb())


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_named_pipe_is_refused_and_not_waited_for(folder: Path) -> None:
    os.mkfifo(folder / "ant" / "2.png")
    with pytest.raises(DataError, match="not a picture"):
        open_data(folder, spec(), rgb())


def test_pictures_for_a_model_that_takes_floats_are_refused_with_the_remedy(folder: Path) -> None:
    inputs = (TensorSpec(name="image", dtype="float32", shape=(3, 6, 8)),)
    with pytest.raises(DataError, match=re.escape(str(folder))) as caught:
        open_data(folder, inputs, rgb())
    assert "--mean" in str(caught.value.remedy)


def test_pictures_for_a_model_that_takes_arrays_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="takes arrays"):
        open_data(folder, spec(), Preprocessing(kind="array"))


def test_pictures_for_a_model_of_two_inputs_are_refused(folder: Path) -> None:
    with pytest.raises(DataError, match="do not fit"):
        open_data(folder, (*spec(), TensorSpec(name="mask", dtype="bool", shape=(6, 8))), rgb())


def test_a_survey_tells_classes_count_size_and_mode(folder: Path) -> None:
    found = survey(folder)
    assert (found.kind, found.class_names, found.count) == ("image", ("ant", "bee", "cat"), 6)
    assert (found.size, found.mode) == ((6, 8), "RGB")


@pytest.mark.parametrize(("mode", "suggested"), [("L", "L"), ("1", "L"), ("LA", "L"), ("P", "RGB"), ("RGBA", "RGB")])
def test_a_survey_suggests_the_mode_that_suits_the_first_picture(tmp_path: Path, mode: str, suggested: str) -> None:
    save(tmp_path / "a" / "0.png", mode=mode, color=0 if mode in ("1", "L", "P") else None)
    assert survey(tmp_path).mode == suggested


def test_a_survey_of_a_damaged_picture_names_it(tmp_path: Path) -> None:
    path = save(tmp_path / "a" / "0.png")
    path.write_bytes(b"junk")
    with pytest.raises(DataError, match=re.escape(str(path))):
        survey(tmp_path)


def test_files_to_run_may_lie_at_any_depth_and_keep_the_path_as_given(folder: Path) -> None:
    save(folder / "top.png")
    dataset = open_files([folder / "cat", folder / "top.png", folder], spec(), rgb())
    assert list(dataset.names)[:4] == [
        f"{folder}/cat/0.png",
        f"{folder}/cat/1.png",
        f"{folder}/top.png",
        f"{folder}/ant/0.png",
    ]
    assert len(dataset) == 2 + 1 + 7


def test_files_to_run_have_no_labels(folder: Path) -> None:
    dataset = open_files([folder], spec(), rgb())
    assert dataset.labels is None
    assert dataset.class_names == ()


def test_pictures_and_archives_can_be_run_together(folder: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "more.npz", x=np.full((2, 6, 8, 3), 9, dtype=np.uint8))
    dataset = open_files([folder / "ant", tmp_path / "more.npz"], spec(), rgb())
    assert list(dataset.names)[2:] == [f"{tmp_path}/more.npz[0]", f"{tmp_path}/more.npz[1]"]
    pixels = np.concatenate([batch["image"] for batch in dataset.batches(3)])
    assert pixels[:, 0, 0].tolist() == [[1, 1, 0], [1, 0, 0], [9, 9, 9], [9, 9, 9]]


def test_an_empty_folder_to_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no pictures"):
        open_files([tmp_path], spec(), rgb())


def test_no_paths_to_run_are_refused() -> None:
    with pytest.raises(DataError, match="no data"):
        open_files([], spec(), rgb())


def test_unlabelled_pictures_may_lie_anywhere(tmp_path: Path) -> None:
    save(tmp_path / "a.png", (6, 8))
    save(tmp_path / "deep" / "er" / "b.png", (6, 8))
    found = survey(tmp_path, labelled=False)
    assert (found.kind, found.count, found.size, found.mode, found.class_names) == ("image", 2, (6, 8), "RGB", ())


def test_subfolders_of_unlabelled_pictures_may_stand_for_classes(folder: Path) -> None:
    assert survey(folder, labelled=False).class_names == survey(folder).class_names


def test_an_unlabelled_folder_without_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no pictures"):
        survey(tmp_path, labelled=False)


def test_a_picture_beside_class_folders_is_told_what_needs_no_classes(folder: Path) -> None:
    save(folder / "stray.png")
    with pytest.raises(DataError, match="--labels model"):
        survey(folder)
