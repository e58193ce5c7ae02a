"""Where a module named `package.module` would be loaded from, found out without running any of its code."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from importlib.machinery import ModuleSpec, PathFinder
from importlib.util import find_spec
from pathlib import Path

__all__ = ["files_inside", "search_here"]


def search_here(*, outside: Path | None = None) -> None:
    """Let modules be found in the current folder, as Python does for a program that lies there.

    Args:
        outside: Do not if the current folder lies in this one: whatever is imported later could come from there.
    """
    if outside is not None and Path.cwd().is_relative_to(outside.resolve()):
        return
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())


def files_inside(name: str, folder: Path) -> tuple[str, ...]:
    """The files that an import of `name` would run, its packages' included, as far as they lie in `folder`.

    A link counts where it lies and where it leads.

    Args:
        name: A module's, with dots.
        folder: Any.
    """
    places = {Path(os.path.abspath(folder)), folder.resolve()}
    found = []
    for origin in _origins(name):
        forms = (Path(os.path.abspath(origin)), Path(origin).resolve())
        if any(form.is_relative_to(place) for form in forms for place in places):
            found.append(origin)
    return tuple(found)


def _origins(name: str) -> Iterator[str]:
    """Files of the packages and of the module itself, until one of them is not there."""
    full, spec = "", None
    for part in name.split("."):
        full = f"{full}.{part}" if full else part
        spec = _found(full, part, spec)
        if spec is None:
            return
        if spec.origin is not None and spec.has_location:
            yield spec.origin


def _found(full: str, part: str, parent: ModuleSpec | None) -> ModuleSpec | None:
    """The spec of a module in its parent's folders. `find_spec` would import the parent of a dotted name."""
    if full in sys.modules:
        return getattr(sys.modules[full], "__spec__", None)
    if parent is None:
        try:
            return find_spec(part)
        except (ImportError, ValueError):  # no name at all, or one that no import accepts either
            return None
    folders = parent.submodule_search_locations
    return None if folders is None else PathFinder.find_spec(part, list(folders))
