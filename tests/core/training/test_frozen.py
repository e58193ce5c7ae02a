"""Frozen: heads learn side by side as if alone, and nothing of the backbone moves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training needs torch")

from core.training.small_nets import (  # noqa: E402 torch may be missing
    CLASSES,
    a_network,
    a_pretrained_network,
    picture_feeds,
    recorded,
    values,
)
from edgeexit.errors import DataError, UsageError  # noqa: E402
from edgeexit.training.feeding import Feed  # noqa: E402
from edgeexit.training.frozen import train_heads  # noqa: E402
from edgeexit.training.heads import Head, HeadSpec, build_head  # noqa: E402
from edgeexit.training.settings import TrainSettings  # noqa: E402
from edgeexit.training.trainer import train  # noqa: E402

SETTINGS = TrainSettings(mode="distilled", epochs=4, batch=32, rate=0.05, threads=1)
NAMES = ("early", "late")


def vector_heads() -> list[Head]:
    """With dropout, so that they draw random numbers."""
    spec = HeadSpec(kind="linear", hidden=(8,), dropout=0.3)
    return [build_head(spec, (width,), CLASSES, seed=width) for width in (5, 7)]


@pytest.mark.parametrize("mode", ["layerwise", "distilled", "combined"])
def test_no_bit_of_the_backbone_changes_and_every_head_learns(mode: str) -> None:
    network = a_pretrained_network(head="conv").train()
    before, heads = values(network.backbone), values(network.heads)
    result = train(network, *picture_feeds(), replace_mode(mode), quiet=True)
    assert values(network.backbone) == before
    after = values(network.heads)
    assert all(after[name] != bits for name, bits in heads.items() if name.endswith("weight"))
    assert [outcome.name for outcome in result.exits] == ["first", "second", "whole model"]


def replace_mode(mode: str, **changes: object) -> TrainSettings:
    values = {name: getattr(SETTINGS, name) for name in SETTINGS.__struct_fields__}
    return TrainSettings(**{**values, "mode": mode, **changes})


def test_what_was_trainable_and_in_which_mode_is_so_again() -> None:
    network = a_pretrained_network().train()
    network.backbone.second.eval()
    next(network.backbone.parameters()).requires_grad_(False)
    modes = [module.training for module in network.modules()]
    trainable = [parameter.requires_grad for parameter in network.parameters()]
    train(network, *picture_feeds(), replace_mode("distilled", epochs=1), quiet=True)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == trainable
    assert not network.frozen
    assert all(parameter.grad is None for parameter in network.parameters())


def test_heads_together_get_the_bits_of_each_alone() -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    together = vector_heads()
    train_heads(together, data, held, SETTINGS, names=NAMES, quiet=True)
    for index in range(2):
        alone = vector_heads()[index]
        single = [replace(feed, activations=[feed.activations[index]]) for feed in (data, held)]
        train_heads([alone], *single, SETTINGS, names=[NAMES[index]], quiet=True)
        assert values(alone) == values(together[index])


def test_heads_together_get_the_bits_of_each_alone_also_when_one_stops_early_or_fails() -> None:
    settings = replace_mode("distilled", patience=1, epochs=6)
    data, held = recorded(96, 0), recorded(48, 1)
    data.activations[0][40] = float("inf")
    together = vector_heads()
    outcomes = train_heads(together, data, held, settings, names=NAMES, quiet=True)
    alone = vector_heads()[1]
    single = [replace(feed, activations=[feed.activations[1]]) for feed in (data, held)]
    train_heads([alone], *single, settings, names=["late"], quiet=True)
    assert values(alone) == values(together[1])
    assert [outcome.converged for outcome in outcomes] == [False, True]


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_heads_are_trained_in_the_precision_asked_for_and_judged_in_float32(precision: str) -> None:
    heads = vector_heads()
    seen: dict[bool, set[torch.dtype]] = {True: set(), False: set()}
    for head in heads:
        head.classifier.register_forward_hook(lambda module, _, out: seen[module.training].add(out.dtype))
    settings = replace_mode("distilled", precision=precision)
    outcomes = train_heads(heads, recorded(96, 0), recorded(48, 1), settings, names=NAMES, quiet=True)
    assert seen == {True: {torch.bfloat16 if precision == "bf16" else torch.float32}, False: {torch.float32}}
    assert all(outcome.converged for outcome in outcomes)
    assert all(value.dtype == torch.float32 for head in heads for value in head.parameters())


def test_one_pass_of_the_backbone_serves_all_heads() -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    train_heads(vector_heads(), data, held, SETTINGS, names=NAMES, quiet=True)
    assert data.read == SETTINGS.epochs * data.steps
    assert held.read == SETTINGS.epochs * held.steps


def test_a_head_whose_loss_is_not_finite_is_reported_and_keeps_finite_weights(
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    data.activations[0][40] = float("nan")
    heads = vector_heads()
    early, late = train_heads(heads, data, held, SETTINGS, names=NAMES, quiet=True)
    assert (early.converged, late.converged) == (False, True)
    assert all(parameter.isfinite().all() for parameter in heads[0].parameters())
    said = capsys.readouterr().err
    assert "early did not converge: the activations that it reads were not finite in epoch 1, step " in said
    assert (early.problem in said, late.problem) == (True, None)


def test_held_out_activations_that_are_not_finite_are_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    held.activations[1][40] = float("inf")
    train_heads(vector_heads(), data, held, SETTINGS, names=NAMES, quiet=True)
    said = capsys.readouterr().err
    assert "late did not converge: the activations that it reads were not finite in held-out batch " in said
    assert "early" not in said


def test_a_rate_that_is_far_too_high_is_told_as_such(capsys: pytest.CaptureFixture[str]) -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    train_heads(vector_heads(), data, held, replace_mode("layerwise", rate=1e30), names=NAMES, quiet=True)
    for line in capsys.readouterr().err.splitlines():
        assert "on finite activations; try a lower rate" in line
        assert "0.0 %" not in line


@pytest.mark.parametrize("mode", ["layerwise", "distilled"])
@pytest.mark.parametrize("side", ["training", "held-out"])
def test_answers_of_the_whole_model_that_are_not_finite_end_the_run_and_name_the_batch(mode: str, side: str) -> None:
    feeds = {"training": recorded(96, 0), "held-out": recorded(48, 1)}
    feeds[side].teacher[40, 1] = float("nan")
    where = r"epoch 1, step \d of 3" if side == "training" else r"held-out batch \d after epoch 1"
    with pytest.raises(DataError, match=f"whole model's answers are not finite in {where}") as caught:
        train_heads(vector_heads(), *feeds.values(), replace_mode(mode), names=NAMES, quiet=True)
    assert "got: nan; 1 of " in str(caught.value)


def test_a_picture_that_is_not_finite_ends_a_run_of_heads_at_once() -> None:
    data, held = picture_feeds()
    data.rows.arrays["x"][9] = float("nan")
    with pytest.raises(DataError, match=r"not finite in epoch 1, step \d of 4"):
        train(a_pretrained_network(), data, held, SETTINGS, quiet=True)


def test_classes_that_the_whole_model_shuts_out_do_not_matter_where_heads_learn_from_labels() -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    data.teacher[data.labels == 0, 2] = -float("inf")
    outcomes = train_heads(vector_heads(), data, held, replace_mode("layerwise"), names=NAMES, quiet=True)
    assert all(outcome.converged for outcome in outcomes)


def test_a_head_that_sees_only_noise_does_not_converge(capsys: pytest.CaptureFixture[str]) -> None:
    data, held = recorded(96, 0, noise=(50.0, 0.2)), recorded(90, 1, noise=(50.0, 0.2))
    early, late = train_heads(vector_heads(), data, held, SETTINGS, names=NAMES, quiet=True)
    assert (early.converged, late.converged) == (False, True)
    share = f"{100 * early.accuracy:.1f} %"
    assert capsys.readouterr().err == (
        f"The exit at early did not converge: it agrees with the whole model on {share} of the held-out samples. "
        "Leave it out.\n"
    )


def test_distilled_heads_never_look_at_labels() -> None:
    results = []
    for wrong in (False, True):
        data, held = recorded(96, 0), recorded(48, 1)
        if wrong:
            data.labels, held.labels = torch.full((96,), 10**6), None
        heads = vector_heads()
        outcomes = train_heads(heads, data, held, SETTINGS, names=NAMES, quiet=True)
        assert [outcome.against for outcome in outcomes] == ["model", "model"]
        results.append([values(head) for head in heads])
    assert results[0] == results[1]


def test_distilled_exits_learn_the_models_answers_without_labels() -> None:
    network = a_pretrained_network()
    result = train(network, *picture_feeds(labelled=False), replace_mode("distilled", epochs=6), quiet=True)
    assert result.exits[-1].accuracy == 1.0
    assert all(outcome.accuracy > 0.6 for outcome in result.exits[:-1])


def test_modes_that_need_labels_say_so_where_there_are_none() -> None:
    with pytest.raises(DataError, match="distilled"):
        train(a_network(), *picture_feeds(labelled=False), replace_mode("combined"), quiet=True)
    data = recorded(96, 0)
    data.labels = None
    with pytest.raises(DataError, match="distilled"):
        train_heads(vector_heads(), data, recorded(48, 1), replace_mode("layerwise"), names=NAMES, quiet=True)


def test_one_class_only_is_refused() -> None:
    images, _ = picture_feeds()[0].rows.arrays["x"], None
    one = Feed.from_arrays(images, [1] * len(images))
    with pytest.raises(DataError, match="one class only"):
        train(a_network(), one, picture_feeds()[1], replace_mode("layerwise"), quiet=True)
    held = recorded(48, 1)
    held.teacher = torch.eye(CLASSES)[torch.zeros(48, dtype=torch.int64)]
    with pytest.raises(DataError, match="one answer"):
        train_heads(vector_heads(), recorded(96, 0), held, SETTINGS, names=NAMES, quiet=True)


def test_a_label_that_is_no_class_is_refused() -> None:
    data = recorded(96, 0)
    data.labels = data.labels + 1
    with pytest.raises(DataError, match="0 to 2"):
        train_heads(vector_heads(), data, recorded(48, 1), replace_mode("layerwise"), names=NAMES, quiet=True)


def test_names_have_to_fit_the_heads() -> None:
    for names in (["early"], ["early", "early"]):
        with pytest.raises(UsageError, match="name of its own"):
            train_heads(vector_heads(), recorded(96, 0), recorded(48, 1), SETTINGS, names=names, quiet=True)


def test_heads_stop_when_all_have_waited_long_enough() -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    settings = replace_mode("distilled", epochs=40, patience=2, rate=1.0, schedule="constant")
    outcomes = train_heads(vector_heads(), data, held, settings, names=NAMES, quiet=True)
    assert data.read == (max(outcome.epoch for outcome in outcomes) + 2) * data.steps < 40 * data.steps


def test_the_best_weights_are_kept_and_not_the_last() -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    heads = vector_heads()
    settings = replace_mode("layerwise", epochs=12, rate=1.0, schedule="constant", weight_decay=0.0)
    outcomes = train_heads(heads, data, held, settings, names=NAMES, quiet=True)
    for head, value, outcome in zip(heads, held.activations, outcomes, strict=True):
        loss = torch.nn.functional.cross_entropy(head.eval()(value), held.labels)
        assert loss.item() == pytest.approx(outcome.loss, rel=1e-4)
    assert min(outcome.epoch for outcome in outcomes) < 12


def test_a_run_of_heads_taken_up_again_ends_in_the_same_bits(tmp_path: Path) -> None:
    data, held = recorded(96, 0), recorded(48, 1)
    whole = vector_heads()
    expected = train_heads(whole, data, held, SETTINGS, names=NAMES, folder=tmp_path / "whole", quiet=True)

    class Breaking(type(data)):
        def epoch(self, number: int, start: int = 0):
            for step, batch in enumerate(super().epoch(number, start), start):
                if (number, step) == (2, 1):
                    raise OSError("the power is gone")
                yield batch

    settings = replace_mode("distilled", checkpoint_every=1)
    broken = Breaking(data.activations, data.teacher, data.labels)
    with pytest.raises(OSError, match="power"):
        train_heads(vector_heads(), broken, held, settings, names=NAMES, folder=tmp_path / "cut", quiet=True)
    again = vector_heads()
    options = {"names": NAMES, "folder": tmp_path / "cut", "resume": True, "quiet": True}
    assert train_heads(again, data, held, settings, **options) == expected
    assert [values(head) for head in again] == [values(head) for head in whole]


def test_a_run_is_not_taken_up_with_another_backbone(tmp_path: Path) -> None:
    options = {"folder": tmp_path, "quiet": True}
    train(a_pretrained_network(), *picture_feeds(), SETTINGS, **options)
    with pytest.raises(UsageError, match="backbone was different"):
        train(a_network(seed=1), *picture_feeds(), SETTINGS, resume=True, **options)


def test_the_users_random_numbers_go_on_as_if_nothing_had_been_trained() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_heads(vector_heads(), recorded(96, 0), recorded(48, 1), SETTINGS, names=NAMES, quiet=True)
    assert torch.equal(torch.rand(3), expected)
