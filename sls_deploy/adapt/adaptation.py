"""What a run knows of adaptive inference: candidates, their costs, and how tiles are cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load, save

from sls_deploy.adapt.tradeoff import EXPONENT, Calibration, Errors
from sls_deploy.errors import SlsError, problem
from sls_deploy.files import atomic, write_json
from sls_deploy.run import Run

KEY = "adapt"
"""Name of the stage in the run's manifest, and of its folder."""
FILE, ESTIMATOR, CALIBRATION = "adapt.json", "estimator.onnx", "calibration.safetensors"
SKIP = "skip"
"""Name of the candidate that costs nothing: bicubic, or the picture itself at scale 1."""
_ARRAYS = ("estimated", "true")
_AGAIN = "`sls-deploy adapt` makes it anew."


@dataclass(frozen=True)
class Candidate:
    """What a tile may be given to."""

    name: str
    """Such as 'skip' or 'b0.50'."""
    budget: float | None
    """Budget of the network; None for the skip path."""
    cost: float
    """Multiply-accumulates of the network as a share of the dense one's."""


@dataclass(frozen=True)
class Adaptation:
    """How a run chooses networks for tiles."""

    __pydantic_config__ = ConfigDict(extra="forbid")

    candidates: tuple[Candidate, ...]
    """By ascending cost, no two of one cost; their order is that of the estimator's output."""
    estimator_cost: float
    """Multiply-accumulates of the estimator as a share of the dense network's."""
    tile: int
    """Side of the tiles that are chosen for, input pixels; a multiple of 8."""
    overlap: int
    """Input pixels around a tile that are restored with it and given up."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    frames: int
    """Pictures in an input."""
    colour: Literal["y", "rgb"]
    """What errors are of: luma for super-resolution, all colours for deblurring."""
    graphs: dict[str, str]
    """SHA-256 of the graph that each network was measured with, by the candidate's name."""
    tiles: int
    """Tiles learnt from."""
    calibration_tiles: int
    """Tiles of other photographs to find the weight of cost on."""
    exponent: float = EXPONENT
    """Power of the estimated MSE that weight * cost is added to."""

    @property
    def costs(self) -> tuple[float, ...]:
        """Cost of each candidate."""
        return tuple(candidate.cost for candidate in self.candidates)


def read_adaptation(run: Run) -> Adaptation:
    """What `sls-deploy adapt` found out about a run.

    Raises:
        SlsError: it was not done, a network or a file has changed since, or the file is damaged.
    """
    folder = run.path / KEY
    if KEY not in run.manifest:
        fix = f"`sls-deploy adapt {run.path} --data photos/` does it."
        raise SlsError("was not adapted yet", str(run.path), fix)
    if not run.is_current(KEY):
        what = "must be adapted again: its networks or estimators have changed"
        raise SlsError(what, str(run.path), "`sls-deploy adapt` does it.")
    path = folder / FILE
    try:
        adaptation = TypeAdapter(Adaptation).validate_json(path.read_bytes())
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path), _AGAIN) from None
    except ValidationError as error:
        what = f"is not an adaptation of this version ({problem(error)})"
        raise SlsError(what, str(path), _AGAIN) from None
    if adaptation.exponent != EXPONENT:
        raise SlsError("chooses by another power of the error", str(path), _AGAIN)
    if not adaptation.candidates or any(np.diff(adaptation.costs) <= 0):
        raise SlsError("does not list candidates by ascending cost", str(path), _AGAIN)
    return adaptation


def write_adaptation(run: Run, adaptation: Adaptation) -> Path:
    """Write it into the run's folder, and return its path."""
    return write_json(run.path / KEY / FILE, asdict(adaptation))


def read_calibration(run: Run, adaptation: Adaptation) -> Calibration:
    """The tiles that weights of cost are found on.

    Raises:
        SlsError: the file is missing or damaged.
    """
    path = run.path / KEY / CALIBRATION
    try:
        arrays = load(path.read_bytes())
    except OSError as error:
        raise SlsError(f"cannot be read ({error.strerror})", str(path), _AGAIN) from None
    except (SafetensorError, ValueError, KeyError) as error:
        raise SlsError(f"is damaged ({error})", str(path), _AGAIN) from None
    found: list[Errors] = [arrays[name] for name in _ARRAYS if name in arrays]
    count = len(adaptation.candidates)
    sound = len(found) == len(_ARRAYS) and all(
        array.ndim == 2 and array.shape == (len(found[0]), count) and np.isfinite(array).all()
        for array in found
    )
    if not sound or not len(found[0]):
        raise SlsError("does not hold errors of these candidates", str(path), _AGAIN)
    estimated, true = (array.astype(np.float64) for array in found)
    return Calibration(estimated, true, adaptation.costs, adaptation.estimator_cost)


def write_calibration(run: Run, estimated: Errors, true: Errors) -> Path:
    """Write the calibration tiles' errors, and return the path."""
    path = run.path / KEY / CALIBRATION
    arrays = dict(zip(_ARRAYS, (estimated, true), strict=True))
    content = save(
        {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}
    )
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return path
