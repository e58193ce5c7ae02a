"""The names of vendors' libraries that our code uses, read off its syntax tree.

    python tests/runtime/tensorrt/names.py          # writes names.json anew

`VARIABLES` says which of our variables hold what. An attribute of such a variable is a name that the real
library must have; where it is called, or handed to `_call`, the number of arguments must fit too.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
SOURCE = HERE.parents[2] / "runtime/edgeexit_runtime/backends/tensorrt"
NAMES = HERE / "names.json"

TENSORRT = ("library", "monitor", "building", "engine", "execution", "backend")

VARIABLES: dict[str, tuple[tuple[str, ...], dict[str, str]]] = {
    "tensorrt": (
        TENSORRT,
        {
            "trt": "",
            "_trt": "",
            "builder": "Builder",
            "config": "IBuilderConfig",
            "parser": "OnnxParser",
            "get_error()": "ParserError",
            "profile": "IOptimizationProfile",
            "timing": "ITimingCache",
            "runtime": "Runtime",
            "cuda_engine": "ICudaEngine",
            "_engine": "ICudaEngine",
            "context": "IExecutionContext",
            "_context": "IExecutionContext",
        },
    ),
    "cuda.bindings.driver": (("memory_cuda_python",), {"driver": "", "_driver": ""}),
    "pycuda.driver": (
        ("memory_pycuda",),
        {
            "_cuda": "",
            "cuda": "",
            "device": "Device",
            "_context": "Context",
            "_stream": "Stream",
            "pop()": "DeviceAllocation",
        },
    ),
}
"""Library → the modules that use it, and for each variable, or method's result, its class there."""

NOT_THEIRS = {"tensorrt": {"__init__", "__version__"}}

Uses = dict[str, set[int]]
"""Dotted name → how many arguments it is called with; -1 where it is not called."""


def collect() -> dict[str, dict[str, list[int]]]:
    """Library → dotted name → numbers of arguments."""
    found: dict[str, dict[str, list[int]]] = {}
    for library, (modules, variables) in VARIABLES.items():
        uses: Uses = {}
        for module in modules:
            tree = ast.parse((SOURCE / f"{module}.py").read_text())
            for name, arguments in _uses(tree, variables):
                if name and name.rpartition(".")[2] not in NOT_THEIRS.get(library, set()):
                    uses.setdefault(name, set()).add(arguments)
        found[library] = {name: sorted(counts) for name, counts in sorted(uses.items())}
    return found


def _uses(tree: ast.AST, variables: dict[str, str]) -> Iterator[tuple[str, int]]:
    called: dict[int, int] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            called[id(node.func)] = len(node.args) + len(node.keywords)
            if isinstance(node.func, ast.Attribute) and node.func.attr == "_call" and node.args:
                starred = any(isinstance(argument, ast.Starred) for argument in node.args)
                called[id(node.args[0])] = -1 if starred else len(node.args) - 1
    inner = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and id(node) not in inner:
            name = _dotted(node, variables)
            if name is not None:
                splat = -1 if _splat(tree, node) else called.get(id(node), -1)
                yield name, splat
        elif isinstance(node, ast.Attribute):
            name = _dotted(node, variables)
            if name is not None:
                yield name, called.get(id(node), -1)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            name = _dotted(node.args[0], variables)
            if name is not None and isinstance(node.args[1], ast.Constant):
                yield f"{name}.{node.args[1].value}".lstrip("."), -1
        elif isinstance(node, ast.ClassDef):
            for base in node.bases:
                name = _dotted(base, variables)
                for method in node.body:
                    if name is not None and isinstance(method, ast.FunctionDef):
                        yield f"{name}.{method.name}", len(method.args.args) - 1


def _splat(tree: ast.AST, function: ast.Attribute) -> bool:
    """Whether a call's arguments are unpacked, so that they cannot be counted."""
    return any(
        isinstance(node, ast.Call)
        and node.func is function
        and any(isinstance(argument, ast.Starred) for argument in node.args)
        for node in ast.walk(tree)
    )


def _dotted(node: ast.expr, variables: dict[str, str]) -> str | None:
    """The name within the library that an expression stands for; "" for the library itself."""
    if isinstance(node, ast.Name):
        return variables.get(node.id)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return variables.get(f"{node.func.attr}()")
    if isinstance(node, ast.Attribute):
        if isinstance(node.value, ast.Name) and node.value.id == "self":
            return variables.get(node.attr)
        owner = _dotted(node.value, variables)
        return None if owner is None else f"{owner}.{node.attr}".lstrip(".")
    return None


def document() -> str:
    """What names.json holds."""
    parts = []
    for library, names in collect().items():
        lines = ",\n".join(f"    {json.dumps(name)}: {json.dumps(counts)}" for name, counts in names.items())
        parts.append(f"  {json.dumps(library)}: {{\n{lines}\n  }}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    NAMES.write_text(document())
