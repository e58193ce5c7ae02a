"""Safetensors bytes: written canonically, read with every size checked."""

from __future__ import annotations

import contextlib
import json
import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray
from safetensors.numpy import load as library_load
from safetensors.numpy import save as library_save

from edgeexit.errors import BundleError
from edgeexit.tensors import DTYPES, MAX_HEADER_BYTES, load_tensors, save_tensors

GOLDEN = (
    b"\x70\x00\x00\x00\x00\x00\x00\x00"
    b'{"b":{"dtype":"I64","shape":[],"data_offsets":[0,8]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[8,16]}}'
    b"   "
    b"\x07\x00\x00\x00\x00\x00\x00\x00"
    b"\x00\x00\x80\x3f\x00\x00\x00\xc0"
)

shapes = arrays.array_shapes(min_dims=0, max_dims=4, max_side=4)
anything = st.sampled_from(list(DTYPES.values())).flatmap(lambda dtype: arrays.arrays(dtype, shapes))
named = st.dictionaries(
    st.text(min_size=1, max_size=8).filter(lambda name: name != "__metadata__"), anything, max_size=5
)


def file_of(header: object, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str = "F32", shape: object = (1,), offsets: object = (0, 4), **other: object) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets, **other}


def same(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> bool:
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype
        and one[name].shape == other[name].shape
        and one[name].tobytes() == other[name].tobytes()
        for name in one
    )


def test_the_bytes_are_the_documented_ones() -> None:
    assert save_tensors({"a": np.array([[1, -2]], np.float32), "b": np.array(7, np.int64)}) == GOLDEN


@given(named)
def test_tensors_survive_a_round_trip(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(load_tensors(save_tensors(tensors), "t"), tensors)


@given(named)
def test_the_order_of_tensors_does_not_change_the_bytes(tensors: dict[str, NDArray[Any]]) -> None:
    assert save_tensors(dict(reversed(tensors.items()))) == save_tensors(tensors)


@given(named)
def test_the_safetensors_library_reads_what_we_write(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(library_load(save_tensors(tensors)), tensors)


@given(named)
def test_we_read_what_the_safetensors_library_writes(tensors: dict[str, NDArray[Any]]) -> None:
    assert same(load_tensors(library_save(tensors), "t"), tensors)


def test_arrays_that_are_not_contiguous_are_stored_in_row_order() -> None:
    array = np.arange(6, dtype=np.int32).reshape(2, 3).T
    assert load_tensors(save_tensors({"a": array}), "t")["a"].tolist() == array.tolist()


def test_tensors_that_were_read_cannot_be_written_to() -> None:
    assert not load_tensors(GOLDEN, "t")["a"].flags.writeable


def test_tensors_at_odd_offsets_come_out_aligned() -> None:
    data = file_of({"a": entry("U8", (1,), (0, 1)), "b": entry("F64", (1,), (1, 9))}, b"\x01" + struct.pack("<d", 2.5))
    array = load_tensors(data, "t")["b"]
    assert array.flags.aligned
    assert not array.flags.writeable
    assert array.tolist() == [2.5]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        pytest.param(b"", "too short", id="empty file"),
        pytest.param(b"\x01\0\0\0", "too short", id="half a length"),
        pytest.param(struct.pack("<Q", 3) + b"{}", "length", id="header longer than the file"),
        pytest.param(struct.pack("<Q", 1 << 63) + b"{}", "length", id="header of exabytes"),
        pytest.param(file_of(b"{" + b" " * MAX_HEADER_BYTES + b"}"), "length", id="header over the bound"),
        pytest.param(file_of(b"\xff"), "header", id="header not text"),
        pytest.param(file_of(b'{"\xff\xfe":{}}'), "header", id="name not text"),
        pytest.param(file_of([]), "header", id="header not an object"),
        pytest.param(file_of(b"[" * 100_000), "header", id="deep nesting"),
        pytest.param(file_of({"a": entry(more=1)}, b"1234"), "header", id="unknown key"),
        pytest.param(file_of({"__metadata__": {"a": "b"}}), "header", id="metadata"),
        pytest.param(file_of({"a": entry(shape=(1.0,))}, b"1234"), "header", id="fractional shape"),
        pytest.param(file_of({"a": entry(offsets=(0, 4, 8))}, b"1234"), "header", id="three offsets"),
        pytest.param(file_of({"a": entry("BF16", (2,))}, b"1234"), "data type", id="data type not ours"),
        pytest.param(file_of({"a": entry(shape=(0,), offsets=(0, 0))}), "shape", id="empty tensor"),
        pytest.param(file_of({"a": entry(shape=(-1, -1))}, b"1234"), "shape", id="negative shape"),
        pytest.param(file_of({"a": entry(shape=(1,) * 9)}, b"1234"), "shape", id="nine axes"),
        pytest.param(file_of({"a": entry(shape=(1 << 62, 4))}, b"1234"), "does not fit", id="shape of exabytes"),
        pytest.param(file_of({"a": entry(shape=(10**30,))}, b"1234"), "does not fit", id="shape beyond 64 bits"),
        pytest.param(file_of({"a": entry(shape=(2,))}, b"1234"), "does not fit", id="shape larger than its bytes"),
        pytest.param(file_of({"a": entry()}, b"123"), "does not fit", id="body cut short"),
        pytest.param(file_of({"a": entry()}, b"12345"), "behind", id="bytes behind the end"),
        pytest.param(file_of({"a": entry(offsets=(4, 8))}, b"12345678"), "hole", id="hole"),
        pytest.param(file_of({"a": entry(offsets=(-4, 0))}, b"1234"), "hole", id="negative offset"),
        pytest.param(file_of({"a": entry(), "b": entry()}, b"1234"), "overlaps", id="overlap"),
        pytest.param(file_of({"a": entry("BOOL", (4,))}, b"\0\1\2\0"), "truth", id="truth value 2"),
    ],
)
def test_malformed_bytes_are_refused_by_the_files_name(data: bytes, words: str) -> None:
    with pytest.raises(BundleError, match=rf"^exits\.safetensors: .*{words}"):
        load_tensors(data, "exits.safetensors")


@given(st.binary(max_size=200) | st.builds(file_of, st.binary(max_size=200), st.binary(max_size=20)))
def test_arbitrary_bytes_give_tensors_or_a_bundle_error(data: bytes) -> None:
    with contextlib.suppress(BundleError):
        load_tensors(data, "t")


@given(st.integers(0, len(GOLDEN) - 1))
def test_a_file_cut_short_anywhere_is_refused(size: int) -> None:
    with pytest.raises(BundleError):
        load_tensors(GOLDEN[:size], "t")


@pytest.mark.parametrize(
    "array",
    [np.array([object()]), np.array(["a"]), np.zeros((0,)), np.zeros(2, complex), np.zeros((1,) * 9)],
    ids=["objects", "strings", "empty", "complex", "nine axes"],
)
def test_tensors_that_the_format_lacks_cannot_be_stored(array: NDArray[Any]) -> None:
    with pytest.raises(BundleError, match="tensor 'a' cannot be stored"):
        save_tensors({"a": array})
