"""See what modules give while a model runs, and count what was spent by then."""

from __future__ import annotations

import contextlib
import difflib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from edgeexit.errors import ModelError, UsageError
from edgeexit.training.model.calls import Call, evaluating, first_tensor
from edgeexit.training.model.counting import flop_counter

__all__ = ["Observed", "Spent", "macs_spent", "observe", "watched"]

Watcher = Callable[[str, object], None]

_REGISTERING = threading.Lock()  # torch numbers hooks by a counter that threads could read at once


@contextlib.contextmanager
def watched(model: nn.Module, names: Sequence[str], watcher: Watcher) -> Iterator[None]:
    """Call `watcher(name, output)` each time that a module has run in this thread; the hooks are gone afterwards.

    Hooks belong to a module, so that what another thread runs meanwhile meets them too: they let it pass.

    Raises:
        UsageError: The model has no module of a name.
    """
    modules = [_module(model, name) for name in names]
    own = None if torch.compiler.is_compiling() else threading.get_ident()

    def hook_for(name: str) -> Callable[[nn.Module, object, object], None]:
        def hook(_: nn.Module, __: object, output: object) -> None:
            if _is_thread(own):
                watcher(name, output)

        return hook

    with _REGISTERING:
        hooks = [module.register_forward_hook(hook_for(name)) for name, module in zip(names, modules, strict=True)]
    try:
        yield
    finally:
        with _REGISTERING:
            for hook in hooks:
                hook.remove()


def _is_thread(own: int | None) -> bool:
    """Whether this is that thread; torch.compile, which cannot look into this, takes it for granted."""
    return own is None or torch.compiler.is_compiling() or threading.get_ident() == own


@dataclass(frozen=True)
class Observed:
    """What a place gives.

    Attributes:
        name: Of the module.
        shape: Of one sample's activation.
        turn: Its place in the order in which the modules run.
        overwritten: Whether a later operation writes into the activation.
    """

    name: str
    shape: tuple[int, ...]
    turn: int
    overwritten: bool


def observe(model: nn.Module, call: Call, names: Sequence[str]) -> list[Observed]:
    """What modules give in eval mode, in the order of `names`.

    Raises:
        UsageError: A module is not there, does not run, runs several times, or its output has no floating
            tensor with the batch as axis 0.
        ModelError: The model fails on the example.
    """
    few, more = (_outputs(model, each, names) for each in (call, call.one_row_more()))
    rows = call.rows
    observed = []
    for name in names:
        tensor, overwritten = few.tensors[name]
        other, _ = more.tensors[name]
        shape = tuple(tensor.shape)
        if shape[:1] != (rows,) or tuple(other.shape) != (rows + 1, *shape[1:]) or len(shape) == 1:
            raise ModelError(
                f"the output of {name} does not have the batch as axis 0",
                got=f"{shape} for {rows} samples, {tuple(other.shape)} for {rows + 1}",
                expected=f"({rows}, …) and ({rows + 1}, …)",
                remedy="attach the exit to another module",
            )
        observed.append(Observed(name, shape[1:], few.order.index(name), overwritten))
    return observed


@dataclass(frozen=True)
class _Outputs:
    tensors: dict[str, tuple[Tensor, bool]]
    order: list[str]


def _outputs(model: nn.Module, call: Call, names: Sequence[str]) -> _Outputs:
    seen: dict[str, list[tuple[object, int]]] = {name: [] for name in names}
    order: list[str] = []

    def note(name: str, output: object) -> None:
        tensor = first_tensor(output)
        order.append(name)
        seen[name].append((output, tensor._version if tensor is not None else 0))

    with torch.inference_mode(False), evaluating(model), watched(model, names, note):
        call.run(model)
    tensors = {}
    for name, outputs in seen.items():
        if len(outputs) != 1:
            raise UsageError(
                f"the module {name} cannot carry an exit",
                got=f"it runs {len(outputs)} times in one pass" if outputs else "it does not run",
                expected="a module that runs once",
                remedy="attach the exit to another module",
            )
        (output, version) = outputs[0]
        tensor = first_tensor(output)
        if tensor is None or not tensor.is_floating_point():
            got = f"a tensor of {tensor.dtype}" if tensor is not None else type(output).__name__
            raise UsageError(
                f"the module {name} cannot carry an exit",
                got=got,
                expected="a floating tensor, or a tuple that starts with one",
                remedy="attach the exit to another module",
            )
        tensors[name] = (tensor, tensor._version != version)
    return _Outputs(tensors, order)


@dataclass(frozen=True)
class Spent:
    """Multiply-accumulates of one sample.

    Attributes:
        before: For each place, what was spent when it had run.
        total: What the whole model spends.
    """

    before: tuple[int, ...]
    total: int


def macs_spent(model: nn.Module, call: Call, names: Sequence[str]) -> Spent:
    """What one sample costs until each module has run, in the order in which the model runs them.

    Convolutions and matrix products count, as everywhere in EdgeExit, and work that does not grow with the
    batch counts zero.

    Raises:
        UsageError: The model has no module of a name.
        ModelError: The model fails on the example.
    """
    few, more = (_executed(model, each, names) for each in (call, call.one_row_more()))
    each = [(high - low) // 2 for low, high in zip(few, more, strict=True)]  # two operations are one MAC
    return Spent(tuple(each[:-1]), each[-1])


def _executed(model: nn.Module, call: Call, names: Sequence[str]) -> list[int]:
    counts = dict.fromkeys(names, 0)
    counter = flop_counter()

    def note(name: str, _: object) -> None:
        counts[name] = counter.get_total_flops()

    with evaluating(model), watched(model, names, note), sdpa_kernel(SDPBackend.MATH), counter:
        call.run(model)
    return [*counts.values(), counter.get_total_flops()]


def _module(model: nn.Module, name: str) -> nn.Module:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        module = model
    if module is model:
        known = [known for known, _ in model.named_modules() if known]
        near = difflib.get_close_matches(name, known, n=5, cutoff=0.3) or known[:5]
        raise UsageError(
            "the model has no module of the name given for an exit",
            got=name or "the whole model",
            expected="for example " + ", ".join(near),
            remedy="list them with [name for name, _ in model.named_modules()]",
        )
    return module
