"""Payloads: boundary tensors as they travel, and back."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from numpy.typing import NDArray

from edgeexit.errors import DataError, UsageError
from edgeexit.manifest import TensorSpec
from edgeexit.payload import (
    OFFSET,
    PRECISIONS,
    SCALE,
    STATE,
    pack,
    pack_all,
    packed_bytes,
    packed_specs,
    unpack,
    unpack_all,
)

MAP = TensorSpec(name="map", dtype="float32", shape=(3, 4, 4))
VECTOR = TensorSpec(name="vector", dtype="float32", shape=(5,))
PICTURE = TensorSpec(name="image", dtype="uint8", shape=(4, 4, 3))
TOKENS = TensorSpec(name="ids", dtype="int64", shape=(7,))
MEMORY = TensorSpec(name=STATE + "0", dtype="float32", shape=(10,))
EVERYTHING = (MAP, VECTOR, PICTURE, TOKENS, MEMORY)

floats = arrays.arrays(
    np.float32,
    arrays.array_shapes(min_dims=2, max_dims=4, max_side=4),
    elements=st.floats(-1e6, 1e6, width=32),
)


def samples(spec: TensorSpec, n: int = 3) -> NDArray[np.generic]:
    return (np.random.default_rng(7).normal(size=(n, *spec.shape)) * 40).astype(spec.dtype)


def spec_of(array: NDArray[np.float32]) -> TensorSpec:
    return TensorSpec(name="t", dtype="float32", shape=array.shape[1:])


@given(floats)
def test_fp32_is_the_very_array(array: NDArray[np.float32]) -> None:
    assert unpack(pack(array, "fp32"), spec_of(array)) is array


@given(floats)
def test_fp16_is_the_nearest_half_or_the_largest(array: NDArray[np.float32]) -> None:
    expected = np.clip(array, -65504, 65504).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(unpack(pack(array, "fp16"), spec_of(array)), expected)


@given(floats)
def test_uint8_is_off_by_half_a_step_of_its_channels_range_at_most(array: NDArray[np.float32]) -> None:
    found = unpack(pack(array, "uint8"), spec_of(array))
    whole = array.shape[2:] == () or np.prod(array.shape[2:]) == 1
    axes = tuple(range(1, array.ndim)) if whole else tuple(range(2, array.ndim))
    span = array.max(axis=axes, keepdims=True).astype(np.float64) - array.min(axis=axes, keepdims=True)
    room = span / 510 * 1.001 + np.abs(array).max() * 3e-7 + 1e-30
    assert found.dtype == np.float32
    assert (np.abs(found.astype(np.float64) - array) <= room).all()


def test_uint8_keeps_the_zeros_behind_a_relu() -> None:
    array = np.maximum(samples(MAP), 0).astype(np.float32)
    assert (unpack(pack(array, "uint8"), MAP)[array == 0] == 0).all()


def test_uint8_keeps_a_constant_channel_exactly() -> None:
    array = np.full((2, 3, 4, 4), 0.1, np.float32)
    np.testing.assert_array_equal(unpack(pack(array, "uint8"), MAP), array)


def test_uint8_rounds_each_sample_by_itself() -> None:
    array = samples(MAP)
    alone = [pack(array[i : i + 1], "uint8") for i in range(3)]
    together = pack(array, "uint8")
    for suffix, part in together.items():
        np.testing.assert_array_equal(part, np.concatenate([parts[suffix] for parts in alone]))


def test_a_map_has_a_scale_a_channel_and_a_vector_one() -> None:
    assert {s: p.shape for s, p in pack(samples(MAP), "uint8").items()} == {
        "": (3, 3, 4, 4),
        SCALE: (3, 3),
        OFFSET: (3, 3),
    }
    assert pack(samples(VECTOR), "uint8")[SCALE].shape == (3, 1)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("spec", [PICTURE, TOKENS], ids=lambda spec: spec.name)
def test_integers_are_never_rounded(spec: TensorSpec, precision: str) -> None:
    array = samples(spec)
    assert pack(array, precision) == {"": array}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_policys_state_is_never_rounded(precision: str) -> None:
    state = samples(MEMORY)
    assert pack_all({MEMORY.name: state}, precision) == {MEMORY.name: state}


def test_a_rounded_state_is_refused() -> None:
    with pytest.raises(DataError, match="wrong type"):
        unpack_all({MEMORY.name: samples(MEMORY).astype(np.float16)}, [MEMORY])


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_payload_has_the_bytes_foretold(precision: str) -> None:
    packed = pack_all({spec.name: samples(spec, 1) for spec in EVERYTHING}, precision)
    assert sum(array.nbytes for array in packed.values()) == sum(packed_bytes(spec, precision) for spec in EVERYTHING)
    told = [part for spec in EVERYTHING for part in packed_specs(spec, precision)]
    assert {(p.name, p.dtype, p.shape) for p in told} == {(k, str(a.dtype), a.shape[1:]) for k, a in packed.items()}


@pytest.mark.parametrize("precision", PRECISIONS)
def test_tensors_come_back_under_their_names_in_their_types(precision: str) -> None:
    sent = {spec.name: samples(spec) for spec in EVERYTHING}
    found = unpack_all(pack_all(sent, precision), EVERYTHING)
    assert list(found) == list(sent)
    for spec in EVERYTHING:
        assert (str(found[spec.name].dtype), found[spec.name].shape) == (spec.dtype, (3, *spec.shape))
        np.testing.assert_allclose(found[spec.name].astype(float), sent[spec.name].astype(float), atol=0.6)


def test_a_tensor_of_halves_travels_as_it_is_or_quantised() -> None:
    spec = TensorSpec(name="h", dtype="float16", shape=(2, 3))
    array = samples(spec)
    assert pack(array, "fp32")[""] is pack(array, "fp16")[""] is array
    assert unpack(pack(array, "uint8"), spec).dtype == np.float16


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
def test_what_has_no_range_is_not_quantised(value: float) -> None:
    array = samples(MAP)
    array[0, 0, 0, :2] = value, -value
    with pytest.raises(DataError, match="cannot be quantised"):
        pack(array, "uint8")


def test_another_precision_is_refused() -> None:
    with pytest.raises(UsageError, match="no such precision"):
        pack(samples(MAP), "int4")


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        ({}, "missing"),
        ({"": np.zeros((2, 3, 4, 5), np.float32)}, "wrong type or shape"),
        ({"": np.zeros((2, 3, 4, 4), np.float64)}, "wrong type or shape"),
        ({"": np.zeros((2, 3, 4, 4), np.uint8)}, "needs its scale"),
        ({"": np.zeros((2, 3, 4, 4), np.float32), SCALE: np.zeros((2, 3), np.float32)}, "is not quantised"),
        (
            {"": np.zeros((2, 3, 4, 4), np.uint8), **dict.fromkeys((SCALE, OFFSET), np.zeros((2, 1), np.float32))},
            "map.scale has the wrong type",
        ),
        (
            {"": np.zeros((2, 3, 4, 4), np.uint8), **dict.fromkeys((SCALE, OFFSET), np.zeros((2, 3), np.float16))},
            "map.scale has the wrong type",
        ),
        (
            {
                "": np.zeros((2, 3, 4, 4), np.uint8),
                **dict.fromkeys((SCALE, OFFSET), np.full((2, 3), np.nan, np.float32)),
            },
            "not finite",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: dict[str, NDArray[np.generic]], problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        unpack(parts, MAP)


def test_a_tensor_that_nobody_takes_is_refused() -> None:
    with pytest.raises(DataError, match="not asked for"):
        unpack_all({"map": samples(MAP), "more": samples(MAP)}, [MAP])


def test_tensors_of_other_samples_are_refused() -> None:
    with pytest.raises(DataError, match="other samples"):
        unpack_all({"map": samples(MAP, 2), "vector": samples(VECTOR, 3)}, [MAP, VECTOR])


def test_two_tensors_under_one_name_are_refused() -> None:
    with pytest.raises(DataError, match="one name"):
        pack_all({"map": samples(MAP), "map" + SCALE: samples(VECTOR)}, "uint8")
