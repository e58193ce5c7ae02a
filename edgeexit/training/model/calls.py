"""An example as a model is called with it, and what the model gives back."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, takewhile
from typing import Any

import torch
from torch import Tensor, nn

from edgeexit.errors import ModelError, UsageError

__all__ = ["Call", "Example", "checked_model", "evaluating", "first_tensor", "logits_of", "refuse_own_exits"]

Example = Tensor | Sequence[Tensor] | Mapping[str, Tensor]
"""A model's inputs: its only one, all by position, or by the names of `forward`'s parameters."""

_EXPECTED = "a tensor, a tuple of tensors or a dict of tensors by input name, of at least 2 rows"
_FEWEST_ROWS = 2
_LOGITS_RANK = 2


@dataclass(frozen=True)
class Call:
    """Arguments of a model's `forward`; tensors that begin with the batch have the same number of rows."""

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example: Example) -> Call:
        """Read an example.

        Raises:
            UsageError: It is no example, holds no tensor, or fewer than two rows.
        """
        if not isinstance(example, Iterable):
            raise UsageError("there is no example of the model's inputs", got=repr(example), expected=_EXPECTED)
        if isinstance(example, Mapping):
            call = cls((), dict(example))
        else:
            call = cls((example,) if isinstance(example, Tensor) else tuple(example), {})
        tensors = [value for value in call.values() if isinstance(value, Tensor) and value.dim() > 0]
        if not tensors or len(tensors[0]) < _FEWEST_ROWS:
            got = f"{len(tensors[0])} rows" if tensors else "no tensor with a batch axis"
            raise UsageError(
                "the example does not show where the batch is",
                got=got,
                expected=_EXPECTED,
            )
        return call

    def values(self) -> Iterator[Any]:
        """All arguments."""
        yield from chain(self.args, self.kwargs.values())

    @property
    def rows(self) -> int:
        """Size of the batch."""
        return next(len(value) for value in self.values() if isinstance(value, Tensor) and value.dim() > 0)

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with each tensor that has the batch as axis 0 changed."""
        rows = self.rows

        def change_one(value: Any) -> Any:
            has_batch = isinstance(value, Tensor) and value.dim() > 0 and len(value) == rows
            return change(value) if has_batch else value

        return Call(tuple(map(change_one, self.args)), {name: change_one(v) for name, v in self.kwargs.items()})

    def first(self, rows: int) -> Call:
        """With the first rows alone."""
        return self.mapped(lambda tensor: tensor[:rows])

    def one_row_more(self) -> Call:
        """With the first row once more at the end."""
        return self.mapped(lambda tensor: torch.cat([tensor, tensor[:1]]))

    def beside(self, model: nn.Module) -> Call:
        """With all tensors on the device of the model's weights."""
        weight = next(chain(model.parameters(), model.buffers()), None)
        if weight is None:
            return self
        move = weight.device
        return Call(
            tuple(value.to(move) if isinstance(value, Tensor) else value for value in self.args),
            {name: value.to(move) if isinstance(value, Tensor) else value for name, value in self.kwargs.items()},
        )

    def run(self, model: nn.Module) -> Any:
        """What the model gives, without gradients.

        Raises:
            ModelError: The model fails.
        """
        try:
            with torch.no_grad():
                return model(*self.args, **self.kwargs)
        except Exception as error:  # whatever the user's model raises
            types = ", ".join(
                f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
                for value in self.values()
                if isinstance(value, Tensor)
            )
            raise ModelError(
                "the model fails on the example",
                got=f"{type(error).__name__}: {error}",
                expected=f"a model that takes {types}",
                remedy="give an example of the shapes and types that the model takes",
            ) from error


def checked_model(model: object) -> nn.Module:
    """The model, if it is a torch module.

    Raises:
        UsageError: It is something else.
    """
    if isinstance(model, nn.Module):
        return model
    got = f"the class {model.__name__}" if isinstance(model, type) else f"{type(model).__name__}"
    raise UsageError(
        "exits are attached to torch models",
        got=got,
        expected="a torch.nn.Module",
        remedy="make one of the class first: MyModel()" if isinstance(model, type) else None,
    )


def first_tensor(output: object) -> Tensor | None:
    """The tensor that a module's output is or starts with, in a tuple, a list or a mapping; None: there is none."""
    if isinstance(output, Mapping):
        output = tuple(output.values())
    if isinstance(output, tuple | list) and output:
        output = output[0]
    return output if isinstance(output, Tensor) else None


def refuse_own_exits(output: object) -> None:
    """Refuse what a model with exits of its own gives: to which of them exits are added, nobody could say.

    Args:
        output: Of a model; a tuple that begins with two floating tensors (n, C) of one shape is refused.

    Raises:
        UsageError: It is one.
    """
    if not isinstance(output, tuple | list) or isinstance(getattr(output, "logits", None), Tensor):
        return
    shapes = [tuple(one.shape) if isinstance(one, Tensor) and one.is_floating_point() else () for one in output]
    alike = list(takewhile(lambda shape: shape == shapes[0], shapes))
    if len(alike) > 1 and len(alike[0]) == _LOGITS_RANK:
        raise UsageError(
            "the model has exits of its own",
            got=f"{len(alike)} outputs of shape {alike[0]}",
            expected="a model with one answer",
            remedy="train it jointly as it is, edgeexit.training.train(model, …); edgeexit export keeps its exits",
        )


def logits_of(output: object) -> Tensor:
    """The logits (n, C) in a model's output: a tensor, a tuple that starts with them, or an object's `.logits`.

    Raises:
        ModelError: There are none.
    """
    found = getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        found = output["logits"] if isinstance(output, Mapping) and "logits" in output else first_tensor(output)
    if not isinstance(found, Tensor) or found.dim() != _LOGITS_RANK or not found.is_floating_point():
        got = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(output).__name__
        raise ModelError(
            "the model's output holds no logits",
            got=got,
            expected="a floating tensor (batch, classes), a tuple that starts with it, or an object with .logits",
        )
    return found


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode for a while; afterwards each module is in the mode that it was in."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
