"""What sparse kernels gain: the same graph built and timed with and without them, several times."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Annotated, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from sls_deploy.engine.backends import BACKENDS
from sls_deploy.engine.device import Device, present_device
from sls_deploy.engine.evidence import Evidence
from sls_deploy.engine.manifest import EngineManifest
from sls_deploy.engine.request import Dimensions
from sls_deploy.errors import SlsError, problem
from sls_deploy.files import write_json
from sls_deploy.progress import Progress, Report, silent

BUILDS = 5
"""Fewest builds of each kind. TensorRT times kernels anew in every build, so two engines of the
same graph differ. If all ten were of one kind, the times of five would still all lie below those of
the others in 2 of 252 orders, 0.8 %; with three and three it would be 2 of 20."""

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class EngineTimes:
    """How long one engine took."""

    milliseconds: Milliseconds
    """Median of a whole run, on the GPU."""
    layers: dict[str, float]
    """Median milliseconds of each layer, by the vendor's names, in the order of execution."""
    runs_sparse: bool | None
    """Whether a sparse kernel runs in it; None if its kernels are not told."""


@dataclass(frozen=True)
class LayerGain:
    """Times of one layer, medians over the builds that have a layer of this name."""

    name: str
    """The vendor's name of it; what is fused may differ between builds."""
    sparse_ms: float | None
    """With sparse kernels allowed; None if no such build has it."""
    dense_ms: float | None
    """Without them; None if no such build has it."""


@dataclass(frozen=True)
class SparsityGain:
    """Times of engines of one graph, with sparse kernels allowed and without."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    plan_sha256: str
    """SHA-256 of the engine that it was measured for."""
    backend: Literal["tensorrt", "tensorrt_rtx"]
    """Vendor's Python module that built the engines."""
    device: Device | None
    """GPU that timed them, with driver and the clocks at the end; None if that is unknown."""
    shape: Dimensions
    """Input, NCHW."""
    repeats: int
    """Runs of each engine that the median is taken of."""
    sparse_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=BUILDS)]
    """Of each build with sparse kernels allowed."""
    dense_ms: Annotated[tuple[Milliseconds, ...], Field(min_length=BUILDS)]
    """Of each build without."""
    layers: tuple[LayerGain, ...]
    """Layers of both, in the order of execution with sparse kernels allowed."""
    dense_is_dense: bool | None
    """Whether the builds without sparse kernels run none; None if their kernels are not told."""

    @property
    def gain(self) -> float:
        """How many times as fast it is with sparse kernels allowed, by medians."""
        return median(self.dense_ms) / median(self.sparse_ms)

    @property
    def spread(self) -> float:
        """The larger of the two ranges between builds, as a share of its median."""
        return max(
            (max(times) - min(times)) / median(times) for times in (self.sparse_ms, self.dense_ms)
        )

    @property
    def verdict(self) -> Literal["faster", "slower", "within the noise"]:
        """Whether the gain is larger than what builds of the same kind differ by.

        Every build of one kind must beat every one of the other, and by more than `spread`.
        """
        apart = max(self.sparse_ms) < min(self.dense_ms) or min(self.sparse_ms) > max(self.dense_ms)
        if not apart or abs(self.gain - 1) <= self.spread:
            return "within the noise"
        return "faster" if self.gain > 1 else "slower"

    @property
    def doubts(self) -> tuple[str, ...]:
        """Why the two kinds of engines may be one and the same; empty if nothing speaks for it."""
        found = []
        if not BACKENDS[self.backend].times_kernels:
            found.append(
                f"{self.backend} chooses kernels when it loads an engine, and engines that its "
                "version 1.7 built without a GPU did not differ by whether sparse ones were allowed"
            )
        if self.dense_is_dense is None:
            found.append("the kernels of the builds without sparse ones are not told")
        elif not self.dense_is_dense:
            found.append("builds without sparse kernels run some, too")
        return tuple(found)

    def __str__(self) -> str:
        place = "" if self.device is None else f" on {self.device.name}"
        return (
            f"{self.gain:.2f} times as fast with sparse kernels allowed{place}, {self.verdict} "
            f"({median(self.sparse_ms):.3f} ms against {median(self.dense_ms):.3f} ms, medians of "
            f"{len(self.sparse_ms)} builds each, which differ by up to {self.spread:.1%})"
        )


def measure_gain(
    build: Callable[[bool], bytes],
    time: Callable[[bytes], EngineTimes],
    *,
    plan_sha256: str,
    backend: Literal["tensorrt", "tensorrt_rtx"],
    device: Callable[[], Device | None],
    shape: Dimensions,
    repeats: int,
    builds: int = BUILDS,
    report: Report = silent,
) -> SparsityGain:
    """Build and time engines in turn, with sparse kernels allowed and without.

    Args:
        build: makes an engine; its argument says whether sparse kernels are allowed.
        time: times an engine.
        plan_sha256: SHA-256 of the engine that it is measured for.
        backend: vendor's Python module that builds them.
        device: tells the GPU that times; asked at the end, because an idle GPU clocks down.
        shape: input, NCHW.
        repeats: runs of each engine that `time` takes the median of.
        builds: engines of each kind, at least `BUILDS`.
        report: receives a report before each build, and one at the end.

    Raises:
        SlsError: `builds` is too small, or an engine cannot be built or timed.
    """
    if builds < BUILDS:
        raise SlsError(f"{builds} builds tell nothing", "the gain", f"Take {BUILDS} or more.")
    times: dict[bool, list[EngineTimes]] = {True: [], False: []}
    for turn in range(builds):
        # Clocks and heat drift; who comes first changes, so that they favour neither.
        for place, sparse in enumerate((True, False) if turn % 2 == 0 else (False, True)):
            report(Progress("sparse against dense", 2 * turn + place, 2 * builds))
            times[sparse].append(time(build(sparse)))
    timed_on = device()
    report(Progress("sparse against dense", 2 * builds, 2 * builds))
    return SparsityGain(
        plan_sha256=plan_sha256,
        backend=backend,
        device=timed_on,
        shape=shape,
        repeats=repeats,
        sparse_ms=tuple(engine.milliseconds for engine in times[True]),
        dense_ms=tuple(engine.milliseconds for engine in times[False]),
        layers=_layers(times[True], times[False]),
        dense_is_dense=_are_dense(times[False]),
    )


def known_evidence(plan: Path, manifest: EngineManifest) -> Evidence:
    """All that is known of an engine's sparsity by now: its manifest's, and a gain beside it.

    Args:
        plan: the engine.
        manifest: of exactly these bytes, from `verified_manifest`.

    Raises:
        SlsError: the file of the gain is damaged.
    """
    gain = read_gain(plan, manifest.plan_sha256)
    known = manifest.evidence
    return known if gain is None else with_gain(known, gain, present_device())


def with_gain(evidence: Evidence, gain: SparsityGain, here: Device | None) -> Evidence:
    """Evidence with a measured gain, and with what makes it doubtful.

    It is L4 if TensorRT is known to have chosen sparse kernels, if the builds without them are
    known to run none, and if the gain was not measured on another GPU than that of this machine.

    Args:
        evidence: what is known without it.
        gain: of the same engine.
        here: GPU of this machine; None if it has none.
    """
    same = here is None or (gain.device is not None and gain.device.name == here.name)
    doubts = [*gain.doubts]
    if here is not None and not same:
        doubts.append(f"that was not measured on the {here.name} of this machine")
    proven = evidence.level == "L3" and gain.dense_is_dense is True and same
    return replace(
        evidence,
        level="L4" if proven else evidence.level,
        statement="; ".join((evidence.statement, str(gain), *doubts)),
    )


def gain_file(plan: Path) -> Path:
    """Where the gain of an engine is kept: 'sm86-fp16.gain.json' beside 'sm86-fp16.plan'."""
    return plan.with_suffix(".gain.json")


def write_gain(plan: Path, gain: SparsityGain) -> Path:
    """Write a gain beside its engine, atomically, and return its path."""
    return write_json(gain_file(plan), asdict(gain))


def read_gain(plan: Path, plan_sha256: str) -> SparsityGain | None:
    """Read the gain beside an engine; None if there is none, or it is that of another engine.

    Args:
        plan: the engine.
        plan_sha256: its SHA-256.

    Raises:
        SlsError: the file cannot be read, or is not one that `write_gain` wrote.
    """
    path = gain_file(plan)
    fix = "`sls-deploy bench --sparsity` measures it again."
    try:
        gain = TypeAdapter(SparsityGain).validate_json(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path), fix) from None
    except ValidationError as error:
        raise SlsError(f"is no measured gain ({problem(error)})", str(path), fix) from None
    return gain if gain.plan_sha256 == plan_sha256 else None


def _are_dense(engines: Iterable[EngineTimes]) -> bool | None:
    """Whether no engine runs a sparse kernel; None if one may."""
    told = [engine.runs_sparse for engine in engines]
    if True in told:
        return False
    return None if None in told else True


def _layers(sparse: Iterable[EngineTimes], dense: Iterable[EngineTimes]) -> tuple[LayerGain, ...]:
    ours, theirs = _medians(sparse), _medians(dense)
    return tuple(
        LayerGain(name, ours.get(name), theirs.get(name))
        for name in dict.fromkeys([*ours, *theirs])
    )


def _medians(engines: Iterable[EngineTimes]) -> dict[str, float]:
    """Median time of each layer, in the order in which the first engine that has it runs it."""
    times: dict[str, list[float]] = {}
    for engine in engines:
        for name, milliseconds in engine.layers.items():
            times.setdefault(name, []).append(milliseconds)
    return {name: median(values) for name, values in times.items()}
