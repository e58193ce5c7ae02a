"""Which of the names in names.json an installed library lacks. Runs in a process of its own.

    python inspect_library.py names.json tensorrt tensorrt_bindings

Prints one JSON document: the library's version, and what is wrong, name by name. It uses nothing of ours, so
that any Python for which a wheel is made will do.
"""

import importlib
import json
import os
import re
import sys

SIGNATURE = re.compile(r"^(?:\d+\. )?\w+\((.*)\)(?: -> .*)?$")


def problems(library, names):
    """What is wrong with each name, as a list of lines."""
    wrong = []
    for name, counts in names.items():
        thing = library
        for part in name.split("."):
            thing = getattr(thing, part, None)
            if thing is None:
                wrong.append(name + ": is not there")
                break
        else:
            allowed = arities(thing)
            wrong += [
                f"{name}: takes {sorted(allowed)} arguments, not {count}"
                for count in counts
                if count >= 0 and allowed and "--only-names" not in sys.argv and count not in allowed
            ]
    return wrong


def arities(thing):
    """The numbers of arguments that the docstring allows; empty where it doesn't say."""
    if isinstance(thing, type):
        thing = thing.__init__
    allowed = set()
    for line in (getattr(thing, "__doc__", None) or "").splitlines():
        found = SIGNATURE.match(line.strip())
        if found and "*args" not in found[1]:
            arguments = [a for a in split(found[1]) if a and not a.startswith("self:")]
            needed = sum("=" not in a for a in arguments)
            allowed |= set(range(needed, len(arguments) + 1))
    return allowed


def split(text):
    """The arguments of a signature; commas inside brackets part nothing."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[(<{") - (letter in "])>}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def subclasses(library):
    """Whether our logger and monitor can be made on the real base classes."""
    from edgeexit_runtime.backends.tensorrt.library import data_types, make_log
    from edgeexit_runtime.backends.tensorrt.monitor import Phases, make_monitor

    shown = []
    log, monitor = make_log(library), make_monitor(library, Phases(lambda n=1: shown.append(n)))
    log.log(library.ILogger.Severity.ERROR, "no")
    log.log(library.ILogger.Severity.INFO, "yes")
    monitor.phase_start("build", None, 2)
    going = monitor.step_complete("build", 0)
    monitor.phase_finish("build")
    right = list(log.lines) == ["no"] and going is True and sum(shown) == 50 and len(data_types(library)) == 7
    return [] if right else ["our logger or monitor does not work on the real base classes"]


if __name__ == "__main__":
    sys.setdlopenflags(os.RTLD_LAZY)  # pycuda names functions of the driver that it is not asked for here
    file, library, module = sys.argv[1:4]
    with open(file) as source:
        names = json.load(source)[library]
    found = importlib.import_module(module)
    wrong = problems(found, names)
    if "--subclasses" in sys.argv:
        wrong += subclasses(found)
    version = getattr(found, "__version__", None) or getattr(
        importlib.import_module(module.split(".")[0]), "__version__", None
    )
    print(json.dumps({"version": version, "names": len(names), "wrong": wrong}))
