"""What a file that `sls-deploy export` wrote says of itself."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import onnx

from sls_deploy.errors import SlsError
from sls_deploy.onnx_file import facts, read_model


def graph_file(exported: Path, precision: str, io: str = "float") -> Path:
    """Where the export of a budget writes a graph: from floats to floats, or 'uint8' for bytes."""
    return exported / f"model.{precision}{'.uint8' if io == 'uint8' else ''}.onnx"


@dataclass(frozen=True)
class ExportedGraph:
    """An exported graph, and how it takes pictures."""

    path: Path
    """The file."""
    model: onnx.ModelProto
    """Its content, weights included."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    frames: int
    """Pictures that it takes at once, along the channels; it restores the middle one."""
    least_side: int
    """Smallest height and width of an input, pixels."""
    multiple: int
    """Pixels that height and width must be multiples of."""
    fixed: tuple[int, int] | None
    """The one height and width that it takes; None if it takes all sizes."""
    batch: int | None
    """The one number of pictures that it takes; None if it takes any."""
    budget: float
    """Budget that it was searched for."""
    network_cost: float
    """Multiply-accumulates of the whole network, as a share of the dense one's."""
    precision: str
    """Precision inside."""


def read_exported(path: Path) -> ExportedGraph:
    """Read an exported file, and how it takes pictures.

    Raises:
        SlsError: it cannot be trusted (see `read_model`), or `sls-deploy export` did not write it.
    """
    model = read_model(path)
    said = facts(model)
    try:
        about = json.loads(said["model"])
        sides = json.loads(said["sides"])
        exact = sides if isinstance(sides, list) else None
        open_sides = {"least": 1, "multiple": 1} if exact else sides
        batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        return ExportedGraph(
            path=path,
            model=model,
            scale=int(said["scale"]),
            frames=int(about.get("frames", 1)),
            least_side=int(open_sides["least"]),
            multiple=int(open_sides["multiple"]),
            fixed=(int(exact[2]), int(exact[3])) if exact else None,
            batch=batch or None,
            budget=float(said["budget"]),
            network_cost=float(said["network_cost"]),
            precision=said["precision"],
        )
    except (KeyError, IndexError, TypeError, ValueError):
        fix = "Take a file that `sls-deploy export` wrote."
        raise SlsError("does not say how it takes pictures", str(path), fix) from None
