"""A BERT-style encoder with an exit after every layer goes the whole road: tokens and a mask in, answers out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from edgeexit.bundle import Bundle
from edgeexit.data import Dataset, open_data
from edgeexit.replay import judge, replay
from edgeexit_runtime import Cascade
from edgeexit_runtime.gathering import gather
from integration.material import save_arrays, sentences

torch = pytest.importorskip("torch", reason="training needs torch")
pytest.importorskip("transformers", reason="the encoder is transformers' BertModel")

from edgeexit.training import Feed, MultiExit, TrainSettings, save_run, train  # noqa: E402  # they need torch

INPUTS = ("input_ids", "attention_mask")
CLASSES = ("ash", "birch", "cedar", "elm", "oak")
SOURCE = """
import torch
from torch import nn
from transformers import BertConfig, BertModel


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.bert = BertModel(
            BertConfig(
                vocab_size=20, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32,
                max_position_embeddings=12,
            ),
            add_pooling_layer=False,
        )
        self.classifier = nn.Linear(16, 5)

    def forward(self, input_ids, attention_mask):
        tokens = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        return self.classifier((tokens * weights).sum(1) / weights.sum(1))


def build():
    torch.manual_seed(0)
    return Classifier()
"""


class World:
    """A trained network, its run, its data and its bundle."""

    def __init__(self, folder: Path, source: Any) -> None:
        self.folder = folder
        self.data = {
            name: save_arrays(folder / f"{name}.npz", y=labels, **feeds)
            for name, (feeds, labels) in {
                "train": sentences(600, 1), "calibration": sentences(300, 2), "test": sentences(300, 3)
            }.items()
        }  # fmt: skip
        feeds = {name: self.feed(name) for name in self.data}
        settings = TrainSettings(
            mode="joint", epochs=4, batch=50, rate=1e-2, self_distillation=0.5, threads=1, device="cpu"
        )
        example = dict(zip(INPUTS, feeds["train"].example(2), strict=True))
        places = [f"bert.encoder.layer.{k}" for k in range(2)]
        self.network = MultiExit.attach(source.build(), places, ["token", "token@tokens=mean"], example=example)
        self.result = train(self.network, feeds["train"], feeds["calibration"], settings, quiet=True)
        self.network.eval()
        save_run(folder / "run", self.network, settings, self.result, source="tiny_bert:build", class_names=CLASSES)
        self.bundle = folder / "text.eexit"

    def feed(self, name: str) -> Feed:
        arrays = np.load(self.data[name])
        return Feed.from_arrays({key: arrays[key] for key in INPUTS}, arrays["y"])

    def torch_logits(self, name: str) -> list[NDArray[np.float32]]:
        with torch.no_grad():
            return [values.numpy() for values in self.network(*self.feed(name).example(300))]

    def opened(self, name: str) -> tuple[Cascade, Dataset]:
        cascade = Cascade.open(self.bundle)
        manifest = cascade.manifest
        return cascade, open_data(self.data[name], manifest.inputs, manifest.preprocessing, manifest.labels)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    from edgeexit.cli import main

    folder = tmp_path_factory.mktemp("text")
    (folder / "tiny_bert.py").write_text(SOURCE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(str(folder))
        import tiny_bert

        made = World(folder, tiny_bert)
        splits = ["--data", str(made.data["train"]), "--calibration", str(made.data["calibration"])]
        command = ["export", str(folder / "run"), *splits, "--exits", "2", "--threads", "1", "--quiet"]
        assert main([*command, "--max-drop", "0", "-o", str(made.bundle)]) == 0
    return made


def test_every_exit_learns_more_than_chance_and_is_reported(world: World) -> None:
    assert [one.name for one in world.result.exits] == [*world.network.at, "whole model"]
    assert all(one.converged for one in world.result.exits)


def test_the_bundle_takes_tokens_and_a_mask_and_has_an_exit_after_every_layer(world: World) -> None:
    manifest = Bundle.open(world.bundle).manifest
    assert {spec.name: (spec.dtype, spec.shape) for spec in manifest.inputs} == dict.fromkeys(INPUTS, ("int64", (12,)))
    assert [exit.head for exit in manifest.exits] == ["trained", "trained", "model"]


def test_logits_on_the_device_are_those_of_torch(world: World) -> None:
    cascade, data = world.opened("test")
    found = gather(cascade, data, advance=lambda _: None).logits
    for ours, theirs in zip(found, world.torch_logits("test"), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


def test_away_from_thresholds_every_sentence_leaves_where_torch_says(world: World) -> None:
    cascade, data = world.opened("test")
    answers = cascade.run(next(iter(data.batches(len(data)))))
    logits = world.torch_logits("test")
    margins = judge(cascade.policy, logits).score[:-1] - np.array(cascade.policy.thresholds[:-1])[:, None]
    clear = (np.abs(margins) > 1e-3).all(0)
    expected = replay(cascade.policy, logits)
    assert clear.mean() > 0.9
    np.testing.assert_array_equal(answers.exit[clear], expected.exit[clear])
    np.testing.assert_array_equal(answers.label[clear], expected.label[clear])
    assert len(set(answers.exit.tolist())) > 1


def test_what_stands_where_the_mask_is_zero_changes_no_answer(world: World) -> None:
    cascade, data = world.opened("test")
    batch = dict(next(iter(data.batches(len(data)))))
    logits = cascade.run(batch).probability
    batch["input_ids"] = np.where(batch["attention_mask"] == 1, batch["input_ids"], 7)
    np.testing.assert_allclose(cascade.run(batch).probability, logits, atol=1e-5)


def test_a_sentence_alone_leaves_where_it_leaves_in_a_batch(world: World) -> None:
    cascade, data = world.opened("test")
    together = cascade.run(next(iter(data.batches(40))))
    alone = [cascade.run(batch) for batch in data.take(np.arange(40)).batches(1)]
    assert [int(one.exit[0]) for one in alone] == together.exit.tolist()
    assert [int(one.label[0]) for one in alone] == together.label.tolist()


def test_verify_tune_and_eval_take_the_bundle(world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from edgeexit.cli import main

    def run(*words: object) -> tuple[int, Any]:
        return main([*map(str, words), "--json"]), json.loads(capsys.readouterr().out)

    code, verified = run("verify", world.bundle)
    assert code == 0, verified
    tuned = tmp_path / "tuned.eexit"
    assert run("tune", world.bundle, "--data", world.data["calibration"], "--budget", "0.8", "-o", tuned)[0] == 0
    code, evaluated = run("eval", tuned, "--data", world.data["test"], "--timing-samples", "0")
    assert code == 0
    assert evaluated["mean_cost"] <= 0.8
    assert evaluated["accuracy"] > 0.4
