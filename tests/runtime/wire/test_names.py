"""Names of tails on the wire."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import bundle_parts
from edgeexit.manifest import Provenance, SourceEntry
from edgeexit_runtime.wire.names import model_name, parse_tail_name, tail_name


def named(*sources: str) -> str:
    provenance = Provenance(edgeexit="0", sources=tuple(SourceEntry(name=name) for name in sources))
    return model_name(msgspec.structs.replace(bundle_parts()[0], provenance=provenance))


@pytest.mark.parametrize(
    ("sources", "name"),
    [
        (("resnet20-cifar10.onnx",), "resnet20_cifar10"),
        (("zoo.models:small",), "zoo_models_small"),
        (("small.onnx", "large.onnx"), "small_large"),
        (("été__from_3.onnx",), "t_from_3"),
        ((), "model"),
        (("..onnx",), "model"),
    ],
)
def test_a_bundle_is_named_after_its_sources(sources: tuple[str, ...], name: str) -> None:
    assert named(*sources) == name


@given(st.lists(st.text(max_size=40), max_size=4))
def test_a_name_is_fit_for_a_folder_whatever_the_sources_are(sources: list[str]) -> None:
    name = named(*sources)
    assert 0 < len(name) <= 64
    assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")


@given(st.lists(st.text(max_size=40), max_size=4), st.integers(0, 9999))
def test_the_name_of_a_tail_tells_its_model_and_segment(sources: list[str], k: int) -> None:
    model = named(*sources)
    assert parse_tail_name(tail_name(model, k)) == (model, k)


@pytest.mark.parametrize("name", ["", "net", "net__from_", "net__from_-1", "net__from_01", "__from_1", "a/b__from_1"])
def test_any_other_name_is_none_of_ours(name: str) -> None:
    assert parse_tail_name(name) is None
