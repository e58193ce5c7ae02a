"""Timing: how long a model takes until each of its modules has run."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

import torch
from torch import nn

from edgeexit.training.model.calls import Call, evaluating
from edgeexit.training.model.recording import watched

__all__ = ["milliseconds"]

_RUNS = 5


def milliseconds(model: nn.Module, call: Call, names: Sequence[str]) -> list[float]:
    """Median time until each module has run, then until the model has.

    Args:
        model: Run in eval mode, a few times, the first of which warms it up.
        call: What it is run on.
        names: Of modules that run.

    Raises:
        UsageError: The model has no module of a name.
        ModelError: The model fails.
    """
    device = next((weight.device for weight in model.parameters()), torch.device("cpu"))
    runs: list[list[float]] = []

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    with evaluating(model):
        for _ in range(_RUNS + 1):
            times = dict.fromkeys(names, 0.0)
            start = now()

            def note(name: str, _: object, times: dict[str, float] = times, start: float = start) -> None:
                times[name] = 1000 * (now() - start)

            with watched(model, names, note):
                call.run(model)
            runs.append([*times.values(), 1000 * (now() - start)])
    return [statistics.median(each) for each in zip(*runs[1:], strict=True)]
