"""`sls-deploy inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.search.inspect import Inspection

_SIZE = "720x1280"


def inspect(
    target: Annotated[
        Path | None,
        typer.Argument(
            metavar="TARGET", help="ONNX file, engine or run folder; else --model or --weights."
        ),
    ] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Budget of the run; all if left out.", show_default=False),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(
            "--compare",
            help="ONNX file to compare with the file, or precision to compare with PyTorch.",
            show_default=False,
        ),
    ] = None,
    model: o.Model = None,
    weights: o.Weights = None,
    scale: o.Scale = None,
    frames: o.Frames = None,
    size: Annotated[
        str, typer.Option("--size", help="Height x width of an input picture, in pixels.")
    ] = _SIZE,
    pattern: o.Pattern = None,
    keep: o.Keep = None,
    prune: o.Prune = None,
    config: o.Settings = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy inspect --model net.py:make --size 256x256 --keep 'body.0.*'
    sls-deploy inspect runs/rlfn --budget 0.5 --compare fp16

    List the layers of a network: shape, share of the multiply-accumulates, whether each may be
    pruned and whether Ampere's sparse tensor cores can take it, or why not. Of an ONNX file, or
    of a run's: what it holds, or layer by layer where it departs from another or from PyTorch.
    Of an engine: its manifest, and for every layer how far it is proven that it runs sparse.
    """
    from sls_deploy.cli.inspect_file import inspect_target
    from sls_deploy.cli.output import print_json
    from sls_deploy.errors import SlsError
    from sls_deploy.search.inspect import inspect_network
    from sls_deploy.search.layers import Choice

    if target is not None:
        if model or weights:
            raise SlsError("is given beside --model or --weights", str(target), "Name one of them.")
        inspect_target(target, budget, compare, json=json)
        return
    if budget or compare:
        flag = "--compare" if compare else "--budget"
        raise SlsError("needs an ONNX file or a run folder", flag, "Name it before the flags.")
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "weights": weights, "scale": scale, "frames": frames},
        "search": {"pattern": pattern, "keep": keep, "prune": prune},
    }
    settings = o.load_settings(config, flags)
    search = settings.search
    choice = Choice(search.keep, search.prune)
    found = inspect_network(settings.model, _parsed(size), search.pattern, choice)
    if json:
        print_json(
            {
                "model": found.description,
                "parameters": found.parameters,
                "size": found.size,
                "macs": found.macs,
                "prunable": found.prunable,
                "eligible": found.eligible,
                "notes": found.notes,
                "layers": [
                    {
                        **vars(layer),
                        "share": found.share(layer),
                        "prunable": layer.prunable,
                        "eligible": not layer.why_not_eligible,
                        "why_not_eligible": layer.why_not_eligible,
                    }
                    for layer in found.layers
                ],
            }
        )
    else:
        print_inspection(found)


def print_inspection(found: Inspection) -> None:
    """Print the layers and what they come to."""
    from sls_deploy.cli.output import print_line, print_table

    rows = [
        [
            layer.name,
            layer.kind,
            "x".join(map(str, layer.shape)),
            f"{layer.uses}",
            f"{found.share(layer):.2%}",
            layer.reason or "yes",
            layer.why_not_eligible or "yes",
        ]
        for layer in found.layers
    ]
    about, (height, width) = found.description, found.size
    columns = ["layer", "kind", "weight", "uses", "MACs", "prunable", "2:4 on Ampere"]
    title = (
        f"{about.name} x{about.scale}: {found.parameters:,} parameters, {found.macs / 1e9:.2f} "
        f"GMACs at {height}x{width}"
    )
    print_table(title, columns, rows, left=(1, 5, 6))
    print_line(f"sides: multiples of {about.multiple}, {about.least_side} or more")
    if about.frames > 1:
        print_line(f"takes {about.frames} frames at once ({about.layout})")
    if about.output is not None:
        print_line(f"of its outputs, {about.output!r} is the picture; the others are left out")
    print_line(
        f"may be pruned: {found.prunable:.1%} of the multiply-accumulates; by layers that Ampere's "
        f"sparse tensor cores can take: {found.eligible:.1%}"
    )
    for note in found.notes:
        print_line(f"warning: {note}")


def _parsed(text: str) -> tuple[int, int]:
    from sls_deploy.errors import SlsError

    height, _, width = text.partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        fix = f"Write height x width, such as {_SIZE}."
        raise SlsError(f"'{text}' is not a size", "--size", fix)
    return int(height), int(width)
