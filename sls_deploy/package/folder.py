"""The plain form: one folder with graph, engines and the scripts that run them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import as_file, files
from typing import Any

from sls_deploy._version import __version__
from sls_deploy.onnx_file import facts
from sls_deploy.package.assembly import CHECKSUMS, Assembly
from sls_deploy.package.contents import Contents, Engine
from sls_deploy.package.reported import why_outdated
from sls_deploy.run import Run

FACTS = "package.json"
"""What the scripts have to know, as JSON."""
README = "README.md"
ONNX_SCRIPT, ENGINE_SCRIPT = "run_onnxruntime.py", "run_tensorrt.py"
_REPORTS = ("report.html", "report.json")
_PIP = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt-rtx"}
"""Names on the package index of the vendor's modules."""


def write_folder(run: Run, contents: Contents, assembly: Assembly) -> dict[str, str]:
    """Put one budget into a package.

    Args:
        run: where it comes from.
        contents: what is packed of it.
        assembly: the package.

    Returns:
        What is not in it, and why.

    Raises:
        SlsError: a file changed meanwhile, or the disk is full.
    """
    left_out = dict(contents.left_out)
    graph = contents.graph
    assembly.copy(graph.path, graph.path.name, contents.graph_sha256)
    scripts = []
    if contents.precision == "bf16":
        left_out[ONNX_SCRIPT] = "ONNX Runtime runs no bf16 convolutions on the CPU"
    else:
        scripts.append(ONNX_SCRIPT)
    for engine in contents.engines:
        plan = engine.plan
        assembly.copy(plan, plan.name, engine.manifest.plan_sha256)
        assembly.copy(plan.with_suffix(".json"), plan.with_suffix(".json").name)
    if contents.engines:
        scripts.append(ENGINE_SCRIPT)
    else:
        asked = f"--budget {contents.budget:g} --precision {contents.precision}"
        asked += " --io uint8" if contents.io == "uint8" else ""
        left_out["engines"] = f"the run has no sound one: `sls-deploy build {asked}` makes one"
    for name in scripts:
        with as_file(files("sls_deploy.package") / "templates" / name) as script:
            assembly.copy(script, name)
    for name in _REPORTS:
        report = run.path / "validation" / name
        if not report.is_file():
            left_out[name] = "the run has none: `sls-deploy report` writes it"
        elif why := why_outdated(run, contents.budget, report.with_suffix(".json")):
            left_out[name] = why
        else:
            assembly.copy(report, name)
    assembly.write(FACTS, json.dumps(script_facts(contents), indent=1) + "\n")
    assembly.write(README, _readme(run, contents, scripts, left_out))
    return left_out


def script_facts(contents: Contents) -> dict[str, Any]:
    """What the scripts have to know of a network.

    Sizes are those of the ONNX file; an engine's own stand in its manifest.
    """
    graph = contents.graph
    fixed = graph.fixed
    return {
        "sls_deploy": __version__,
        "budget": contents.budget,
        "precision": contents.precision,
        "io": contents.io,
        "scale": graph.scale,
        "frames": graph.frames,
        "multiple": graph.multiple,
        "least": list(fixed or (graph.least_side, graph.least_side)),
        "most": list(fixed) if fixed else None,
        "batch": graph.batch or 1,
        "onnx": graph.path.name,
        "onnx_sha256": contents.graph_sha256,
        "engines": [engine.plan.name for engine in contents.engines],
    }


def network_name(contents: Contents) -> str:
    """The network in a few words, such as 'rlfn x4, budget 0.5, fp16'."""
    about = json.loads(facts(contents.graph.model)["model"])
    scale = f" x{contents.graph.scale}" if contents.graph.scale > 1 else ""
    in_bytes = ", bytes" if contents.io == "uint8" else ""
    return f"{about['name']}{scale}, budget {contents.budget:g}, {contents.precision}{in_bytes}"


def pictures_taken(contents: Contents) -> str:
    """How the network takes pictures, in a sentence."""
    graph = contents.graph
    takes = "NHWC, RGB, bytes" if contents.io == "uint8" else "NCHW, RGB, 0..1"
    if graph.fixed:
        sizes = f"of exactly {graph.fixed[0]} x {graph.fixed[1]} pixels"
    else:
        rule = f", sides multiples of {graph.multiple}" if graph.multiple > 1 else ""
        sizes = f"of {graph.least_side} pixels a side or more{rule}"
    frames = f" {graph.frames} frames along the channels;" if graph.frames > 1 else ""
    return (
        f"Input `input`, {takes};{frames} pictures {sizes}. Output `output`, the same form, sides "
        f"times {graph.scale}."
    )


def engine_line(engine: Engine) -> str:
    """An engine in a line: where it runs, what it takes, what is proven of it."""
    known = engine.manifest
    device = f", built on an {known.device.name}" if known.device else ""
    sizes = " to ".join("x".join(map(str, shape)) for shape in (known.min_shape, known.max_shape))
    return (
        f"`{engine.plan.name}`: {known.architecture} by {known.backend} {known.backend_version}"
        f"{device}; NCHW {sizes}. Evidence {known.evidence.level}: {known.evidence.statement}."
    )


def _readme(run: Run, contents: Contents, scripts: list[str], left_out: dict[str, str]) -> str:
    return "\n".join(_lines(run, contents, scripts, left_out)) + "\n"


def _lines(
    run: Run, contents: Contents, scripts: list[str], left_out: dict[str, str]
) -> Iterator[str]:
    graph = contents.graph
    yield f"# {network_name(contents)}"
    yield ""
    yield (
        f"Packed by sls-deploy {__version__} from the run {run.path.resolve().name}. The network "
        f"needs {graph.network_cost:.3f} of the dense one's multiply-accumulates."
    )
    yield ""
    yield pictures_taken(contents)
    yield ""
    yield "```sh"
    yield f"sha256sum -c {CHECKSUMS}"
    sources = " ".join(f"in{number}.ppm" for number in range(graph.frames))
    sources = sources if graph.frames > 1 else "in.ppm"
    if ONNX_SCRIPT in scripts:
        yield "pip install numpy onnxruntime"
        yield f"python {ONNX_SCRIPT} {sources} out.ppm"
    for engine in contents.engines:
        known = engine.manifest
        yield f"pip install numpy {_PIP[known.backend]}=={known.backend_version}"
        yield f"python {ENGINE_SCRIPT} {engine.plan.name} {sources} out.ppm"
    yield "```"
    yield ""
    yield (
        "The scripts take binary .ppm files of 8 bits, and .npy files of height x width x colours "
        "in bytes or 0..1; they fill pictures up by reflection and do not cut them into tiles."
    )
    if contents.engines:
        yield ""
        yield "An engine runs on the GPUs and with the version that it was built for:"
        yield ""
    for engine in contents.engines:
        yield f"- {engine_line(engine)}"
    if left_out:
        yield ""
        yield "Not in this folder:"
        yield ""
    for name, why in left_out.items():
        yield f"- {name}: {why}"
