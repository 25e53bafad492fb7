"""A report with every kind of content: figures as a real run has them, pictures that are made."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import skimage.data
from PIL import Image

from sls_deploy.engine.evidence import Evidence, LayerEvidence
from sls_deploy.engine.sparsity_log import SparsityLog
from sls_deploy.report.schema import (
    BudgetReport,
    Competitor,
    Cost,
    Curve,
    Done,
    EngineFacts,
    History,
    LayerRow,
    Network,
    Point,
    RunReport,
    Step,
)
from sls_deploy.runtime.bench_result import Bench, BenchRow
from sls_deploy.runtime.benchmark import summarise
from sls_deploy.validate.figures import DENSE, SPARSE
from tests.report.sample_figures import DIGEST, ENGINE, FOLDERS, PRUNING, validation

HOSTILE = "<script>document.title='broken'</script>"
"""A layer of this name must stay text."""


def layer_names(count: int) -> tuple[str, ...]:
    """Names like those of a network of residual blocks, with one that tries to be a script."""
    parts = ("c1_r", "c2_r", "c3_r", "c5", "esa.conv1", "esa.conv2", "esa.conv3", "esa.conv4")
    blocks = [f"block_{i // len(parts) + 1}.{parts[i % len(parts)]}" for i in range(count - 3)]
    return ("conv_1", *blocks, HOSTILE, "upsampler.0")


def _layers(budget: float, count: int) -> Iterator[LayerRow]:
    random = np.random.default_rng(3)
    names = layer_names(count)
    for place, name in enumerate(names):
        ends, small = place in (0, count - 1), name.endswith(("c5", "conv4"))
        kept = 4 if ends or (small and budget == 0.5) else 2
        narrowed = 48 if budget == 0.5 or not name.endswith("c2_r") else round(96 * budget)
        eligible = kept == 2 and not name.endswith("conv3")
        why = "the first convolution stays dense" if place == 0 else "others lose less"
        why = "the last convolution stays dense" if place == count - 1 else why
        few = "12 input channels are no multiple of 8, which this precision needs"
        yield LayerRow(
            name=name,
            kind="Conv2d",
            shape=(48, 48, 1, 1) if small else (48, 48, 3, 3),
            width=(narrowed, 48),
            kept=kept,
            of=4,
            share=(0.002 if small else 0.022) * (1.0 + 0.3 * math.sin(place)),
            left=kept / 4 * narrowed / 48,
            sensitivity=None if ends else float(10 ** random.uniform(-6.4, -4.2)),
            eligible=eligible,
            reason="" if eligible else why if kept == 4 else few,
        )


def _history(budget: float, count: int) -> History:
    names = layer_names(count)[1:-1]
    random = np.random.default_rng(5)
    speed = random.uniform(0.4, 1.0, len(names))
    steps: list[Step] = []
    for step in range(0, 1001, 25):
        searching = step <= 400
        done = min(step / 400, 1.0)
        kept = tuple(max(4, round(32 * (1 - done * float(own) * (1 - budget)))) for own in speed)
        steps.append(
            Step(
                step=step,
                phase="search" if searching else "fine-tuning",
                psnr=24.75 - 2.2 * budget**-0.5 * math.exp(-step / 300) + 0.01 * random.normal(),
                loss=0.031 + 0.02 * math.exp(-step / 150) + 0.0015 * random.normal(),
                cost=1 - done * (1 - budget) if searching else None,
                kept=kept if searching else None,
            )
        )
    return History(names, 32, tuple(steps))


def _evidence(budget: float, count: int) -> Evidence:
    rows = tuple(
        LayerEvidence(
            name=f"/{row.name.replace('.', '/')}/Conv",
            operator="Conv",
            onnx_initializer=f"{row.name}.weight",
            precision="fp16",
            c_in=48,
            groups=1,
            legal_2_4=row.kept == 2,
            eligible=bool(row.eligible),
            reason=row.reason,
            bytes_in_plan=True if row.eligible else None,
        )
        for row in _layers(budget, count)
    )
    number = sum(row.eligible for row in rows)
    told = f"{number} of {number} eligible layers' weights found in the plan; "
    unknown = "kernel choice unknown until it is loaded on a GPU"
    return Evidence("L1", told + unknown, SparsityLog(), rows)


def _bench(budget: float) -> Bench:
    random = np.random.default_rng(7)
    medians = {DENSE: 222.1, SPARSE: 221.4 - 90 * (0.5 - budget), "ONNX fp32": 142.6 + 60 * budget}
    rows = tuple(
        BenchRow(
            name=name,
            backend="onnxruntime" if "ONNX" in name else "torch",
            device="cpu",
            timing=summarise(list(median * (1 + 0.02 * random.random(40)))),
            pictures_per_second=1e3 / median,
            megapixels_per_second=0.4096e3 / median,
            ratio=median / medians[DENSE],
            memory_mib=412,
            note="",
            layers=None,
        )
        for name, median in medians.items()
    )
    return Bench(
        version=1,
        target="runs/rlfn",
        budget=budget,
        shape=(1, 3, 160, 160),
        output_shape=(1, 3, 640, 640),
        processor="AMD EPYC 7B13",
        threads=1,
        gpu=None,
        gpu_after=None,
        versions={"torch": "2.13.0", "onnxruntime": "1.24.1"},
        when="2026-11-20T10:12:00+00:00",
        warm_up=5,
        repeats=40,
        rows=rows,
        not_run={ENGINE: "no NVIDIA GPU is visible"},
    )


def _budget(budget: float, count: int) -> BudgetReport:
    left = 0.055 + 0.945 * budget
    macs = "multiply-accumulates of the weights kept, whatever executes them"
    executable = "multiply-accumulates that tensor cores execute: a dense layer 1, a 2:4 one 1/2"
    latency = "estimate, not measured: roofline of a10 in fp16, pictures of 180x320"
    timed = "ONNX fp32, sparse over dense, 1 thread of AMD EPYC 7B13, 160x160"
    return BudgetReport(
        budget=budget,
        pattern="2:4",
        method="auto",
        cost_model="macs",
        costs=(
            Cost("macs", macs, False, budget, left),
            Cost("executable", executable, False, budget, left),
            Cost("latency", latency, False, 0.62 + budget / 2, 0.64 + budget / 2),
            Cost("measured", timed, True, None, 0.7 + budget / 2),
        ),
        level="L1",
        held_out_dense=24.746,
        held_out_sparse=24.746 - PRUNING[budget],
        competitors=(Competitor("allocated", 24.154, True), Competitor("learnt", 23.981, False)),
        layers=tuple(_layers(budget, count)),
        history=_history(budget, count),
        engines=(
            EngineFacts(
                name=ENGINE,
                backend="tensorrt_rtx 1.7.1",
                precision="fp16",
                bytes=1_482_752,
                sha256=DIGEST,
                level="L1",
                statement=_evidence(budget, count).statement,
            ),
        ),
        validations=tuple(
            validation(budget, folder, _evidence(budget, count)) for folder in FOLDERS
        ),
        benches=(_bench(budget),),
    )


def _curve(folder: str) -> Curve:
    dense = 30.8 if folder == "Set5" else 27.58
    own, other, before = "runs/rlfn", "runs/rlfn-sls", "runs/rlfn-magnitude"
    points = [Point("dense", "dense", False, 1.0, dense)]
    for budget, lost in PRUNING.items():
        left = 0.055 + 0.945 * budget
        for series, times in ((own, 1.0), (other, 1.35), (before, 2.1)):
            mine = series == own
            label = f"budget {budget:g}" if mine else f"{series}, budget {budget:g}"
            points.append(Point(label, series, mine, left, dense - times * lost))
    return Curve(f"data/{folder}", "Y-PSNR", tuple(points))


def sample_report(budgets: tuple[float, ...] = (0.5, 0.25, 0.125), layers: int = 60) -> RunReport:
    """A whole report: a budget that fails its gates, two folders, both phases of a search."""
    parts = tuple(_budget(budget, layers) for budget in budgets)
    passed = all(validation.passed for part in parts for validation in part.validations)
    kept = 0.055 + 0.945 * budgets[0]
    verdict = (
        f"All gates passed: at budget {budgets[0]:g} the network keeps {kept:.1%} of its "
        "multiply-accumulates and loses 0.021 dB (0.018 to 0.024) on B100; evidence L1."
        if passed
        else "Failed: budget 0.125 loses 0.584 dB on B100 in ONNX int8, limit 0.3 dB; most of it "
        "by pruning, worst picture 12055.png, layer block_1.c3_r."
    )
    done = Done(
        key="search/b0.50",
        seconds=812.4,
        peak_mib=1930,
        machine="Linux 6.8, AMD EPYC 7B13, 2 cores",
        versions={"sls-deploy": "0.6.0", "torch": "2.13.0", "onnxruntime": "1.24.1"},
        outputs={"search/b0.50/weights.safetensors": DIGEST},
    )
    return RunReport(
        version=2,
        run="runs/rlfn",
        network=Network("rlfn", "rlfn_s_x4.pth", DIGEST, 4, 443_982.0),
        passed=passed,
        verdict=verdict,
        budgets=parts,
        curves=tuple(_curve(folder) for folder in FOLDERS),
        commands=(
            "sls-deploy run --config config.toml --out runs/rlfn",
            "sls-deploy validate runs/rlfn --data data/B100",
            "sls-deploy report runs/rlfn",
        ),
        config='[model]\nname = "rlfn"\nweights = "rlfn_s_x4.pth"\n',
        done=(done, replace(done, key="export/b0.50", seconds=41.2, peak_mib=1210)),
    )


def sample_images(report: RunReport) -> dict[str, bytes]:
    """A small PNG for every file that the report's crops name."""
    random = np.random.default_rng(11)
    photo = skimage.data.astronaut()
    images: dict[str, bytes] = {}
    for budget in report.budgets:
        for place, crop in enumerate(
            crop for measured in budget.validations for crop in measured.crops
        ):
            top, left = 20 + 64 * place, 150 + 40 * place
            truth = Image.fromarray(photo[top : top + crop.height, left : left + crop.width])
            size = (crop.width, crop.height)
            small = truth.resize((crop.width // 4, crop.height // 4), Image.Resampling.BICUBIC)
            restored = np.asarray(small.resize(size, Image.Resampling.LANCZOS), np.float32)
            for name, path in crop.files.items():
                loss = 0.0 if name == DENSE else 12 * PRUNING[budget.budget] ** 0.5
                noise = random.normal(0, 1, restored.shape) * loss
                picture = Image.fromarray(np.clip(restored + noise, 0, 255).astype(np.uint8))
                picture = truth if name == "truth" else picture
                if name == "input":
                    picture = small.resize(size, Image.Resampling.NEAREST)
                file = io.BytesIO()
                picture.save(file, "PNG")
                images[path] = file.getvalue()
    return images
