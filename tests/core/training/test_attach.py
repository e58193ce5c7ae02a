from __future__ import annotations

import copy
import inspect
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from edgeexit.errors import EdgeExitError, ModelError, UsageError

torch = pytest.importorskip("torch", reason="exits are attached to torch models")

from torch import nn  # noqa: E402 (needs torch)

from core.training.networks import CLASSES, InPlaceNet, PlainNet, bert, numbers, seeded, sentences  # noqa: E402 (needs torch)
from edgeexit.training.attach import MultiExit  # noqa: E402 (needs torch)
from edgeexit.training.heads import HeadSpec  # noqa: E402 (needs torch)

PICTURES = numbers(6, 3, 8, 8)
AT = ["stem", "middle", "late"]


@pytest.fixture
def model() -> Any:
    return seeded(PlainNet)


def has_hooks(model: nn.Module) -> bool:
    return any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def test_every_exit_answers_and_the_last_is_the_model_itself_bit_for_bit(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES)
    answers = network(PICTURES)
    assert network.exit_names == ("stem", "middle", "late", "whole model")
    assert [tuple(logits.shape) for logits in answers] == [(6, CLASSES)] * 4
    assert torch.equal(answers[-1], model(PICTURES))
    assert torch.equal(answers[1], network.heads[1](model.middle(model.stem(PICTURES))))


def test_exits_stand_in_order_of_cost_and_keep_their_heads(model: nn.Module) -> None:
    network = MultiExit.attach(model, ["late", "stem.2", "stem.0"], ["conv", "mixed", "linear"], example=PICTURES)
    assert network.at == ("stem.0", "stem.2", "late")
    assert [head.spec.kind for head in network.heads] == ["linear", "mixed", "conv"]
    assert network.shapes == ((8, 8, 8), (8, 8, 8), (16, 2, 2))


def test_the_models_modules_have_no_hooks_afterwards(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES)
    network(PICTURES)
    assert not has_hooks(model)
    with pytest.raises(RuntimeError):
        network(PICTURES[:, :2])
    assert not has_hooks(model)


@pytest.mark.parametrize("training", [True, False])
def test_attaching_leaves_the_model_and_its_mode_as_they_were(model: nn.Module, training: bool) -> None:
    model.train(training)
    model.late.eval()
    before = snapshot(model)
    MultiExit.attach(model, AT, example=PICTURES)
    assert model.middle.training == training
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def trained_step(network: MultiExit) -> None:
    network.train()
    optimiser = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    sum(logits.square().sum() for logits in network(PICTURES)).backward()
    optimiser.step()


def test_nothing_of_a_frozen_backbone_changes_in_training(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).freeze()
    backbone, heads = snapshot(model), snapshot(network.heads)
    trained_step(network)
    assert not any(part.training for part in model.modules())
    assert all(part.training for part in network.heads.modules())
    assert all(torch.equal(tensor, backbone[name]) for name, tensor in model.state_dict().items())
    assert all(weight.grad is None for weight in model.parameters())
    assert not all(torch.equal(tensor, heads[name]) for name, tensor in network.heads.state_dict().items())


def test_a_backbone_that_is_not_frozen_learns_and_its_statistics_move(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).freeze().unfreeze()
    before = snapshot(model)
    trained_step(network)
    assert all(part.training for part in model.modules())
    assert not torch.equal(model.stem[1].running_mean, before["stem.1.running_mean"])
    assert not torch.equal(model.stem[0].weight, before["stem.0.weight"])


def test_unfreezing_lets_learn_what_learnt_before(model: nn.Module) -> None:
    model.stem.requires_grad_(False)
    network = MultiExit.attach(model, AT, example=PICTURES).freeze().freeze()
    assert not any(weight.requires_grad for weight in model.parameters())
    network.unfreeze()
    learning = {name.split(".")[0] for name, weight in model.named_parameters() if weight.requires_grad}
    assert learning == {"middle", "late", "head"}


def test_the_signature_is_the_backbones(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example={"picture": PICTURES})
    assert list(inspect.signature(network.forward).parameters) == ["picture"]
    assert torch.equal(network(picture=PICTURES)[0], network(PICTURES)[0])


def test_a_place_that_is_overwritten_later_shows_what_the_module_gave() -> None:
    model = seeded(InPlaceNet)
    network = MultiExit.attach(model, ["norm", "act"], example=PICTURES)
    normalised, activated = network.activations(PICTURES).values
    assert normalised.min() < 0
    assert torch.equal(normalised.relu(), activated)
    network.train()
    sum(logits.sum() for logits in network(PICTURES)).backward()
    assert all(weight.grad is not None for weight in network.parameters())


def test_a_sample_has_the_same_logits_alone_and_in_a_batch(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).eval()
    for i, row in enumerate(PICTURES):
        for alone, together in zip(network(row[None]), network(PICTURES), strict=True):
            torch.testing.assert_close(alone[0], together[i])


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_a_model_in_another_precision_gets_float32_heads_and_answers_in_float32(
    model: nn.Module, kind: torch.dtype
) -> None:
    network = MultiExit.attach(model.to(kind), AT, example=PICTURES.to(kind))
    assert {weight.dtype for weight in network.heads.parameters()} == {torch.float32}
    assert {logits.dtype for logits in network(PICTURES.to(kind))} == {torch.float32}


def test_inputs_of_a_type_that_the_model_does_not_take_are_an_error_that_names_it(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="float64"):
        MultiExit.attach(model, AT, example=PICTURES.double())


def test_costs_are_what_is_spent_until_an_exit_answers_with_all_heads_before_it(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, "linear@grid=1", example=PICTURES)
    stem, middle, late, head = 3 * 8 * 9 * 64, 8 * 16 * 9 * 16, 16 * 16 * 9 * 4, 16 * CLASSES
    heads = [2 * 8 * CLASSES, 2 * 16 * CLASSES, 2 * 16 * CLASSES]
    spent = stem, stem + middle, stem + middle + late, stem + middle + late + head
    expected = [cost + sum(heads[: i + 1]) for i, cost in enumerate(spent)]
    assert list(network.costs(PICTURES)) == expected


def test_threads_that_call_a_network_at_once_get_their_own_activations(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).eval()
    meeting = threading.Barrier(2)

    def wait(*_: object) -> None:
        meeting.wait(timeout=20)

    meet = model.middle.register_forward_pre_hook(wait)
    halves = PICTURES[:3], PICTURES[3:]
    try:
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(network.activations, halves))
    finally:
        meet.remove()
    assert not has_hooks(model)
    for half, activations in zip(halves, found, strict=True):
        expected = network.activations(half)
        for mine, other in zip(activations.values, expected.values, strict=True):
            assert torch.equal(mine, other)
        assert torch.equal(activations.logits, expected.logits)


def test_exits_can_be_left_out(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).freeze()
    rest = network.without(["middle"])
    assert rest.exit_names == ("stem", "late", "whole model")
    assert rest.frozen
    for index, logits in zip([0, 2, 3], rest(PICTURES), strict=True):
        assert torch.equal(logits, network(PICTURES)[index])
    with pytest.raises(UsageError, match="no such exit"):
        network.without(["whole model"])


def test_a_copy_is_a_network_of_its_own(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).freeze()
    other = copy.deepcopy(network)
    assert isinstance(other, MultiExit)
    nn.init.zeros_(other.backbone.stem[0].weight)
    assert not torch.equal(other(PICTURES)[0], network(PICTURES)[0])
    assert all(weight.requires_grad for weight in other.unfreeze().backbone.parameters())
    assert not any(weight.requires_grad for weight in model.parameters())


def test_shares_of_the_cost_take_the_nearest_places(model: nn.Module) -> None:
    assert MultiExit.attach(model, [0.3, 0.8], example=PICTURES).at == ("stem", "middle")
    assert MultiExit.attach(model, example=PICTURES).at == ("stem", "middle")


def test_text_models_read_ids_and_mask_by_name_and_give_logits_in_an_object() -> None:
    inputs, model = sentences(), bert()
    at = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    network = MultiExit.attach(model, at, ["token", "token@tokens=mean"], example=inputs)
    answers = network(**inputs)
    assert [tuple(logits.shape) for logits in answers] == [(4, CLASSES)] * 3
    assert torch.equal(answers[-1], model(**inputs).logits)
    found = network.activations(inputs["input_ids"], inputs["attention_mask"])
    assert torch.equal(found.mask, inputs["attention_mask"])
    assert torch.equal(answers[1], network.heads[1](found.values[1], inputs["attention_mask"]))
    assert not torch.allclose(answers[1], network.heads[1](found.values[1]))


def test_padding_changes_nothing_for_mean_tokens() -> None:
    inputs = sentences()
    network = MultiExit.attach(bert(), ["bert.encoder.layer.1"], "token@tokens=mean", example=inputs)
    row = {name: value[:1] for name, value in inputs.items()}
    length = int(row["attention_mask"].sum())
    short = {name: value[:, :length] for name, value in row.items()}
    torch.testing.assert_close(network(**row)[0], network(**short)[0])


def test_a_place_may_give_a_tuple_that_starts_with_its_tensor() -> None:
    inputs = sentences()
    network = MultiExit.attach(bert(), ["bert.encoder", "bert.encoder.layer.1.attention"], example=inputs)
    assert network.shapes == ((10, 16), (10, 16))


def test_a_text_network_exports_to_onnx_by_input_names() -> None:
    onnxruntime = pytest.importorskip("onnxruntime", reason="runs the exported network")
    pytest.importorskip("onnxscript", reason="torch exports to ONNX with it")
    inputs = sentences()
    at = ["bert.encoder.layer.0", "bert.encoder.layer.1"]
    network = MultiExit.attach(bert(), at, ["token@tokens=mean", "token/8"], example=inputs).eval()
    batch = torch.export.Dim("batch", min=1, max=4096)
    program = torch.onnx.export(
        network, (), None, kwargs=inputs, dynamo=True, opset_version=18, external_data=False, verbose=False,
        dynamic_shapes={name: {0: batch} for name in inputs},
    )  # fmt: skip
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    assert [put.name for put in session.get_inputs()] == ["input_ids", "attention_mask"]
    for rows in (1, 4):
        part = {name: value[:rows] for name, value in inputs.items()}
        answers = session.run(None, {name: value.numpy() for name, value in part.items()})
        for got, expected in zip(answers, network(**part), strict=True):
            torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("changed", "word"),
    [
        ({"at": ["steam"]}, "stem"),
        ({"at": [""]}, "no module"),
        ({"at": ["stem", "stem"]}, "twice"),
        ({"at": []}, "empty"),
        ({"at": "stem"}, "list of module names"),
        ({"at": [1.5]}, "share"),
        ({"at": ["stem", 0.5]}, "0.5"),
        ({"head": ["linear"]}, "1 heads for 3 exits"),
        ({"head": "token"}, "cannot read"),
        ({"head": "lineal"}, "lineal"),
        ({"example": PICTURES[:1]}, "1 rows"),
        ({"example": {}}, "no tensor"),
        ({"example": None}, "got: None"),
        ({"example": 3.0}, "got: 3.0"),
        ({"example": {"image": PICTURES}}, "image"),
    ],
)
def test_a_request_that_cannot_be_met_is_refused(model: nn.Module, changed: dict[str, Any], word: str) -> None:
    with pytest.raises(EdgeExitError, match=word):
        MultiExit.attach(model, **{"at": AT, "example": PICTURES, **changed})


@pytest.mark.parametrize(("wrong", "got"), [(print, "builtin_function"), (PlainNet, "class PlainNet"), (None, "None")])
@pytest.mark.parametrize("at", ["auto", AT])
def test_a_model_that_is_no_torch_module_is_refused(wrong: Any, got: str, at: Any) -> None:
    with pytest.raises(UsageError, match=got):
        MultiExit.attach(wrong, at, example=PICTURES)


class Odd(nn.Module):
    """Modules that cannot carry an exit."""

    def __init__(self, *, logits: bool = True) -> None:
        super().__init__()
        self.twice, self.never, self.chosen = nn.Linear(4, 4), nn.Linear(4, 4), nn.Identity()
        self.swapped, self.scalar, self.words = nn.Identity(), nn.Identity(), nn.Identity()
        self.logits = logits

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.twice(self.twice(x))
        self.chosen(x.argmax(1, keepdim=True))
        self.words("text")
        self.scalar(x.mean(1))
        self.swapped(x.T)
        return x if self.logits else x.argmax(1)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("twice", "runs 2 times"),
        ("never", "does not run"),
        ("chosen", "int64"),
        ("words", "str"),
        ("swapped", "batch as axis 0"),
        ("scalar", "batch as axis 0"),
    ],
)
def test_a_module_that_cannot_carry_an_exit_is_refused_with_the_reason(name: str, word: str) -> None:
    with pytest.raises(EdgeExitError, match=word) as caught:
        MultiExit.attach(Odd(), [name], example=numbers(4, 4))
    assert name in str(caught.value)


def test_a_model_without_logits_is_refused() -> None:
    with pytest.raises(ModelError, match="no logits"):
        MultiExit.attach(Odd(logits=False), ["twice"], example=numbers(4, 4))


def test_heads_are_described_by_values_too(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, HeadSpec(kind="conv", channels=(4,)), example=PICTURES)
    assert [head.spec.channels for head in network.heads] == [(4,)] * 3


class OwnExits(nn.Module):
    """Gives several logits."""

    def __init__(self, kind: type[tuple[Any, ...]] | type[list[Any]]) -> None:
        super().__init__()
        self.first, self.early, self.late, self.kind = nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(6, 3), kind

    def forward(self, x: torch.Tensor) -> Any:
        x = self.first(x)
        return self.kind((self.early(x), self.late(x)))


@pytest.mark.parametrize("at", ["auto", ["first"]])
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_model_with_exits_of_its_own_is_refused(at: Any, kind: Any) -> None:
    with pytest.raises(UsageError, match="exits of its own"):
        MultiExit.attach(OwnExits(kind), at, example=numbers(4, 4))


def test_a_network_that_has_exits_gets_no_more_of_them(model: nn.Module) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES)
    with pytest.raises(UsageError, match="exits of its own"):
        MultiExit.attach(network, ["backbone.stem"], example=PICTURES)


class LogitsFirst(PlainNet):
    """Gives features beside its logits."""

    def forward(self, picture: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # type: ignore[override]
        features = self.late(self.middle(self.stem(picture))).mean((2, 3))
        return self.head(features), features


def test_what_a_model_gives_beside_its_logits_makes_no_exit() -> None:
    network = MultiExit.attach(seeded(LogitsFirst), AT, example=PICTURES)
    assert network(PICTURES)[-1].shape == (6, CLASSES)


class DropsInPlace(nn.Module):
    """Dropout writes into what the layer before it gave, but only in training."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.dropping, self.head = nn.Linear(8, 8), nn.Dropout(0.9, inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.dropping(self.first(x)))


def test_a_place_that_is_overwritten_in_training_alone_shows_what_the_module_gave() -> None:
    model, vectors = seeded(DropsInPlace), numbers(4, 8)
    network = MultiExit.attach(model, ["first"], example=vectors).train()
    assert torch.equal(network.activations(vectors).values[0], model.first(vectors))
    sum(logits.sum() for logits in network(vectors)).backward()
    assert all(weight.grad is not None for weight in network.parameters())


class Flattening(nn.Module):
    """Convolutions, then vectors of which no convolution can be made, where most of the cost lies."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.wide, self.wider, self.head = nn.Linear(512, 64), nn.Linear(64, 64), nn.Linear(64, CLASSES)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.wider(self.wide(self.stem(x).flatten(1))))


@pytest.mark.parametrize("at", ["auto", [0.5, 0.9]])
def test_places_that_a_head_cannot_read_are_no_candidates(at: Any) -> None:
    model = seeded(Flattening)
    assert MultiExit.attach(model, at, example=PICTURES).at != ("stem",)
    assert MultiExit.attach(model, at, "conv", example=PICTURES).at == ("stem",)
    with pytest.raises(UsageError, match="can read no place"):
        MultiExit.attach(model, at, "token", example=PICTURES)


def test_places_may_be_chosen_by_time_and_only_where_shares_are_asked_for(model: nn.Module) -> None:
    assert MultiExit.attach(model, [0.5], example=PICTURES, cost="ms").at
    for at in (AT, "selfxit"):
        with pytest.raises(UsageError, match="shares"):
            MultiExit.attach(model, at, example=PICTURES, cost="ms")
    with pytest.raises(UsageError, match="cost is unknown"):
        MultiExit.attach(model, example=PICTURES, cost="joules")  # type: ignore[arg-type]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda network: pickle.loads(pickle.dumps(network))])
def test_a_copy_and_a_pickle_answer_as_the_network_does(model: nn.Module, again: Any) -> None:
    network = MultiExit.attach(model, AT, example=PICTURES).freeze()
    other = again(network)
    assert list(inspect.signature(other.forward).parameters) == ["picture"]
    assert (other.at, other.frozen) == (network.at, True)
    assert other.backbone is not model
    for mine, its in zip(network(PICTURES), other(PICTURES), strict=True):
        assert torch.equal(mine, its)
    assert other.without(["stem"]).at == ("middle", "late")
    assert all(weight.requires_grad for weight in other.unfreeze().backbone.parameters())
