"""A model as a graph, by torch.export, with what each module gives and what each operator costs."""

from __future__ import annotations

import inspect
from typing import Any, cast

import torch
from torch import Tensor, fx, nn
from torch.export.graph_signature import InputKind
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from edgeexit.console import hushed
from edgeexit.errors import ModelError
from edgeexit.training.model.calls import Call, evaluating, first_tensor, logits_of
from edgeexit.training.model.counting import flop_counter
from edgeexit.training.model.dataflow import Dataflow, Measured, dataflow
from edgeexit.training.model.recording import watched

__all__ = ["trace"]

_FEWEST_AXES = 2


def trace(model: nn.Module, call: Call) -> Dataflow:
    """Find the position after each module's output.

    The position *after tensor t* is reached when t and all that it needs have been computed, as in the
    exporter. Modules that run several times have none.

    Raises:
        ModelError: torch.export cannot trace the model with a free batch axis.
    """
    recorder = _Recorder(model, call)
    with evaluating(model), sdpa_kernel(SDPBackend.MATH):  # attention as countable matrix products
        program = _exported(recorder)
        few, more = (_measured(program, each) for each in (call, call.one_row_more()))
    return dataflow(program, recorder.modules_seen.found, _input_names(model, call), (few, more))


class _Names:
    """A list where torch.export, which resets a module's attributes, does not see it."""

    found: list[str]


class _Recorder(nn.Module):
    """Gives the logits and a copy of every module's output; a copy, as later operations may write into it."""

    def __init__(self, model: nn.Module, call: Call) -> None:
        super().__init__()
        self.model = model
        self.call = call
        self.modules_seen = _Names()

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        rest = iter(tensors)
        args = [next(rest) if isinstance(value, Tensor) else value for value in self.call.args]
        named = {k: next(rest) if isinstance(value, Tensor) else value for k, value in self.call.kwargs.items()}
        seen: dict[str, list[Tensor]] = {}

        def note(name: str, output: object) -> None:
            tensor = first_tensor(output)
            usable = tensor is not None and tensor.is_floating_point() and tensor.dim() >= _FEWEST_AXES
            seen.setdefault(name, []).append(cast(Tensor, tensor).clone() if usable else torch.empty(0))

        modules = [name for name, _ in self.model.named_modules() if name]
        with watched(self.model, modules, note):
            logits = logits_of(self.model(*args, **named))
        once = {name: tensors[0] for name, tensors in seen.items() if len(tensors) == 1 and tensors[0].numel()}
        self.modules_seen.found = list(once)
        return (logits, *once.values())


def _tensors(call: Call) -> tuple[Tensor, ...]:
    return tuple(value for value in call.values() if isinstance(value, Tensor))


def _input_names(model: nn.Module, call: Call) -> list[str]:
    """Names of the tensors among the arguments; those that `*args` collects have none."""
    parameters = inspect.signature(model.forward).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    positional = [*names, *[""] * len(call.args)][: len(call.args)]
    arguments = [*zip(positional, call.args, strict=True), *call.kwargs.items()]
    return [name for name, value in arguments if isinstance(value, Tensor)]


def _exported(recorder: _Recorder) -> torch.export.ExportedProgram:
    call = recorder.call
    batch = torch.export.Dim.DYNAMIC
    shapes = tuple({0: batch} if value.dim() > 0 and len(value) == call.rows else None for value in _tensors(call))
    try:
        with torch.no_grad(), hushed():
            program: torch.export.ExportedProgram = torch.export.export(
                recorder, _tensors(call), dynamic_shapes={"tensors": shapes}
            )
            return cast(torch.export.ExportedProgram, program.run_decompositions({}))
    except Exception as error:  # torch.export raises whatever the model's code raises
        first = str(error).strip().splitlines()
        raise ModelError(
            "places for exits cannot be found in this model: torch.export cannot trace it with a free batch axis",
            got=f"{type(error).__name__}: {first[0][:300] if first else ''}",
            remedy='name the places, at=["module", …]; names are those of model.named_modules()',
        ) from error


class _Counting(fx.Interpreter):
    """Runs a graph and notes the shapes and the operations of each node."""

    def __init__(self, module: fx.GraphModule, counter: FlopCounterMode, rows: int) -> None:
        super().__init__(module)
        self.counter = counter
        self.measured = Measured(rows, {}, {})

    def run_node(self, n: fx.Node) -> Any:
        before = self.counter.get_total_flops()
        result = super().run_node(n)
        parts = result if isinstance(result, tuple | list) else [result]
        self.measured.shapes[n.name] = [tuple(part.shape) for part in parts if isinstance(part, Tensor)]
        self.measured.flops[n.name] = self.counter.get_total_flops() - before
        return result


def _measured(program: torch.export.ExportedProgram, call: Call) -> Measured:
    users = iter(_tensors(call))
    stored = {**program.state_dict, **program.constants}
    inputs = [
        next(users) if spec.kind is InputKind.USER_INPUT else stored[cast(str, spec.target)]
        for spec in program.graph_signature.input_specs
    ]
    with torch.no_grad(), flop_counter() as counter:
        run = _Counting(program.graph_module, counter, call.rows)
        run.run(*inputs)
    return run.measured
