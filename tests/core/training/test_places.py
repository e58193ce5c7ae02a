from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgeexit.errors import ModelError, UsageError

torch = pytest.importorskip("torch", reason="places are found in torch models")

from torch import Tensor, nn  # noqa: E402 (needs torch)

from core.training.networks import InPlaceNet, PlainNet, ResidualNet, bert, numbers, seeded, sentences  # noqa: E402
from edgeexit.training.model.calls import Call  # noqa: E402 (needs torch)
from edgeexit.training.model.counting import flop_counter  # noqa: E402 (needs torch)
from edgeexit.training.model.recording import macs_spent  # noqa: E402 (needs torch)
from edgeexit.training.places import (  # noqa: E402 (needs torch)
    Place,
    Survey,
    candidate_places,
    chosen_places,
    placed,
    selfxit_filter,
    survey,
)

PICTURES = numbers(4, 3, 8, 8)
STEM, HALF = 3 * 4 * 9 * 64, 4 * 4 * 9 * 64


@pytest.fixture(scope="module")
def residual() -> Any:
    return seeded(ResidualNet)


@pytest.fixture(scope="module")
def residual_places(residual: Any) -> dict[str, Place]:
    return {place.name: place for place in candidate_places(residual, PICTURES, timed=True)}


def place(name: str, macs: int, *, ms: float | None = 0.0, crossing: int = 1, after: int = 9) -> Place:
    return Place(name, macs, ms, (4, 8, 8), crossing, after, (name,))


def test_a_place_knows_what_was_spent_what_crosses_and_what_is_to_come(residual_places: dict[str, Place]) -> None:
    inside, end = residual_places["blocks.1.first"], residual_places["blocks.1"]
    assert (inside.macs_before, inside.crossing, inside.layers_after) == (STEM + 3 * HALF, 2, 7)
    assert (end.macs_before, end.crossing, end.layers_after) == (STEM + 4 * HALF, 1, 6)
    assert end.shape == (4, 8, 8)


def test_the_whole_costs_what_its_layers_do(residual: Any) -> None:
    assert survey(residual, PICTURES).macs == STEM + 8 * HALF + 256 + 20


def test_time_passes_along_a_chain(residual_places: dict[str, Place], residual: Any) -> None:
    times = [residual_places[name].ms_before for name in ("stem", "blocks.0", "blocks.1", "blocks.2", "blocks.3")]
    assert times == sorted(times)
    assert times[0] > 0


def test_modules_that_give_one_tensor_are_one_place_under_the_outermost_name() -> None:
    names = {place.name: place.modules for place in candidate_places(seeded(PlainNet), PICTURES)}
    assert names["stem"] == ("stem", "stem.2")
    assert "stem.2" not in names


def test_an_output_that_is_overwritten_later_is_a_place_of_its_own() -> None:
    names = [place.name for place in candidate_places(seeded(InPlaceNet), PICTURES)]
    assert names.index("norm") < names.index("act") < names.index("second")


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(4, 8)
        self.left, self.right = nn.Linear(8, 8), nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.head(self.left(x) + self.right(x))


def test_parallel_work_that_a_place_does_not_need_is_not_spent_before_it() -> None:
    found = {place.name: place for place in candidate_places(Branches(), numbers(3, 4))}
    assert found["left"].macs_before == found["right"].macs_before == 4 * 8 + 8 * 8
    assert (found["right"].crossing, found["right"].layers_after) == (2, 2)


class MixesSamples(nn.Module):
    """From its stem to its end a tensor is alive that belongs to no one sample."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.middle, self.end = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        mean = x.mean(0, keepdim=True)
        return self.end(self.middle(x - mean) + mean)


def test_where_a_tensor_without_a_batch_axis_is_alive_there_is_no_place() -> None:
    assert [place.name for place in candidate_places(MixesSamples(), numbers(3, 4))] == ["stem"]


@pytest.fixture(scope="module")
def text_survey() -> Survey:
    return survey(bert(), sentences())


def test_the_mask_of_a_text_model_does_not_count_as_crossing(text_survey: Survey) -> None:
    found = {place.name: place.crossing for place in text_survey.places}
    assert found["bert.encoder.layer.0"] == found["bert.encoder.layer.1"] == 1
    assert found["bert.encoder.layer.1.attention.self"] == 2


def test_a_wrapped_text_model_gets_exits_behind_its_layers(text_survey: Survey) -> None:
    expected = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    assert [found.name for found in selfxit_filter(text_survey.places, bert())] == expected
    assert [found.name for found in placed(text_survey.places, text_survey.macs, (0.3, 0.6))] == expected


class Undecided(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.second(x) if float(x.sum()) > 0 else x


def test_a_model_that_cannot_be_traced_must_have_its_places_named(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="name the places"):
        candidate_places(Undecided(), numbers(3, 4))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("model", [nn.Sequential(nn.Linear(4, 3)), nn.Sequential(nn.ReLU(), nn.Softmax(1))])
def test_a_model_in_which_nothing_is_saved_has_no_place(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="no place for an exit"):
        candidate_places(model, numbers(3, 4))


def test_tracing_leaves_no_hooks_and_the_models_mode(residual: Any) -> None:
    model = seeded(ResidualNet).train()
    candidate_places(model, PICTURES)
    assert all(part.training and not part._forward_hooks for part in model.modules())


def test_exits_stand_at_sdns_shares_of_the_cost() -> None:
    places = [place(str(i), i) for i in range(1, 100)]
    assert [found.macs_before for found in placed(places, 100)] == [15, 30, 45, 60, 75, 90]


def test_shares_of_time_follow_the_milliseconds() -> None:
    places = [place(str(i), i, ms=i**2) for i in range(1, 10)]
    assert [found.ms_before for found in placed(places, 100.0, [0.2, 0.5], cost="ms")] == [16, 49]


def test_whole_states_come_before_parts_of_them() -> None:
    places = [place("part", 30, crossing=2), place("state", 36), place("late part", 70, crossing=2)]
    assert [found.name for found in placed(places, 100, [0.3, 0.7])] == ["state", "late part"]


def test_of_places_with_equal_work_the_last_with_fewest_tensors_is_taken() -> None:
    places = [place("a", 30), place("b", 30), place("c", 30, crossing=2)]
    assert [found.name for found in placed(places, 100, [0.3])] == ["b"]


def test_a_place_with_nothing_behind_it_is_no_exit() -> None:
    places = [place("early", 50), place("logits", 99)]
    assert [found.name for found in placed(places, 100)] == ["early"]


@given(
    st.lists(st.tuples(st.integers(1, 999), st.integers(1, 3)), min_size=1, max_size=30),
    st.lists(st.floats(0.01, 0.99), min_size=1, max_size=8),
)
def test_chosen_places_are_distinct_in_order_and_no_more_than_asked_for(
    of: list[tuple[int, int]], shares: list[float]
) -> None:
    places = [place(str(i), macs, crossing=crossing) for i, (macs, crossing) in enumerate(sorted(of))]
    chosen = placed(places, 1000, shares)
    costs = [found.macs_before for found in chosen]
    assert costs == sorted(set(costs))
    assert 1 <= len(chosen) <= len(shares)
    assert set(chosen) <= set(places)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.2, 15.0])
def test_a_share_outside_the_model_is_refused(share: float) -> None:
    with pytest.raises(UsageError, match="share"):
        placed([place("a", 1)], 2, [share])


def test_selfxit_keeps_the_outputs_of_components_with_enough_behind_them(
    residual: Any, residual_places: dict[str, Place]
) -> None:
    kept = selfxit_filter(list(residual_places.values()), residual)
    assert [found.name for found in kept] == ["stem", "blocks.0", "blocks.1", "blocks.2"]


def test_selfxit_leaves_out_what_is_at_rest() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4), nn.Dropout())
    places = [place("0", 16), place("1", 16), place("2", 32)]
    assert [found.name for found in selfxit_filter(places, model)] == ["0", "2"]


def test_selfxit_leaves_out_the_last_layers_and_places_where_several_tensors_cross() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    places = [place("0", 16), place("1", 32, crossing=2), place("2", 48, after=2)]
    assert [found.name for found in selfxit_filter(places, model)] == ["0"]
    with pytest.raises(ModelError, match="SelfXit"):
        selfxit_filter(places[1:], model)


def test_automatic_places_are_those_at_sdns_shares(residual: Any) -> None:
    found = survey(residual, PICTURES)
    expected = [found.name for found in placed(found.places, found.macs, (0.15, 0.30, 0.45, 0.60, 0.75, 0.90))]
    assert chosen_places(residual, PICTURES, "auto") == expected
    assert chosen_places(residual, PICTURES, "selfxit") == ["stem", "blocks.0", "blocks.1", "blocks.2"]


def test_a_survey_takes_the_time_only_where_it_is_asked_to(residual: Any) -> None:
    runs: list[int] = []
    counting = residual.stem.register_forward_hook(lambda *_: runs.append(1))
    try:
        found, without = survey(residual, PICTURES), len(runs)
        assert survey(residual, PICTURES, timed=True).ms is not None
    finally:
        counting.remove()
    assert found.ms is None
    assert {place.ms_before for place in found.places} == {None}
    assert len(runs) - without > without
    with pytest.raises(UsageError, match="times of the places were not taken"):
        placed(found.places, 1.0, cost="ms")


class Recurrent(nn.Module):
    """MACs of one sample of 6 steps: 6·4·8·(4+8), 6·2·3·8·(8+8) and 16·3."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.LSTM(4, 8, batch_first=True)
        self.second = nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.first(x)[0])[0][:, -1])


def test_recurrent_layers_cost_what_their_weights_multiply() -> None:
    model, sequences = seeded(Recurrent), numbers(3, 6, 4)
    first, second = 6 * 4 * 8 * (4 + 8), 6 * 2 * 3 * 8 * (8 + 8)
    spent = macs_spent(model, Call.of(sequences), ["first", "second"])
    assert (spent.before, spent.total) == ((first, first + second), first + second + 16 * 3)
    found = survey(model, sequences)
    assert found.macs == spent.total
    assert found.places[0].macs_before == first


@pytest.mark.parametrize("library", ["_cudnn_rnn", "miopen_rnn"])
def test_layers_that_an_accelerators_library_runs_as_a_whole_cost_the_same(library: str) -> None:
    layers = nn.LSTM(4, 8, num_layers=2, bidirectional=True, proj_size=3)
    count = flop_counter().flop_registry[getattr(torch.ops.aten, library)]
    weights = list(layers.parameters())
    with flop_counter() as counter, torch.no_grad():
        layers(numbers(6, 5, 4))  # torch has no library for projections on the CPU: these are matrix products
    assert count(numbers(6, 5, 4), weights, 4, None, out_val=None) == counter.get_total_flops() > 0
