from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="heads are built with torch")
optuna = pytest.importorskip("optuna", reason="heads are searched with Optuna")

from edgeexit.training.heads import HeadSpec, build_head  # noqa: E402
from edgeexit.training.search import HeadSpace  # noqa: E402

ACTIVATIONS = [
    ((3, 8, 8), True),
    ((5, 7, 1), True),
    ((9, 5, 4), False),
    ((6, 11), True),
    ((12, 6), False),
    ((20,), True),
    ((1, 1, 1), True),
]
FIRST = [HeadSpec(), HeadSpec(hidden=(7, 300)), HeadSpec(dropout=0.25, hidden=(11,))]

spaces = st.builds(
    lambda activation, first: HeadSpace(activation[0], 4, channels_first=activation[1], first=first),
    st.sampled_from(ACTIVATIONS),
    st.sampled_from(FIRST),
)


def suggested(space: HeadSpace, seed: int) -> HeadSpec:
    sampler = optuna.samplers.RandomSampler(seed=seed)
    return space.suggest(optuna.create_study(sampler=sampler).ask())


@pytest.fixture(autouse=True, scope="module")
def silent() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)


@given(spaces, st.integers(0, 2**31))
@settings(max_examples=60)
def test_every_suggestion_can_be_built_and_gives_logits(space: HeadSpace, seed: int) -> None:
    spec = suggested(space, seed)
    head = build_head(spec, space.shape, 4, channels_first=space.channels_first, seed=0).eval()
    assert head.spec == spec
    assert head(torch.zeros(2, *space.shape)).shape == (2, 4)


@given(spaces)
def test_the_first_head_is_in_the_space_whatever_its_sizes(space: HeadSpace) -> None:
    chosen = optuna.trial.FixedTrial(space.first_choices)
    assert space.suggest(chosen) == space.first


def test_a_map_has_all_that_selfxit_tries_and_mixed_pooling() -> None:
    space = HeadSpace((8, 16, 16), 10, channels_first=True, first=HeadSpec())
    specs = [suggested(space, seed) for seed in range(200)]
    assert {spec.kind for spec in specs} == {"linear", "mixed", "conv"}
    assert {len(spec.channels) for spec in specs} == {0, 1, 2}
    assert {len(spec.hidden) for spec in specs} == {0, 1, 2}
    assert len({spec.kernel for spec in specs}) == len({spec.stride for spec in specs}) == 3


@pytest.mark.parametrize("first", ["conv:24,40/50@kernel=2,stride=3", "mixed@grid=3", "linear/5@grid=3"])
def test_a_first_head_of_unusual_sizes_is_in_the_space(first: str) -> None:
    space = HeadSpace((8, 16, 16), 10, channels_first=True, first=HeadSpec.parse(first))
    assert space.suggest(optuna.trial.FixedTrial(space.first_choices)) == space.first
    assert str(space.first).startswith(first.partition("@")[0])
