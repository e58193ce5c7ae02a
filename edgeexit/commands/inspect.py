"""`edgeexit inspect`: what a bundle holds and what each part costs."""

from __future__ import annotations

from typing import Any

import click
import msgspec

from edgeexit.bundle import Bundle
from edgeexit.console import emit_json, human_bytes, human_count, print_table
from edgeexit.manifest import Manifest, SegmentEntry, TensorSpec
from edgeexit.precision import precision_of

__all__ = ["boundaries", "describe", "inspect"]

EXAMPLES = """\b
Examples:
  edgeexit inspect model.eexit
  edgeexit inspect model.eexit --json
"""


@click.command(epilog=EXAMPLES)
@click.argument("bundle", type=click.Path())
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document.")
def inspect(bundle: str, as_json: bool) -> None:
    """Show what is in BUNDLE and what each part of it costs.

    Multiply-accumulates (MACs) and parameters are shares of the whole model's, heads left out. Bytes
    are shares of the size of all segments. Boundary bytes are for one sample: what crosses from one
    segment to the later ones. An exit's check is its head, its class means or matrices. Payloads are what
    a sample that is handed on there takes in each precision, raw and compressed, and how many samples
    then got another label or exit on the calibration split.
    """
    opened = Bundle.open(bundle)
    document = {"bundle": str(bundle), "size_bytes": opened.size_bytes, **describe(opened.manifest)}
    if as_json:
        emit_json(document)
    else:
        _show(document)


def describe(manifest: Manifest) -> dict[str, Any]:
    """The document of `edgeexit inspect --json`, apart from `bundle` and `size_bytes`.

    Keys: format_version, labels, inputs, preprocessing, model, segments, exits, policy, statistics_bytes,
    calibration, provenance. Every `*_share` is a fraction of the whole model, `boundary.input_ratio` of the
    bytes of the model's inputs; a share of nothing is None. The last segment's boundary is empty.
    `boundary.payloads` is None where payloads were not measured.
    """
    model = {
        "macs": manifest.macs,
        "params": manifest.params,
        "segments_bytes": sum(segment.file.size_bytes for segment in manifest.segments),
        "input_bytes": sum(spec.size_bytes for spec in manifest.inputs),
        "precision": precision_of(manifest),
        "classes": len(manifest.labels),
    }
    return {
        "format_version": manifest.version,
        "labels": manifest.labels,
        "inputs": [_tensor(spec) for spec in manifest.inputs],
        "preprocessing": msgspec.to_builtins(manifest.preprocessing),
        "model": model,
        "segments": _segments(manifest, model),
        "exits": _exits(manifest, model),
        "policy": manifest.policy.name,
        "statistics_bytes": None if manifest.statistics_file is None else manifest.statistics_file.size_bytes,
        "calibration": msgspec.to_builtins(manifest.calibration),
        "provenance": msgspec.to_builtins(manifest.provenance),
    }


def boundaries(manifest: Manifest) -> list[tuple[TensorSpec, ...]]:
    """For each segment, the tensors that exist when it has run and that a later segment uses.

    Outputs of earlier segments and inputs of the model count too. The last boundary is empty.
    """
    found: list[tuple[TensorSpec, ...]] = []
    alive: dict[str, TensorSpec] = {}
    for segment in reversed(manifest.segments):
        found.append(tuple(alive.values()))
        made = {spec.name for spec in segment.outputs}
        alive = {name: spec for name, spec in alive.items() if name not in made}
        alive |= {spec.name: spec for spec in segment.inputs}
    return found[::-1]


def _segments(manifest: Manifest, model: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, (segment, boundary) in enumerate(zip(manifest.segments, boundaries(manifest), strict=True)):
        crossing = sum(spec.size_bytes for spec in boundary)
        rows.append(
            {
                "index": index,
                "file": segment.file.path,
                "file_bytes": segment.file.size_bytes,
                "precision": segment.precision,
                "file_share": _share(segment.file.size_bytes, model["segments_bytes"]),
                "macs": segment.macs,
                "macs_share": _share(segment.macs, model["macs"]),
                "params": segment.params,
                "params_share": _share(segment.params, model["params"]),
                "boundary": {
                    "bytes": crossing,
                    "bytes_share": _share(crossing, model["segments_bytes"]),
                    "input_ratio": _share(crossing, model["input_bytes"]),
                    "tensors": [_tensor(spec) for spec in boundary],
                    "payloads": _payloads(manifest, index + 1),
                },
            }
        )
    return rows


def _payloads(manifest: Manifest, segment: int) -> list[dict[str, Any]] | None:
    """What was measured in front of a segment; None also behind the last."""
    found = manifest.segments[segment].payloads if segment < len(manifest.segments) else None
    return None if found is None else [msgspec.to_builtins(entry) for entry in found]


def _exits(manifest: Manifest, model: dict[str, Any]) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for index, (entry, segment) in enumerate(zip(manifest.exits, manifest.segments, strict=True)):
        rows.append(
            {
                "index": index,
                "name": entry.name,
                "head": entry.head,
                "criterion": entry.criterion,
                "threshold": entry.threshold,
                "cost": entry.cost,
                "cost_macs": entry.cost_macs,
                "calibration_share": manifest.calibration.exit_shares[index],
                **_check(segment, model),
            }
        )
    return rows


def _check(segment: SegmentEntry, model: dict[str, Any]) -> dict[str, Any]:
    tensors_bytes = sum(spec.size_bytes for spec in segment.policy_inputs)
    return {
        "check_macs": segment.head_macs,
        "check_macs_share": _share(segment.head_macs, model["macs"]),
        "check_params": segment.head_params,
        "check_params_share": _share(segment.head_params, model["params"]),
        "tensors_bytes": tensors_bytes,
        "tensors_bytes_share": _share(tensors_bytes, model["segments_bytes"]),
        "tensors": [_tensor(spec) for spec in segment.policy_inputs],
    }


def _tensor(spec: TensorSpec) -> dict[str, Any]:
    return {**msgspec.to_builtins(spec), "bytes": spec.size_bytes}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _show(document: dict[str, Any]) -> None:
    model, calibration = document["model"], document["calibration"]
    sources = ", ".join(source["name"] for source in document["provenance"]["sources"])
    inputs = ", ".join(f"{spec['name']} {spec['dtype']} {spec['shape']}" for spec in document["inputs"])
    facts = [
        ("bundle", f"{document['bundle']}, {human_bytes(document['size_bytes'])}, made from {sources}"),
        ("model", f"{_counts(model)}, {model['precision']}"),
        ("input", f"{inputs}, {human_bytes(model['input_bytes'])} a sample; {model['classes']} classes"),
        ("policy", f"{document['policy']}, fitted on {_origin(calibration)}"),
        (
            "result",
            f"accuracy {calibration['accuracy']:.2%}, whole model {calibration['full_accuracy']:.2%}"
            f"{_before(calibration)} ({_asked(calibration)}), mean cost {calibration['mean_cost']:.3f} of it",
        ),
    ]
    if document["statistics_bytes"] is not None:
        facts.append(("update", f"from {human_bytes(document['statistics_bytes'])} of statistics"))
    for name, value in facts:
        click.echo(f"{name:<8}{value}")
    click.echo()
    print_table(SEGMENT_COLUMNS, [_segment_row(row) for row in document["segments"]], title="Segments")
    click.echo()
    print_table(EXIT_COLUMNS, [_exit_row(row) for row in document["exits"]], title="Exits")
    measured = [row for row in document["segments"] if row["boundary"]["payloads"] is not None]
    if measured:
        click.echo()
        rows = [_payload_row(row["index"], entry) for row in measured for entry in row["boundary"]["payloads"]]
        print_table(PAYLOAD_COLUMNS, rows, title="Payloads")


SEGMENT_COLUMNS = ("segment", "MACs", "share", "parameters", "share", "file", "share", "boundary", "share", "/ input")
EXIT_COLUMNS = ("exit", "<head", "threshold", "cost", "left here", "check MACs", "share", "check tensors", "share")

PAYLOAD_COLUMNS = ("behind segment", "<precision", "bytes", "compressed", "changed")


def _origin(calibration: dict[str, Any]) -> str:
    held_out = ", held out of the fitting data" if calibration["held_out"] else ""
    labels = ", labelled by the model itself" if calibration["labels"] == "model" else ""
    return f"{calibration['samples']} calibration samples{held_out}{labels}"


def _segment_row(row: dict[str, Any]) -> tuple[str, ...]:
    crossing = row["boundary"]
    return (
        str(row["index"]),
        human_count(row["macs"]),
        _percent(row["macs_share"]),
        human_count(row["params"]),
        _percent(row["params_share"]),
        human_bytes(row["file_bytes"]),
        _percent(row["file_share"]),
        human_bytes(crossing["bytes"]),
        _percent(crossing["bytes_share"]),
        "" if crossing["input_ratio"] is None else f"{crossing['input_ratio']:.2f}",
    )


def _counts(model: dict[str, Any]) -> str:
    return f"{human_count(model['macs'])} MACs, {human_count(model['params'])} parameters"


def _before(calibration: dict[str, Any]) -> str:
    accuracy = calibration["reference_accuracy"]
    return "" if accuracy is None else f", before its precision was changed {accuracy:.2%}"


def _asked(calibration: dict[str, Any]) -> str:
    if calibration["budget"] is not None:
        unit = " ms" if calibration["unit"] == "ms" else ""
        return f"budget {calibration['budget']:g}{unit}"
    certainty = "" if calibration["delta"] is None else f", at most that with probability {1 - calibration['delta']:g}"
    return f"allowed loss {calibration['max_drop']:.2%}{certainty}"


def _exit_row(row: dict[str, Any]) -> tuple[str, ...]:
    return (
        row["name"],
        row["head"],
        "" if row["threshold"] is None else f"{row['threshold']:.4f}",
        f"{row['cost']:.3f}",
        _percent(row["calibration_share"]),
        human_count(row["check_macs"]),
        _percent(row["check_macs_share"]),
        human_bytes(row["tensors_bytes"]),
        _percent(row["tensors_bytes_share"]),
    )


def _payload_row(index: int, entry: dict[str, Any]) -> tuple[str, ...]:
    return (
        str(index),
        entry["precision"],
        human_bytes(entry["size_bytes"]),
        human_bytes(entry["compressed_bytes"]),
        f"{entry['changed']:.2%}",
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.1%}"
