"""A recommendation network (Naumov et al. 2019, DLRM), and made-up clicks to train it on.

Numbers go through a bottom MLP to a vector, categories through embedding tables to one vector each, every two
vectors are multiplied (dot interaction), and a top MLP reads the products. Here the products are computed in
two steps: first those of the small tables, then those of the large ones. The network's answer is the same as
if all were computed at once, but there is a place between the steps where an exit has seen everything that is
cheap to look up, and nothing of the large tables: a row that leaves there reads no byte of them, and a device
that answers such rows need not hold them.

    MultiExit.attach(DLRM(), at=EXITS, example=…)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

__all__ = ["DENSE", "DLRM", "EXITS", "LARGE", "SMALL", "TABLES", "WIDTH", "World", "clicks"]

DENSE = 13
SMALL = (8, 20, 50, 100)
LARGE = (1000,) * 8
TABLES = {"small": SMALL, "large": LARGE}
"""Rows of each embedding table."""

WIDTH = 16
"""D, the length of a vector."""

EXITS = ("bottom", "small", "large", "top.0")
"""Where exits are put: behind the numbers, the small tables, the large tables, and the first layer of the top MLP."""


class DLRM(nn.Module):
    """Logits of "no click" and "click" from numbers and categories.

    Args:
        dense: Numbers of a row.
        small: Rows of each of the tables that are looked up first.
        large: Rows of the others.
        bottom: Hidden layers of the MLP over the numbers.
        top: Hidden layers of the MLP over the products.
    """

    def __init__(
        self,
        *,
        dense: int = DENSE,
        small: Sequence[int] = SMALL,
        large: Sequence[int] = LARGE,
        width: int = WIDTH,
        bottom: Sequence[int] = (128, 64),
        top: Sequence[int] = (512, 256),
    ) -> None:
        super().__init__()
        self.bottom = nn.Sequential(*(layer(a, b) for a, b in pairwise((dense, *bottom, width))))
        self.small = Interaction(small, 1, width)
        self.large = Interaction(large, 1 + len(small), width)
        vectors = 1 + len(small) + len(large)
        inside = width + vectors * (vectors - 1) // 2
        self.top = nn.Sequential(*(layer(a, b) for a, b in pairwise((inside, *top))), nn.Linear(top[-1], 2))

    def forward(self, dense: Tensor, small: Tensor, large: Tensor) -> Tensor:
        """Logits (n, 2) from numbers (n, 13) float32 and categories (n, 4) and (n, 8) int64."""
        numbers = self.bottom(dense)
        seen, vectors = self.small(numbers, numbers.unsqueeze(1), small)
        seen, _ = self.large(seen, vectors, large)
        logits: Tensor = self.top(seen)
        return logits


class Interaction(nn.Module):
    """Looks up vectors, and multiplies them with each other and with those that were there before.

    Args:
        tables: Rows of each table; all are kept in one matrix, one after the other.
        before: V, the vectors that are there before.
        width: D.
    """

    offsets: Tensor
    pairs: Tensor

    def __init__(self, tables: Sequence[int], before: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(sum(tables), width)
        nn.init.normal_(self.table.weight, std=width**-0.5)
        self.register_buffer("offsets", torch.tensor([0, *np.cumsum(tables)[:-1]]), persistent=False)
        number = len(tables)
        below = torch.arange(number).unsqueeze(1) + before > torch.arange(before + number)  # each pair once
        self.register_buffer("pairs", below.flatten().nonzero().squeeze(1), persistent=False)

    def forward(self, seen: Tensor, vectors: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """What is known now, and all vectors.

        Args:
            seen: What was known before, (n, F).
            vectors: (n, V, D).
            ids: (n, T) int64, a row of each table.

        Returns:
            (n, F + products), (n, V + T, D).
        """
        found = self.table(ids + self.offsets)
        vectors = torch.cat([vectors, found], dim=1)
        products = (found @ vectors.transpose(1, 2)).flatten(1).index_select(1, self.pairs)
        return torch.cat([seen, products], dim=1), vectors


def layer(inside: int, outside: int) -> nn.Sequential:
    """A linear layer and its ReLU."""
    return nn.Sequential(nn.Linear(inside, outside), nn.ReLU())


class World:
    """What makes people click: a made-up log-odds for every row.

    A weight for each number and a kink in some, a taste and a vector for each category. The log-odds of a click are
    the sum of what the numbers say, with a standard deviation of 2.5, of what the tastes and products of the vectors
    of the small tables say (1) and those of the large ones (1.5), and of how far both together are from zero (1.5),
    which no sum of products tells. So many rows are clear from their numbers, some need the large tables, and some the
    layers behind them. Categories are as frequent as Zipf's law says.

    Args:
        seed: Of everything in it.
    """

    def __init__(self, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.weights, self.kinks = random.normal(size=DENSE), random.normal(size=4)
        self.tastes = {name: [random.normal(size=table) for table in tables] for name, tables in TABLES.items()}
        self.vectors = {name: [random.normal(size=(table, 4)) for table in tables] for name, tables in TABLES.items()}
        self.centres: dict[str, tuple[float, float]] = {}
        self.odds(self.rows(20_000, random))  # where the centres come from

    def rows(self, number: int, random: np.random.Generator) -> dict[str, NDArray[Any]]:
        """Numbers and categories."""
        arrays: dict[str, NDArray[Any]] = {"dense": random.normal(size=(number, DENSE)).astype(np.float32)}
        for name, tables in TABLES.items():
            arrays[name] = np.stack([zipf(random, table, number) for table in tables], axis=1)
        return arrays

    def odds(self, rows: dict[str, NDArray[Any]]) -> NDArray[np.float64]:
        """Log-odds of a click."""
        dense = rows["dense"].astype(np.float64)
        numbers = self.standard("dense", dense @ self.weights + np.abs(dense[:, :4]) @ self.kinks)
        small, large = (self.categories(name, rows[name]) for name in ("small", "large"))
        return 2.5 * numbers + small + 1.5 * large + 1.5 * self.standard("both", np.abs(small + large)) - 1

    def categories(self, name: str, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """What the categories of some tables say."""
        tastes = np.sum([taste[ids[:, k]] for k, taste in enumerate(self.tastes[name])], axis=0)
        found = [vectors[ids[:, k]] for k, vectors in enumerate(self.vectors[name])]
        products = np.sum([(a * b).sum(axis=1) for a, b in pairwise(found)], axis=0)
        both = self.standard(f"{name}.tastes", tastes) + 0.5 * self.standard(f"{name}.products", products)
        return self.standard(name, both)

    def standard(self, what: str, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """With mean 0 and standard deviation 1, over the first rows that were ever asked for."""
        mean, deviation = self.centres.setdefault(what, (float(values.mean()), float(values.std())))
        return (values - mean) / deviation


def clicks(rows: int, seed: int, world: World) -> tuple[dict[str, NDArray[Any]], NDArray[np.float64]]:
    """Rows of a made-up click log, and the chance of a click that each was drawn with.

    Args:
        rows: N.
        seed: Of the rows.
        world: What makes people click.

    Returns:
        `dense` (N, 13) float32, `small` (N, 4) and `large` (N, 8) int64, `y` (N,) int64; and (N,) float64.
    """
    random = np.random.default_rng((1, seed))
    arrays = world.rows(rows, random)
    chance = 1 / (1 + np.exp(-world.odds(arrays)))
    arrays["y"] = (random.random(rows) < chance).astype(np.int64)
    return arrays, chance


def zipf(random: np.random.Generator, categories: int, rows: int) -> NDArray[np.int64]:
    """(rows,) categories, the k-th as frequent as 1 / k."""
    weights = 1 / np.arange(1, categories + 1)
    return random.choice(categories, size=rows, p=weights / weights.sum())
