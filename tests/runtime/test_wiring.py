"""Wiring: which tensors a segment takes and what is kept for later ones."""

from __future__ import annotations

import msgspec
import pytest

from core.bundles import bundle_parts
from edgeexit.errors import BundleError
from edgeexit.manifest import SegmentEntry, TensorSpec
from edgeexit_runtime.wiring import Step, wire


def specs(*names: str) -> tuple[TensorSpec, ...]:
    return tuple(TensorSpec(name=name, dtype="float32", shape=(1,)) for name in names)


def segments(*wiring: tuple[str, str]) -> list[SegmentEntry]:
    """Segments from the names of their inputs and outputs, "a b"."""
    manifest, _ = bundle_parts(2)
    entry = manifest.segments[0]
    return [
        msgspec.structs.replace(entry, inputs=specs(*takes.split()), outputs=specs(*gives.split()))
        for takes, gives in wiring
    ]


def test_a_chain_keeps_only_the_newest_tensor() -> None:
    steps = wire(specs("x"), segments(("x", "a"), ("a", "b"), ("b", "")))
    assert steps == (Step((0,), (1,)), Step((0,), (1,)), Step((0,), ()))


def test_a_tensor_is_kept_until_its_last_reader() -> None:
    steps = wire(specs("x", "mask"), segments(("x mask", "a"), ("a", "b"), ("mask b", "")))
    assert steps == (Step((0, 1), (1, 2)), Step((1,), (0, 2)), Step((0, 1), ()))


def test_a_cascade_of_models_keeps_the_input() -> None:
    assert wire(specs("x"), segments(("x", ""), ("x", ""))) == (Step((0,), (0,)), Step((0,), ()))


def test_a_tensor_that_nothing_makes_is_refused() -> None:
    with pytest.raises(BundleError, match="takes a tensor that nothing before it makes"):
        wire(specs("x"), segments(("x", "a"), ("b", "")))


def test_a_tensor_that_was_dropped_for_nobody_is_not_kept() -> None:
    steps = wire(specs("x"), segments(("x", "a unused"), ("a", "")))
    assert steps[0].keeps == (1,)
