"""Joint training: exits learn together, and what goes wrong leaves something to go on from."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from core.training.small_nets import (  # noqa: E402 torch may be missing
    CLASSES,
    ByDesign,
    Viewing,
    a_network,
    picture_feeds,
    pictures,
    values,
    vector_feeds,
)
from edgeexit.errors import BackendError, DataError, ModelError, UsageError  # noqa: E402
from edgeexit.training.feeding import Feed  # noqa: E402
from edgeexit.training.settings import TrainSettings, rate_share  # noqa: E402
from edgeexit.training.trainer import train  # noqa: E402

BASE = {
    "mode": "joint",
    "epochs": 3,
    "batch": 32,
    "rate": 0.02,
    "backbone_rate": 0.5,
    "threads": 1,
    "precision": "fp32",
}


def settings(**changes: object) -> TrainSettings:
    return TrainSettings(**{**BASE, **changes})


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("optimiser", ["adamw", "sgd"])
def test_all_exits_learn_together(optimiser: str, precision: str) -> None:
    network = a_network()
    result = train(
        network, *picture_feeds(), settings(optimiser=optimiser, rate=0.05, epochs=8, precision=precision), quiet=True
    )
    assert [outcome.name for outcome in result.exits] == ["first", "second", "whole model"]
    assert all(outcome.converged and outcome.accuracy > 0.7 for outcome in result.exits)
    assert all(parameter.dtype == torch.float32 for parameter in network.parameters())


def test_the_same_seed_gives_the_same_bits_and_another_seed_others() -> None:
    def trained(seed: int) -> dict[str, bytes]:
        network = a_network()
        train(network, *picture_feeds(), settings(seed=seed, epochs=1, augment="crop"), quiet=True)
        return values(network)

    assert trained(0) == trained(0)
    assert trained(0) != trained(1)


def test_the_outcomes_are_those_of_the_weights_that_are_kept() -> None:
    network = a_network()
    data, held = picture_feeds()
    result = train(network, data, held, settings(epochs=6, rate=0.3, schedule="constant"), quiet=True)
    images, labels = pictures(60, 2)
    with torch.no_grad():
        logits = network.eval()(images)
    for outcome, answers in zip(result.exits, logits, strict=True):
        assert outcome.accuracy == pytest.approx((answers.argmax(1) == labels).float().mean().item())
        assert outcome.loss == pytest.approx(torch.nn.functional.cross_entropy(answers, labels).item(), rel=1e-4)
        assert outcome.epoch == result.best_epoch


def test_a_network_with_exits_of_its_own_learns_too() -> None:
    network = ByDesign()
    result = train(network, *vector_feeds(), settings(epochs=10, batch=8), quiet=True)
    assert [outcome.name for outcome in result.exits] == ["exit 1", "exit 2"]
    assert all(outcome.converged for outcome in result.exits)


def test_heads_can_go_first_while_the_backbone_stays() -> None:
    network = a_network()
    before, heads = values(network.backbone), values(network.heads)
    train(network, *picture_feeds(), settings(epochs=1, heads_first=1), quiet=True)
    assert values(network.backbone) == before
    assert values(network.heads) != heads
    train(network, *picture_feeds(), settings(epochs=2, heads_first=1, keep="last"), quiet=True)
    assert values(network.backbone) != before
    assert not network.frozen


def test_self_distillation_brings_earlier_exits_nearer_to_the_last() -> None:
    def distance(weight: float) -> float:
        network = a_network()
        chosen = settings(epochs=6, self_distillation=weight, rate=0.03, keep="last")
        train(network, *picture_feeds(), chosen, quiet=True)
        with torch.no_grad():
            early, _, last = (answers.log_softmax(1) for answers in network.eval()(pictures(60, 2)[0]))
        return torch.nn.functional.kl_div(early, last, reduction="batchmean", log_target=True).item()

    assert distance(3.0) < distance(0.0)


def test_an_exit_without_weight_learns_nothing() -> None:
    network = a_network()
    before = values(network.heads[0])
    train(network, *picture_feeds(), settings(loss_weights=(0.0, 0.5, 0.5), weight_decay=0.0), quiet=True)
    after = values(network.heads[0])
    assert all(after[name] == bits for name, bits in before.items() if name.startswith("classifier"))


def test_layout_device_and_modes_are_handed_back_as_they_were() -> None:
    network = a_network().train()
    network.backbone.first.eval()
    strides = {name: tensor.stride() for name, tensor in network.state_dict().items()}
    identities = [id(parameter) for parameter in network.parameters()]
    modes = [module.training for module in network.modules()]
    train(network, *picture_feeds(), settings(epochs=1), quiet=True)
    assert {name: tensor.stride() for name, tensor in network.state_dict().items()} == strides
    assert [id(parameter) for parameter in network.parameters()] == identities
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_network_that_uses_view_trains_in_the_layout_that_it_needs() -> None:
    result = train(a_network(Viewing), *picture_feeds(), settings(epochs=1), quiet=True)
    assert result.epochs == 1


def test_training_stops_when_held_out_samples_get_no_better() -> None:
    result = train(
        ByDesign(), *vector_feeds(), settings(epochs=60, patience=2, rate=0.5, schedule="constant"), quiet=True
    )
    assert result.epochs == result.best_epoch + 2 < 60


class Poisoned(Feed):
    """A NaN in one step of the second epoch."""

    def epoch(self, number: int, start: int = 0):
        for step, batch in enumerate(super().epoch(number, start), start):
            if (number, step) == (1, 2):
                batch.inputs[0][0] = float("nan")
            yield batch


def poisoned(feed: Feed) -> Poisoned:
    return Poisoned(**{name: getattr(feed, name) for name in feed.__dataclass_fields__})


def test_a_loss_that_turns_nan_stops_the_run_and_the_last_good_weights_stay(tmp_path: Path) -> None:
    good = a_network()
    data, held = picture_feeds()
    with pytest.raises(ModelError, match="epoch 2, step 3") as caught:
        train(good, poisoned(data), held, settings(), folder=tmp_path / "nan", quiet=True)
    assert caught.value.exit_code == 4
    assert all(math.isfinite(value) for tensor in good.state_dict().values() for value in tensor.flatten().tolist())
    resumed = a_network()
    result = train(resumed, data, held, settings(), folder=tmp_path / "nan", resume=True, quiet=True)
    whole = a_network()
    expected = train(whole, data, held, settings(), quiet=True)
    assert values(resumed) == values(whole)
    assert result.exits == expected.exits


def test_without_a_folder_a_diverged_network_holds_the_weights_of_its_last_good_epoch() -> None:
    data, held = picture_feeds()
    network, one_epoch = a_network(), a_network()
    with pytest.raises(ModelError, match="lower rate"):
        train(network, poisoned(data), held, settings(keep="last"), quiet=True)

    class Ending(Poisoned):
        def epoch(self, number: int, start: int = 0):
            if number == 1:
                raise InterruptedError
            yield from Feed.epoch(self, number, start)

    ending = Ending(**{name: getattr(data, name) for name in data.__dataclass_fields__})
    with pytest.raises(InterruptedError):
        train(one_epoch, ending, held, settings(keep="last"), quiet=True)
    assert values(network) == values(one_epoch)


def test_held_out_samples_that_are_not_finite_are_told_as_such() -> None:
    data, held = picture_feeds()
    held.rows.arrays["x"][7] = math.nan
    with pytest.raises(ModelError, match=r"after epoch 1, on the held-out samples") as caught:
        train(a_network(), data, held, settings(), quiet=True)
    assert "step" not in str(caught.value)


def picture_feed(count: int, seed: int, change: Callable[[torch.Tensor], torch.Tensor]) -> Feed:
    images, labels = pictures(count, seed)
    return Feed.from_arrays(change(images), labels)


WRONG = {
    "channels": (lambda images: images[:, :2], "float32 (2, 2, 6, 6)"),
    "axes": (lambda images: images.permute(0, 2, 3, 1), "float32 (2, 6, 6, 3)"),
    "type": (lambda images: images.to(torch.uint8), "uint8 (2, 3, 6, 6)"),
    "size": (lambda images: images[:, :, :1, :1], "float32 (2, 3, 1, 1)"),
}


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("mode", ["joint", "layerwise"])
@pytest.mark.parametrize("side", ["training", "held-out"])
def test_data_that_do_not_fit_the_network_are_refused_with_their_shapes_and_types(
    wrong: str, mode: str, side: str
) -> None:
    change, got = WRONG[wrong]
    feeds = {"training": picture_feed(64, 1, torch.Tensor.clone), "held-out": picture_feed(30, 2, torch.Tensor.clone)}
    feeds[side] = picture_feed(64, 1, change)
    with pytest.raises(DataError, match=f"fails on the {side} samples") as caught:
        train(a_network(), *feeds.values(), settings(mode=mode), quiet=True)
    assert f"x: {got}; RuntimeError: " in str(caught.value)
    assert "forward(image)" in str(caught.value)


class TwoInputs(ByDesign):
    def forward(self, x: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return super().forward(x * scale)


def test_a_missing_input_is_named() -> None:
    with pytest.raises(DataError, match=r"TypeError: .*'scale'"):
        train(TwoInputs(), *vector_feeds(), settings(), quiet=True)


def test_held_out_samples_with_other_inputs_are_refused() -> None:
    data, held = (
        Feed.from_arrays({name: feed.rows.arrays["x"] for name in names}, feed.labels)
        for feed, names in zip(vector_feeds(), [("x", "scale"), ("scale", "x")], strict=True)
    )
    with pytest.raises(DataError, match="other inputs"):
        train(TwoInputs(), data, held, settings(), quiet=True)


def test_the_last_exit_is_never_said_to_be_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    data, held = vector_feeds()
    rows = torch.randperm(len(data.labels), generator=torch.Generator().manual_seed(0)).numpy()
    mixed = Feed.from_arrays(data.rows.arrays["x"], data.labels[rows])
    train(ByDesign(), mixed, held, settings(epochs=1, rate=1e-6, batch=8), quiet=True)
    early, last = capsys.readouterr().err.splitlines()
    assert early.startswith("The exit at exit 1 did not converge: it is right on ")
    assert early.endswith(" % of the held-out samples. Leave it out.")
    assert last.startswith("The last exit (exit 2)")
    assert "eave" not in last


def test_a_network_that_is_not_finite_to_begin_with_is_an_error_of_the_model() -> None:
    network = a_network()
    torch.nn.init.constant_(network.backbone.last.weight, math.nan)
    with pytest.raises(ModelError, match="diverged"):
        train(network, *picture_feeds(), settings(), quiet=True)


def test_a_network_with_one_output_is_told_how_to_get_exits() -> None:
    with pytest.raises(ModelError, match=r"MultiExit\.attach"):
        train(torch.nn.Linear(6, CLASSES), *vector_feeds(), settings(), quiet=True)
    with pytest.raises(UsageError, match="MultiExit"):
        train(ByDesign(), *vector_feeds(), TrainSettings(mode="layerwise"), quiet=True)
    with pytest.raises(UsageError, match="go first"):
        train(ByDesign(), *vector_feeds(), settings(heads_first=1), quiet=True)


def test_a_label_that_is_no_class_is_refused() -> None:
    data, held = vector_feeds()
    wrong = Feed.from_arrays(data.rows.arrays["x"], data.labels + 1)
    with pytest.raises(DataError, match="0 to 2"):
        train(ByDesign(), wrong, held, settings(), quiet=True)


def test_held_out_samples_of_one_class_are_refused() -> None:
    data, held = vector_feeds()
    one = Feed.from_arrays(held.rows.arrays["x"], held.labels * 0)
    with pytest.raises(DataError, match="held-out"):
        train(ByDesign(), data, one, settings(), quiet=True)


def test_inputs_of_several_names_reach_their_parameters() -> None:
    class Named(ByDesign):
        def forward(self, other=None, x=None, scale=None):
            assert other is None
            return super().forward(x * scale)

    data, held = vector_feeds()
    feeds = [
        Feed.from_arrays({"scale": torch.ones(feed.samples, 1), "x": feed.rows.arrays["x"]}, feed.labels)
        for feed in (data, held)
    ]
    assert train(Named(), *feeds, settings(epochs=1), quiet=True).epochs == 1


def test_metrics_are_json_lines_and_events(tmp_path: Path) -> None:
    train(a_network(), *picture_feeds(), settings(), folder=tmp_path, quiet=True)
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(record["epoch"], record["step"]) for record in records] == [(1, 4), (2, 8), (3, 12)]
    assert set(records[0]["exits"]) == {"first", "second", "whole model"}


def test_progress_is_shown_unless_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    train(ByDesign(), *vector_feeds(), settings(epochs=1), quiet=False)
    assert "training: 2/2" in capsys.readouterr().err
    train(ByDesign(), *vector_feeds(), settings(epochs=1), quiet=True)
    assert "training:" not in capsys.readouterr().err


@pytest.mark.parametrize("name", ["gpu", "cuda:99"])
def test_a_device_that_is_not_there_is_an_error(name: str) -> None:
    with pytest.raises((UsageError, BackendError), match="device"):
        train(ByDesign(), *vector_feeds(), settings(device=name), quiet=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"rate": 0.0},
        {"rate": math.nan},
        {"rate": 1e38},
        {"mode": "both"},
        {"warmup": 1.5},
        {"loss_weights": "eeNet"},
        {"mode": "distilled", "heads_first": 1},
        {"heads_first": 9},
        {"patience": 1, "keep": "last"},
        {"temperature": 0.0},
        {"epochs": "3"},
        {"epochs": 1.5},
        {"epochs": True},
        {"rate": "0.1"},
        {"device": 0},
        {"loss_weights": ("a",)},
        {"mode": 1},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(UsageError, match=next(reversed(wrong)) if len(wrong) == 1 else None):
        settings(**wrong)


@pytest.mark.parametrize("schedule", ["cosine", "onecycle", "constant"])
def test_the_rate_climbs_through_the_warm_up_and_then_never_rises(schedule: str) -> None:
    chosen = settings(schedule=schedule, warmup=0.2)
    shares = [rate_share(chosen, step, 100) for step in range(100)]
    top = shares.index(max(shares))
    assert shares[:top] == sorted(shares[:top])
    assert shares[top:] == sorted(shares[top:], reverse=True)
    assert top == (30 if schedule == "onecycle" else 20)
    assert max(shares) == 1
    assert min(shares) > 0


def test_loss_weights_that_do_not_fit_are_refused_before_the_folder_is_touched(tmp_path: Path) -> None:
    for network, data in ((a_network(), picture_feeds()), (ByDesign(), vector_feeds())):
        with pytest.raises(UsageError, match="weights"):
            train(network, *data, settings(loss_weights=(0.1, 0.1, 0.1, 0.1)), folder=tmp_path / "run", quiet=True)
        assert not (tmp_path / "run").exists()


def test_loss_weights_in_a_list_are_as_in_a_tuple() -> None:
    assert settings(loss_weights=[0.2, 0.3]) == settings(loss_weights=(0.2, 0.3))
    assert hash(settings(loss_weights=[0.2, 0.3])) == hash(settings(loss_weights=(0.2, 0.3)))


def test_exits_that_learnt_nothing_can_be_left_out_whatever_became_of_the_whole_model() -> None:
    network = a_network()
    result = train(network, *picture_feeds(), settings(epochs=1, rate=1e-9), quiet=True)
    assert not any(outcome.converged for outcome in result.exits)
    assert network.without(result.useless).exit_names == ("whole model",)
