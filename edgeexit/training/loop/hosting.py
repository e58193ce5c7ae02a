"""Hosting: a network on the device and in the layout that training likes, and back as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from edgeexit.errors import BackendError, UsageError
from edgeexit.training.settings import TrainSettings

__all__ = ["choose_device", "choose_precision", "heads_in_bf16", "hosted", "torch_threads"]


def choose_device(name: str) -> torch.device:
    """The device of this name; for "auto" an accelerator where there is one.

    Raises:
        UsageError: torch knows no such device.
        BackendError: It is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UsageError("torch knows no such device", got=name, expected="auto, cpu, cuda or cuda:1") from error
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # each backend has its own
        raise BackendError(f"the device {name} is not there", got=str(error).splitlines()[0]) from error
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype | None:
    """What autocast computes in, or None for float32 throughout.

    "auto" is bfloat16 where the device has it in hardware: on a CPU with AVX-512 BF16 or AMX, or a recent GPU; float16
    on an older GPU.

    Raises:
        UsageError: float16 on a CPU, which has no loss scaling.
    """
    if name == "fp16" and device.type == "cpu":
        raise UsageError("fp16 needs an accelerator", got="device cpu", expected="auto, fp32 or bf16")
    known = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
    if name != "auto":
        return known[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "cpu" and _cpu_has_bf16() else None


def heads_in_bf16(settings: TrainSettings, device: torch.device) -> bool:
    """Whether heads under a frozen backbone are trained with bfloat16; never with float16: that needs scaled losses."""
    return settings.precision != "fp16" and choose_precision(settings.precision, device) == torch.bfloat16


@contextmanager
def hosted(network: nn.Module, device: torch.device, *, channels_last: bool = False) -> Iterator[None]:
    """Within this the network is on `device`; afterwards all but the values is as it was.

    That is: where each parameter and buffer lies and with which strides, what is trainable, which modules are in
    training mode, and no gradients are left.

    Args:
        network: Parameters stay the same objects throughout.
        device: Where to.
        channels_last: Lay tensors of 4 axes out with channels last, which is quicker for convolutions.
    """
    modes = [(module, module.training) for module in network.modules()]
    trainable = [(parameter, parameter.requires_grad) for parameter in network.parameters()]
    homes = {name: (tensor.device, tensor.stride()) for name, tensor in _tensors(network)}
    try:
        network.to(device)
        if channels_last:
            network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it alone
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in trainable:
            parameter.requires_grad_(flag)
            parameter.grad = None
        for name, tensor in _tensors(network):
            tensor.data = _home(tensor.data, *homes[name])


@contextmanager
def torch_threads(threads: int) -> Iterator[None]:
    """Within this torch computes with so many threads; 0 leaves them as they are."""
    before = torch.get_num_threads()
    if threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _tensors(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _home(tensor: Tensor, device: torch.device, stride: tuple[int, ...]) -> Tensor:
    if tensor.device == device and tensor.stride() == stride:
        return tensor
    if any(step == 0 and size > 1 for step, size in zip(stride, tensor.shape, strict=True)):
        return tensor.to(device)  # it was an expanded view, into which nothing can be written
    home = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device=device)
    return home.copy_(tensor)


def _cpu_has_bf16() -> bool:
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()  # since torch 2.13
    if capabilities:
        return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
    return bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())  # before, torch had no public word for it
