"""The forms that a run holds of one budget's network, ready to be validated."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from sls_deploy.config import Precision
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.manifest import EngineManifest, verified_manifest
from sls_deploy.errors import SlsError
from sls_deploy.export.bisect import Bisection, bisect_pytorch
from sls_deploy.export.fold_norms import fold_norms
from sls_deploy.export.parity import Batch
from sls_deploy.export.passes.rounding import runnable
from sls_deploy.files import hash_file
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from sls_deploy.onnx_file import read_model
from sls_deploy.runtime.exported import graph_file
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures, Runner
from sls_deploy.runtime.tensorrt import EngineRunner
from sls_deploy.runtime.tiling import Tiled
from sls_deploy.validate.engines import engine_name
from sls_deploy.validate.figures import DENSE, SPARSE, StageId
from sls_deploy.validate.measure import Stage

_OVERLAP = 32
"""Input pixels that tiles share with their neighbours."""


@dataclass(frozen=True)
class Form:
    """One form of the network."""

    id: StageId
    """What it is."""
    runner: Runner
    """What runs it, on pictures that it takes."""
    sha256: str
    """Of the file that it was made of."""
    graph: Path | None = None
    """The ONNX file that it is or was built from; None for PyTorch."""
    smallest: int = 1
    """Least side of its input, pixels."""
    largest: int | None = None
    """Greatest side that every input may have, pixels; None if there is no limit."""
    fixed: tuple[int, int] | None = None
    """The one height and width of its input; None if it takes several."""


def pytorch_form(network: RestorationModel, file: Path, *, sparse: bool = False) -> Form:
    """A network in PyTorch: the dense one, or the sparse one that was made from it.

    Args:
        network: which.
        file: what it was loaded from.
        sparse: whether it is the sparse one.
    """
    about = StageId(
        SPARSE if sparse else DENSE,
        "sparse" if sparse else "dense",
        "fp32",
        in_bytes=False,
        previous=DENSE if sparse else "",
        reference="",
    )
    return Form(about, TorchRunner(network, about.name), hash_file(file))


def graph_forms(graphs: Mapping[Precision, Path], not_run: dict[str, str]) -> list[Form]:
    """The exported files from floats to floats, run by ONNX Runtime on the CPU.

    Args:
        graphs: the files.
        not_run: receives why a file cannot take single pictures.
    """
    forms = []
    for precision, path in graphs.items():
        name, content = graph_name(precision), path.read_bytes()
        batch, _, height, width = (
            item.dim_value for item in read_model(path).graph.input[0].type.tensor_type.shape.dim
        )
        if batch > 1:
            not_run[name] = f"it takes batches of {batch} only, and pictures come one by one"
            continue
        source = graph_name("fp32") if precision != "fp32" and "fp32" in graphs else SPARSE
        forms.append(
            Form(
                StageId(name, "onnx", precision, False, source, SPARSE),
                OnnxRunner(runnable(content, precision), name),
                hash_file(path),
                path,
                fixed=(height, width) if height and width else None,
            )
        )
    return forms


def engine_forms(
    plans: Sequence[Path], graphs: Sequence[Form], not_run: dict[str, str]
) -> list[Form]:
    """The engines that this machine can run.

    Args:
        plans: engines that are what the run built.
        graphs: the exported files that run.
        not_run: receives why each of the others cannot run.
    """
    forms, sources = [], {form.id.precision: form for form in graphs}
    for plan in plans:
        try:
            manifest = verified_manifest(plan)
            forms.append(engine_form(plan, manifest, sources.get(manifest.precision), SPARSE))
        except SlsError as error:
            not_run[engine_name(plan)] = error.what
    return forms


def engine_form(plan: Path, manifest: EngineManifest, source: Form | None, reference: str) -> Form:
    """An engine that this machine can run.

    Args:
        plan: the engine.
        manifest: of exactly these bytes, from `verified_manifest`.
        source: the ONNX file that it was built from; None if that does not run here.
        reference: name of the PyTorch stage that it is to equal.

    Raises:
        SlsError: as `EngineRunner`.
    """
    return Form(
        StageId(
            engine_name(plan),
            "engine",
            manifest.precision,
            manifest.in_bytes,
            previous=source.id.name if source else reference,
            reference=reference,
        ),
        EngineRunner(plan, engine_name(plan)),
        manifest.plan_sha256,
        source.graph if source else None,
        max(manifest.min_shape[2:]),
        min(manifest.max_shape[2:]),
    )


def graph_name(precision: Precision) -> str:
    """What reports call an exported file."""
    return f"ONNX {precision}"


def exported_graphs(folder: Path) -> dict[Precision, Path]:
    """The exported files from floats to floats.

    Those from bytes to bytes were compared with these by the export, level by level.
    """
    named = {precision: graph_file(folder, precision) for precision in get_args(Precision)}
    return {precision: path for precision, path in named.items() if path.is_file()}


@dataclass(frozen=True)
class Tiling:
    """Where pictures are cut, the same for every form."""

    tile: int | tuple[int, int]
    """Pictures of more input pixels than such a square are cut into tiles of that side or less; or
    the height and width that every input has."""
    longest: int | None
    """Longest side that is not cut, pixels: engines take none above what they were built for."""

    @classmethod
    def of(cls, tile: int, forms: Sequence[Form]) -> Tiling:
        """The tiling that every form can take: those of one export have one size or none."""
        fixed = next((form.fixed for form in forms if form.fixed), None)
        longest = min((form.largest for form in forms if form.largest), default=None)
        return cls(fixed or tile, longest)

    def cut(self, truth: TruthFolder) -> int | None:
        """Longest side of the tiles that pictures are cut into, pixels; None if none is cut."""
        if not any(map(self._cuts, truth.input_sizes())):
            return None
        return self.tile if isinstance(self.tile, int) else max(self.tile)

    def _cuts(self, size: tuple[int, int]) -> bool:
        if not isinstance(self.tile, int):
            return any(side > most for side, most in zip(size, self.tile, strict=True))
        too_long = self.longest is not None and max(size) > self.longest
        return too_long or math.prod(size) > self.tile**2


def stages_of(forms: Sequence[Form], about: Description, tiling: Tiling) -> tuple[Stage, ...]:
    """Forms as stages: each takes pictures of any size, and all cut them into the same tiles."""
    return tuple(
        Stage(
            form.id,
            Tiled(
                Padded(
                    form.runner, max(about.least_side, form.smallest), about.multiple, about.scale
                ),
                tiling.tile,
                _OVERLAP,
                about.scale,
                multiple=about.multiple,
                longest=tiling.longest,
            ),
        )
        for form in forms
    )


def bisections(
    forms: Sequence[Form], sparse: RestorationModel
) -> dict[str, Callable[[Pictures], Bisection]]:
    """What finds the first value of a form's graph that departs from PyTorch."""
    found: dict[str, Callable[[Pictures], Bisection]] = {}
    for form in forms:
        if form.graph is None:
            continue

        def bisect(degraded: Pictures, form: Form = form) -> Bisection:
            assert form.graph is not None  # noqa: S101 - said above
            content, batch = form.graph.read_bytes(), Batch(("the picture",), degraded)
            return bisect_pytorch(fold_norms(sparse).model, content, [batch], form.id.precision)

        found[form.id.name] = bisect
    return found
