"""What validation costs beside the inference in it, and whether its memory stays flat.

The same runners restore the same pictures twice: alone, with their inputs ready and nothing
measured, and as `sls-deploy validate` does it, from the files to all figures. Both take turns, a
few pictures each, one ahead and then the other, so that other work on the machine meets both alike.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from sls_deploy.cli.output import print_line
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.images import list_images
from sls_deploy.data.truth import Pair, TruthFolder
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.manager import run_passes
from sls_deploy.export.passes.rounding import runnable
from sls_deploy.export.passes.slim import Slim
from sls_deploy.models.model import RestorationModel, load_model
from sls_deploy.process_memory import peak_mib
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.figures import DENSE, SPARSE, Kind, StageId
from sls_deploy.validate.measure import Stage, measure
from sls_deploy.validate.protocol import protocol_of

_BLOCK = 10
"""Pictures until the other takes its turn."""
_COUNTS = (20, 100)
"""Numbers of pictures whose memory is compared."""
Times = tuple[float, float]
"""Seconds by the clock on the wall, and of the processor, all threads together."""


def stages_of(weights: Path, count: int) -> tuple[list[Stage], int]:
    """The first stages of the usual flow, and the scale.

    These are the dense network in PyTorch, a pruned one, and that as ONNX fp32, fp16 and bf16. It
    lacks the smaller half of each layer's weights. On the processor ONNX Runtime
    computes all three in fp32; that of bf16 rounds every value besides.

    Args:
        weights: of a network.
        count: stages.
    """
    dense, sparse = load_model(weights), _halved(load_model(weights))
    stages = [
        Stage(_stage(DENSE, "dense", "", ""), TorchRunner(dense, DENSE)),
        Stage(_stage(SPARSE, "sparse", DENSE, ""), TorchRunner(sparse, SPARSE)),
    ]
    graph, _ = run_passes(to_onnx(sparse), [("slim", Slim())])
    for precision in ("fp32", "fp16", "bf16")[: count - len(stages)]:
        passes = [] if precision == "fp32" else [(precision, Half(precision, frozenset()))]
        content = to_bytes(run_passes(graph.clone(), passes)[0])
        name, previous = f"ONNX {precision}", SPARSE if precision == "fp32" else "ONNX fp32"
        stage = _stage(name, "onnx", previous, SPARSE)
        stages.append(Stage(stage, OnnxRunner(runnable(content, precision), name)))
    return stages[:count], dense.description.scale


def alone(stages: Sequence[Stage], pairs: Sequence[Pair]) -> Times:
    """What inference takes, with the inputs ready."""
    inputs = [(pair.lr.transpose(2, 0, 1)[None] / 255).astype(np.float32) for pair in pairs]
    wall, own = time.perf_counter(), time.process_time()
    for degraded in inputs:
        for stage in stages:
            stage.runner.run(degraded)
    return time.perf_counter() - wall, time.process_time() - own


def validated(stages: Sequence[Stage], truth: TruthFolder) -> Times:
    """What validation takes, from the files to all figures."""
    wall, own = time.perf_counter(), time.process_time()
    shave = protocol_of(truth.scale, truth.degradation.note, truth=True, tile=None).shave
    rows = list(measure(truth, stages, shave))
    assert len(rows) == len(truth)  # noqa: S101 - else it measured something else
    return time.perf_counter() - wall, time.process_time() - own


def compare(stages: Sequence[Stage], folder: Path, scale: int, rounds: int) -> dict[str, Any]:
    """Take turns over all pictures of a folder."""
    paths = list_images(folder)
    blocks = [paths[start : start + _BLOCK] for start in range(0, len(paths), _BLOCK)]
    truths = [TruthFolder(folder, Bicubic(scale), paths=block) for block in blocks] * rounds
    alone(stages, list(TruthFolder(folder, Bicubic(scale), paths=paths[:2])))  # warm up
    times = []
    for turn, truth in enumerate(truths):
        pairs = list(truth)
        if turn % 2:
            whole = validated(stages, truth)
            times.append((alone(stages, pairs), whole))
        else:
            inference = alone(stages, pairs)
            times.append((inference, validated(stages, truth)))
    inference, whole = np.array(times).sum(0)
    ratios = [after[0] / before[0] for before, after in times]
    return {
        "stages": [stage.id.name for stage in stages],
        "pictures": len(paths),
        "inference_s": inference.tolist(),
        "validation_s": whole.tolist(),
        "ratio": (whole / inference).tolist(),
        "quartiles": statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3,
    }


def _halved(model: RestorationModel) -> RestorationModel:
    for weight in model.network.parameters():
        if weight.ndim == 4:
            kept = weight.abs() >= weight.abs().median()
            weight.data *= kept
    return model


def _stage(name: str, kind: Kind, previous: str, reference: str) -> StageId:
    return StageId(name, kind, "fp32", in_bytes=False, previous=previous, reference=reference)


def main(
    weights: Annotated[Path, typer.Option(help="Weights of a super-resolution network.")],
    pictures: Annotated[Path, typer.Option(help="Folder of ground truth, such as B100.")],
    stages: Annotated[int, typer.Option(min=1, max=5, help="Stages to validate.")] = 5,
    rounds: Annotated[int, typer.Option(min=1, help="Times over all pictures.")] = 2,
    memory: Annotated[
        int | None, typer.Option(help="Only validate so many pictures, and print the peak in MiB.")
    ] = None,
) -> None:
    """Time both, then compare the memory of processes that validate few and many pictures."""
    ready, scale = stages_of(weights, stages)
    if memory is not None:
        paths = list_images(pictures)
        paths = (paths * -(-memory // len(paths)))[:memory]
        validated(ready, TruthFolder(pictures, Bicubic(scale), paths=paths))
        print_line(str(peak_mib()))
        return
    found = compare(ready, pictures, scale, rounds)
    low, middle, high = found["quartiles"]
    print_line(f"{found['pictures']} pictures, {rounds} times; {', '.join(found['stages'])}")
    for place, clock in enumerate(("by the clock", "of the processor, all threads")):
        print_line(
            f"seconds {clock}: inference {found['inference_s'][place]:.1f}, validation "
            f"{found['validation_s'][place]:.1f}, ratio {found['ratio'][place]:.3f}"
        )
    print_line(f"ratio of the clock, {_BLOCK} pictures each: {low:.3f}, {middle:.3f}, {high:.3f}")
    for count in _COUNTS:
        command = [sys.executable, __file__, "--weights", weights, "--pictures", pictures]
        command += ["--stages", str(stages), "--memory", str(count)]
        peak = subprocess.check_output(command, text=True).strip()
        print_line(f"peak memory over {count} pictures: {peak} MiB")


if __name__ == "__main__":
    typer.run(main)
