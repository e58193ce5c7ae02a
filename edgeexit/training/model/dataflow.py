"""The dataflow of a traced model: what each module's output needs, and what is alive beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod

from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind

__all__ = ["Dataflow", "Measured", "Position", "dataflow"]


@dataclass(frozen=True)
class Position:
    """A place in the graph: a module's output, and all that it needs, have been computed.

    Attributes:
        modules: Names of the modules that give this tensor, the outermost first.
        shape: Of one sample of the tensor.
        macs_before: MACs of one sample spent so far.
        crossing: Tensors that are known here and used later, the model's inputs and what follows from masks
            alone not counted.
        layers_after: Convolutions and matrix products still to come.
        separable: Whether each of the tensors that cross has the batch as axis 0.
    """

    modules: tuple[str, ...]
    shape: tuple[int, ...]
    macs_before: int
    crossing: int
    layers_after: int
    separable: bool


@dataclass(frozen=True)
class Dataflow:
    """All positions, in the order in which the model reaches them, and the MACs of the whole model."""

    positions: tuple[Position, ...]
    macs: int


@dataclass(frozen=True)
class Measured:
    """One run of a graph: for each node by name the shapes of the tensors that it gave, and its operations."""

    rows: int
    shapes: dict[str, list[tuple[int, ...]]]
    flops: dict[str, int]


def dataflow(
    program: ExportedProgram, modules: Sequence[str], inputs: Sequence[str], runs: tuple[Measured, Measured]
) -> Dataflow:
    """The positions of a program whose outputs are the logits and then a copy of each module's output.

    Args:
        program: With functional operators only.
        modules: Names of the modules, in the order of the outputs.
        inputs: Names of the user's inputs.
        runs: At some number of rows and at one more.
    """
    flow = _Flow(program, inputs, runs)
    return Dataflow(tuple(flow.positions(modules)), flow.macs_of(flow.needed))


class _Flow:
    """Sets of nodes are integers with one bit a node, in topological order."""

    def __init__(self, program: ExportedProgram, inputs: Sequence[str], runs: tuple[Measured, Measured]) -> None:
        self.nodes = [node for node in program.graph.nodes if node.op != "output"]
        self.index = {node: i for i, node in enumerate(self.nodes)}
        self.few, self.more = runs
        results = next(node for node in program.graph.nodes if node.op == "output").args[0]
        kinds = [spec.kind for spec in program.graph_signature.output_specs]
        self.outputs = [n for n, kind in zip(results, kinds, strict=True) if kind is OutputKind.USER_OUTPUT]
        specs = program.graph_signature.input_specs
        users = [i for i, spec in enumerate(specs) if spec.kind is InputKind.USER_INPUT]
        self.inputs = dict(zip(users, inputs, strict=True))
        self.sources = self._sources()
        self.ancestors = self._ancestors()
        self.consumers = self._consumers()
        self.needed = self.ancestors[self.index[self.outputs[0]]]

    def positions(self, modules: Sequence[str]) -> Iterator[Position]:
        names: dict[int, list[str]] = {}
        for name, copy in zip(modules, self.outputs[1:], strict=True):
            names.setdefault(self.index[copy.args[0]], []).append(name)
        for at in sorted(names):
            if not self.needed >> at & 1 or not self._has_batch(at):
                continue
            done = self.ancestors[at]
            crossing = [i for i in self._live(done) if i not in self.inputs and not self._follows_mask(i)]
            rest = self.needed & ~done
            yield Position(
                modules=tuple(sorted(names[at], key=lambda name: (name.count("."), name))),
                shape=self._shape(at),
                macs_before=self.macs_of(done),
                crossing=len(crossing),
                layers_after=sum(self._macs(i) > 0 for i in _bits(rest)),
                separable=all(self._has_batch(i) for i in crossing),
            )

    def macs_of(self, nodes: int) -> int:
        return sum(self._macs(i) for i in _bits(nodes))

    def _macs(self, i: int) -> int:
        name = self.nodes[i].name
        return max(0, (self.more.flops[name] - self.few.flops[name]) // 2)

    def _shape(self, i: int) -> tuple[int, ...]:
        return self.few.shapes[self.nodes[i].name][0][1:]

    def _has_batch(self, i: int) -> bool:
        name = self.nodes[i].name
        few, more = self.few.shapes[name], self.more.shapes[name]
        return all(
            low[:1] == (self.few.rows,) and high == (self.more.rows, *low[1:]) and prod(low) > 0
            for low, high in zip(few, more, strict=True)
        )

    def _live(self, done: int) -> list[int]:
        rest = self.needed & ~done
        return [i for i in _bits(done | sum(1 << i for i in self.inputs)) if self.consumers[i] & rest]

    def _follows_mask(self, i: int) -> bool:
        return all("mask" in self.inputs[source].lower() for source in self.sources[i])

    def _sources(self) -> list[frozenset[int]]:
        """For each node, the inputs on whose values it depends; shapes are no values."""
        found: list[frozenset[int]] = []
        for i, node in enumerate(self.nodes):
            if i in self.inputs:
                found.append(frozenset([i]))
            elif not self.few.shapes[node.name]:
                found.append(frozenset())
            else:
                found.append(frozenset().union(*(found[self.index[n]] for n in node.all_input_nodes)))
        return found

    def _ancestors(self) -> list[int]:
        """For each node, the node and all that it needs, of those that depend on the inputs' values."""
        masks: list[int] = []
        for i, node in enumerate(self.nodes):
            own = 1 << i if self.sources[i] and i not in self.inputs else 0
            for needed in node.all_input_nodes:
                own |= masks[self.index[needed]]
            masks.append(own)
        return masks

    def _consumers(self) -> list[int]:
        masks = [0] * len(self.nodes)
        for i, node in enumerate(self.nodes):
            for needed in node.all_input_nodes:
                if self.sources[self.index[needed]] and self.sources[i]:
                    masks[self.index[needed]] |= 1 << i
        return masks


def _bits(mask: int) -> Iterator[int]:
    while mask:
        lowest = mask & -mask
        yield lowest.bit_length() - 1
        mask ^= lowest
