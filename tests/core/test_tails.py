"""Tails: their names, and what they take."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.bundles import bundle_parts
from edgeexit.manifest import SourceEntry, TensorSpec
from edgeexit.policies import MaxProbability, Policy, policy_kind
from edgeexit.tails import boundary, model_name, parse_tail_name, policy_states, tail_name

replaced = msgspec.structs.replace
MANIFEST, _ = bundle_parts(3)


def spec(name: str) -> TensorSpec:
    return TensorSpec(name=name, dtype="float32", shape=(4,))


def named(*sources: str) -> str:
    entries = tuple(SourceEntry(name=source) for source in sources)
    return model_name(replaced(MANIFEST, provenance=replaced(MANIFEST.provenance, sources=entries)))


def wired(*segments: tuple[str, str]) -> list[list[str]]:
    """The boundaries in front of segments with these inputs and outputs, of a model that takes x and y."""
    entries = tuple(
        replaced(MANIFEST.segments[0], inputs=tuple(map(spec, takes.split())), outputs=tuple(map(spec, makes.split())))
        for takes, makes in segments
    )
    manifest = replaced(MANIFEST, inputs=(spec("x"), spec("y")), segments=entries)
    return [[tensor.name for tensor in boundary(manifest, k)] for k in range(len(entries))]


def test_the_first_boundary_is_the_models_inputs() -> None:
    assert wired(("x", "a"), ("a", ""))[0] == ["x", "y"]


def test_a_boundary_is_what_later_segments_take() -> None:
    assert wired(("x y", "a b"), ("a", "c"), ("b c", "")) == [["x", "y"], ["a", "b"], ["b", "c"]]


def test_an_input_that_a_later_segment_takes_crosses_every_boundary_before() -> None:
    assert wired(("x", "a"), ("a", "b"), ("b y", "")) == [["x", "y"], ["y", "a"], ["y", "b"]]


def test_the_boundary_of_a_cascade_of_models_is_the_input() -> None:
    assert wired(("x", ""), ("x", "")) == [["x", "y"], ["x"]]


def test_a_tail_is_named_after_the_source_and_its_first_segment() -> None:
    assert tail_name(named("resnet20-cifar10.onnx"), 2) == "resnet20_cifar10__from_2"


def test_the_name_of_a_cascade_of_models_is_that_of_both() -> None:
    assert named("small.onnx", "big net.onnx") == "small_big_net"


@pytest.mark.parametrize("source", ["", "…", ".onnx", "__"])
def test_a_source_without_a_usable_name_is_called_model(source: str) -> None:
    assert named(source) == "model"


@pytest.mark.parametrize("source", ["../../etc/passwd", "a" * 300, "a__from_3.onnx", "x/y:build"])
def test_a_name_is_fit_for_a_folder_and_reads_back(source: str) -> None:
    name = named(source)
    assert "/" not in name
    assert parse_tail_name(tail_name(name, 7)) == (name, 7)


@given(st.lists(st.text(max_size=40), max_size=4), st.integers(0, 9999))
def test_a_tails_name_tells_its_model_and_segment_whatever_the_sources_are(sources: list[str], k: int) -> None:
    name = named(*sources)
    assert 0 < len(name) <= 64
    assert parse_tail_name(tail_name(name, k)) == (name, k)


@pytest.mark.parametrize("name", ["", "m", "m__from_", "m__from_01", "m__from_-1", "m__from_1x", "m/n__from_1"])
def test_other_names_are_no_tails(name: str) -> None:
    assert parse_tail_name(name) is None


def remembered(policy: Policy) -> list[list[tuple[int, ...]]]:
    return [[spec.shape for spec in specs] for specs in policy_states(policy, 3, 2)]


def test_a_policy_that_remembers_nothing_has_no_state_to_travel() -> None:
    assert remembered(MaxProbability((1.0,) * 3, (0.5, 0.5, -np.inf))) == [[], [], []]


def test_what_a_policy_remembers_may_grow_from_exit_to_exit() -> None:
    logits = [np.random.default_rng(k).normal(size=(60, 2)).astype(np.float32) for k in range(3)]
    shapes = remembered(policy_kind("eenet").fit(logits, logits[-1].argmax(axis=1)))
    assert shapes[0] == []
    assert shapes[1] != shapes[2]


def test_the_state_in_front_of_a_segment_is_what_the_exits_before_it_left() -> None:
    logits = [np.random.default_rng(k).normal(size=(60, 2)).astype(np.float32) for k in range(3)]
    policy = policy_kind("patience").fit(logits, logits[-1].argmax(axis=1))
    _, state = policy.decide(0, logits[0], policy.start(60, 2))
    assert [(spec.dtype, spec.shape) for spec in policy_states(policy, 3, 2)[1]] == [
        (str(array.dtype), array.shape[1:]) for array in state
    ]
