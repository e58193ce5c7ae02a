"""Arrays in `.npz` archives."""

from __future__ import annotations

import contextlib
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgeexit.data import Dataset, open_data, open_files, survey
from edgeexit.errors import DataError
from edgeexit.manifest import Preprocessing, TensorSpec

ARRAYS = Preprocessing(kind="array")
LABELS = np.array([0, 2, 1, 0])

Save = Callable[..., Path]


@pytest.fixture(params=[np.savez, np.savez_compressed], ids=["stored", "compressed"])
def save(request: pytest.FixtureRequest, tmp_path: Path) -> Save:
    """Writes arrays to an archive, with and without compression."""

    def write(**arrays: Any) -> Path:
        request.param(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return write


def spec(dtype: str = "float32", shape: tuple[int, ...] = (3,), name: str = "features") -> tuple[TensorSpec, ...]:
    return (TensorSpec(name=name, dtype=dtype, shape=shape),)


def floats(samples: int = 4, shape: tuple[int, ...] = (3,), dtype: Any = np.float32) -> NDArray[Any]:
    return np.random.default_rng(0).normal(size=(samples, *shape)).astype(dtype)


def whole(dataset: Dataset, name: str = "features") -> NDArray[Any]:
    return np.concatenate([batch[name] for batch in dataset.batches(3)])


def test_x_feeds_the_only_input(save: Save) -> None:
    x = floats()
    np.testing.assert_array_equal(whole(open_data(save(x=x, y=LABELS), spec(), ARRAYS)), x)


def test_an_array_may_bear_the_name_of_the_only_input(save: Save) -> None:
    x = floats()
    np.testing.assert_array_equal(whole(open_data(save(features=x, y=LABELS), spec(), ARRAYS)), x)


def test_several_inputs_are_fed_by_name(save: Save) -> None:
    ids, mask = np.arange(20).reshape(4, 5), np.ones((4, 5), dtype=np.int64)
    inputs = (*spec("int64", (5,), "input_ids"), *spec("int64", (5,), "attention_mask"))
    (batch,) = open_data(save(attention_mask=mask, input_ids=ids, y=LABELS), inputs, ARRAYS).batches(4)
    np.testing.assert_array_equal(batch["input_ids"], ids)
    np.testing.assert_array_equal(batch["attention_mask"], mask)


def test_classes_are_numbered_to_the_largest_label(save: Save) -> None:
    dataset = open_data(save(x=floats(), y=LABELS), spec(), ARRAYS)
    assert dataset.class_names == ("0", "1", "2")
    assert dataset.labels is not None
    assert dataset.labels.dtype == np.int64
    assert dataset.labels.tolist() == LABELS.tolist()


def test_class_names_may_be_given(save: Save) -> None:
    dataset = open_data(save(x=floats(), y=LABELS), spec(), ARRAYS, class_names=["a", "b", "c", "d"])
    assert dataset.class_names == ("a", "b", "c", "d")


def test_samples_are_named_by_archive_and_position(save: Save) -> None:
    path = save(x=floats(), y=LABELS)
    assert list(open_data(path, spec(), ARRAYS).names) == [f"{path}[{index}]" for index in range(4)]


def test_labels_are_not_needed_to_run(save: Save) -> None:
    dataset = open_files([save(x=floats())], spec(), ARRAYS)
    assert dataset.labels is None
    assert len(dataset) == 4


def test_arrays_in_fortran_order_are_read_as_they_are(save: Save) -> None:
    x = np.asfortranarray(floats(shape=(3, 5)))
    np.testing.assert_array_equal(whole(open_data(save(x=x, y=LABELS), spec(shape=(3, 5)), ARRAYS)), x)


def test_other_byte_orders_are_read_as_this_machine_s(save: Save) -> None:
    x = floats()
    read = whole(open_data(save(x=x.astype(">f4"), y=LABELS.astype(">i8")), spec(), ARRAYS))
    np.testing.assert_array_equal(read, x)
    assert read.dtype == np.dtype(np.float32)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(shape=st.lists(st.integers(1, 4), max_size=3), samples=st.integers(2, 9), size=st.integers(1, 10))
def test_whatever_was_saved_is_read_back(save: Save, shape: list[int], samples: int, size: int) -> None:
    x = floats(samples, tuple(shape))
    dataset = open_data(save(x=x, y=np.arange(samples)), spec(shape=tuple(shape)), ARRAYS)
    np.testing.assert_array_equal(np.concatenate([batch["features"] for batch in dataset.batches(size)]), x)


@pytest.mark.parametrize(
    ("saved", "wanted", "shape"),
    [
        ("float64", "float32", (3, 4, 4)),
        ("float16", "float32", (3, 4, 4)),
        ("int32", "int64", (5,)),
        ("int64", "int32", (5,)),
        ("uint8", "int64", (5,)),
        ("bool", "int64", (5,)),
        ("int64", "int32", (3, 4, 5)),
    ],
)
def test_casts_that_keep_the_meaning_are_made(save: Save, saved: str, wanted: str, shape: tuple[int, ...]) -> None:
    x = np.ones((4, *shape), dtype=saved)
    read = whole(open_data(save(x=x, y=LABELS), spec(wanted, shape), ARRAYS))
    assert read.dtype == wanted
    assert (read == 1).all()


@pytest.mark.parametrize(
    ("saved", "wanted", "shape"),
    [
        ("uint8", "float32", (3, 4, 4)),
        ("int64", "float32", (3,)),
        ("float32", "int64", (3,)),
        ("float32", "uint8", (4, 4, 3)),
        ("float32", "float16", (3,)),
        ("int64", "uint8", (4, 4, 3)),
        ("int64", "bool", (3,)),
    ],
)
def test_other_casts_are_refused_with_a_remedy(save: Save, saved: str, wanted: str, shape: tuple[int, ...]) -> None:
    path = save(x=np.ones((4, *shape), dtype=saved), y=LABELS)
    with pytest.raises(DataError, match="dtype") as caught:
        open_data(path, spec(wanted, shape), ARRAYS)
    assert str(path) in str(caught.value)
    assert caught.value.remedy


def test_uint8_pictures_for_a_model_of_floats_are_sent_to_mean_and_std(save: Save) -> None:
    path = save(x=np.ones((4, 3, 8, 8), dtype=np.uint8), y=LABELS)
    with pytest.raises(DataError) as caught:
        open_data(path, spec(shape=(3, 8, 8)), ARRAYS)
    assert "--mean" in str(caught.value.remedy)


@pytest.mark.parametrize(("value", "wanted"), [(2**31, "int32"), (-1, "uint8"), (256, "uint8")])
def test_an_integer_that_does_not_fit_is_named(save: Save, value: int, wanted: str) -> None:
    x = np.ones((4, 3), dtype=np.int64)
    x[2, 1] = value
    with pytest.raises(DataError, match=re.escape("x[2, 1]")):
        open_data(save(x=x, y=LABELS), spec(wanted), ARRAYS)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nan_and_infinity_are_named(save: Save, value: float, dtype: Any) -> None:
    x = floats(dtype=dtype)
    x[1, 2] = value
    path = save(x=x, y=LABELS)
    with pytest.raises(DataError, match=re.escape("x[1, 2]")) as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)


def test_nan_is_found_in_a_later_piece_of_a_large_array(save: Save, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgeexit.data.arrays.CHUNK_BYTES", 24)
    x = floats(9)
    x[7, 0] = np.nan
    with pytest.raises(DataError, match=re.escape("x[7, 0]")):
        open_data(save(x=x, y=np.arange(9)), spec(), ARRAYS)


def test_a_double_beyond_the_range_of_float32_is_named(save: Save) -> None:
    x = floats(dtype=np.float64)
    x[3, 0] = 1e300
    with pytest.raises(DataError, match=re.escape("x[3, 0]")):
        open_data(save(x=x, y=LABELS), spec(), ARRAYS)


@pytest.mark.parametrize("shape", [(4, 2), (4,), (4, 3, 1), ()])
def test_a_wrong_shape_is_refused_with_both_shapes(save: Save, shape: tuple[int, ...]) -> None:
    path = save(x=np.ones(shape, dtype=np.float32), y=LABELS)
    with pytest.raises(DataError, match="shape") as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)
    assert caught.value.got == str(shape)
    assert "(n, 3)" in str(caught.value.expected)


def test_axes_in_another_order_are_sent_to_transpose(save: Save) -> None:
    path = save(x=np.ones((4, 8, 8, 3), dtype=np.float32), y=LABELS)
    with pytest.raises(DataError) as caught:
        open_data(path, spec(shape=(3, 8, 8)), ARRAYS)
    assert "transpose" in str(caught.value.remedy)


def test_x_and_y_of_different_lengths_are_refused(save: Save) -> None:
    path = save(x=floats(5), y=LABELS)
    with pytest.raises(DataError, match="length") as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)


def test_inputs_of_different_lengths_are_refused(save: Save) -> None:
    inputs = (*spec(name="a"), *spec(name="b"))
    with pytest.raises(DataError, match="length"):
        open_data(save(a=floats(4), b=floats(5), y=LABELS), inputs, ARRAYS)


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_out_of_range_is_named(save: Save, label: int) -> None:
    path = save(x=floats(), y=np.array([0, 1, label, 0]))
    with pytest.raises(DataError, match=re.escape("y[2]")) as caught:
        open_data(path, spec(), ARRAYS, class_names=["a", "b", "c"])
    assert str(path) in str(caught.value)
    assert caught.value.expected == "0 to 2"


def test_a_monstrous_label_does_not_make_a_monstrous_list_of_classes(save: Save) -> None:
    with pytest.raises(DataError, match="out of range"):
        open_data(save(x=floats(), y=np.array([0, 1, 2**62, 0])), spec(), ARRAYS)


@pytest.mark.parametrize("labels", [np.zeros(4), np.zeros((4, 1), int), np.array(["a", "b", "a", "b"]), np.eye(4)])
def test_labels_that_are_not_a_list_of_integers_are_refused(save: Save, labels: NDArray[Any]) -> None:
    path = save(x=floats(), y=labels)
    with pytest.raises(DataError, match="y") as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)


def test_labels_of_one_class_are_refused(save: Save) -> None:
    with pytest.raises(DataError, match="one class"):
        open_data(save(x=floats(), y=np.ones(4, int)), spec(), ARRAYS)


def test_no_samples_are_refused(save: Save) -> None:
    with pytest.raises(DataError, match="no samples"):
        open_data(save(x=floats(0), y=LABELS[:0]), spec(), ARRAYS)


@pytest.mark.parametrize("missing", ["x", "y"])
def test_a_missing_array_is_named(save: Save, missing: str) -> None:
    arrays = {"x": floats(), "y": LABELS}
    del arrays[missing]
    path = save(**arrays)
    with pytest.raises(DataError, match=f"no array {missing}") as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)


class Trap:
    """Unpickling it raises an error that nothing here translates."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (exec, ("raise SystemExit('unpickled')",))


def test_object_arrays_are_refused_and_never_unpickled(save: Save) -> None:
    path = save(x=np.array([Trap()], dtype=object), y=LABELS)
    with pytest.raises(DataError, match="object array"):
        open_data(path, spec(), ARRAYS)


def test_structured_arrays_are_refused(save: Save) -> None:
    with pytest.raises(DataError, match="cannot be used"):
        open_data(save(x=np.zeros(4, dtype=[("a", "f4")]), y=LABELS), spec(), ARRAYS)


def npy_header(shape: tuple[int, ...], descr: str = "<f4") -> bytes:
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape!r}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


@pytest.mark.parametrize("shape", [(2**40, 3), (2**62, 3), (4, 4), (3, 3), (-4, -3), (-1, 3)])
@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_declared_shape_that_the_bytes_do_not_bear_out_is_refused(
    tmp_path: Path, shape: tuple[int, ...], compression: int
) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", npy_header(shape) + bytes(4 * 3 * 4))
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_files([path], spec(), ARRAYS)


def test_a_declared_size_that_the_file_cannot_hold_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", npy_header((2**27, 3)) + bytes(48))
    raw = bytearray(path.read_bytes())
    entry = raw.rindex(b"PK\x01\x02")
    raw[entry + 24 : entry + 28] = (len(npy_header((2**27, 3))) + 2**27 * 12).to_bytes(4, "little")
    path.write_bytes(raw)
    with pytest.raises(DataError, match="declared"):
        open_files([path], spec(), ARRAYS)


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_unusual_compressions_are_refused(tmp_path: Path, compression: int) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("x.npy", npy_header((4, 3)) + bytes(48))
    with pytest.raises(DataError, match="compression"):
        open_files([path], spec(), ARRAYS)


def test_a_member_that_is_not_an_array_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(DataError, match=r"readme\.txt"):
        open_files([path], spec(), ARRAYS)


def test_a_member_that_comes_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", npy_header((4, 3)) + bytes(48))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("x.npy", npy_header((4, 3)) + bytes(48))
    with pytest.raises(DataError, match="repeated"):
        open_files([path], spec(), ARRAYS)


def test_a_flipped_bit_in_the_values_is_found(save: Save) -> None:
    path = save(x=floats(400), y=np.arange(400))
    raw = bytearray(path.read_bytes())
    raw[1000] ^= 1
    path.write_bytes(raw)
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_data(path, spec(), ARRAYS)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(data=st.data())
def test_damaged_bytes_give_the_values_that_were_saved_or_a_data_error(save: Save, data: st.DataObject) -> None:
    path = save(x=floats(), y=LABELS)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))] if data.draw(st.booleans()) else damaged)
    with contextlib.suppress(DataError):
        np.testing.assert_array_equal(whole(open_data(path, spec(), ARRAYS)), floats())


@pytest.mark.parametrize("name", ["data.npy", "data.csv", "data"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"1,2,3")
    with pytest.raises(DataError, match="not a data set") as caught:
        open_data(path, spec(), ARRAYS)
    assert str(path) in str(caught.value)


def test_a_file_that_only_bears_the_suffix_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(b"not a zip")
    with pytest.raises(DataError, match=re.escape(str(path))):
        open_data(path, spec(), ARRAYS)


def test_uint8_arrays_may_stand_in_for_pictures(save: Save) -> None:
    x = np.arange(4 * 6 * 8 * 3, dtype=np.uint8).reshape(4, 6, 8, 3)
    pictures = Preprocessing(kind="image", mode="RGB", size=(6, 8))
    np.testing.assert_array_equal(whole(open_data(save(x=x, y=LABELS), spec("uint8", (6, 8, 3)), pictures)), x)


def test_a_survey_lists_arrays_with_dtypes_and_shapes(save: Save) -> None:
    found = survey(save(x=floats(), y=LABELS))
    assert (found.kind, found.count) == ("array", 4)
    assert found.arrays == {"x": ("float32", (4, 3)), "y": ("int64", (4,))}


def test_stored_arrays_are_mapped_and_not_loaded(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=floats(), y=LABELS)
    array = open_data(tmp_path / "data.npz", spec(), ARRAYS).source.arrays["features"]  # type: ignore[attr-defined]
    assert isinstance(array, np.memmap)
    assert not array.flags.writeable
