"""What validation measures: the form of its figures, from one picture to a whole budget."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from sls_deploy.config import Precision
from sls_deploy.engine.evidence import Evidence

Metric = Literal["psnr_y", "psnr_rgb"]
"""The figure that papers report: of luma for super-resolution, of all colours for deblurring."""
Kind = Literal["dense", "sparse", "onnx", "engine"]
"""What a stage is: a PyTorch network before and after pruning, an ONNX file, a TensorRT engine."""
Rule = Literal["loss", "worst picture", "fidelity", "fidelity to dense"]
"""What a gate limits."""
DENSE, SPARSE = "dense PyTorch", "sparse PyTorch"
"""What the stages in PyTorch are called."""


@dataclass(frozen=True)
class StageId:
    """One form of the network, and what it is compared with."""

    name: str
    """What reports call it, such as 'ONNX fp16'; unlike every other stage's."""
    kind: Kind
    """What it is."""
    precision: Precision
    """Its precision; fp32 for PyTorch."""
    in_bytes: bool
    """Whether it takes and gives pictures of 8 bits."""
    previous: str
    """Name of the stage that it was made from; empty for the first."""
    reference: str
    """Name of the PyTorch stage that it is to equal; empty for those themselves."""


@dataclass(frozen=True)
class Quality:
    """How near a restored picture comes to the truth; means of it over a set."""

    psnr_y: float
    """PSNR of luma, dB, on 8-bit pictures, shaved; at most 100."""
    psnr_rgb: float
    """The same over all three colours."""
    ssim_y: float
    """SSIM of luma."""
    ssim_rgb: float
    """Mean of the SSIM of each colour."""
    lpips: float | None
    """LPIPS (AlexNet), lower is better; None where it was not asked for."""


@dataclass(frozen=True)
class Fidelity:
    """How far a restored picture lies from another stage's, before rounding, both on 0..1."""

    psnr_db: float | None
    """PSNR with peak 1, dB; None where they are equal. Over a set the lowest."""
    max_error: float
    """Largest absolute difference. Over a set the largest."""
    p999_error: float
    """99.9th percentile of the absolute differences. Over a set the largest."""


@dataclass(frozen=True)
class PictureFigures:
    """One picture restored by one stage."""

    name: str
    """Path of the picture below its folder."""
    quality: Quality | None
    """Against the truth; None where there is none."""
    to_previous: Fidelity | None
    """Against the stage that it was made from; None for the first."""
    to_reference: Fidelity | None
    """Against the PyTorch stage that it is to equal; None for those themselves."""
    seconds: float
    """Wall time of the inference."""


@dataclass(frozen=True)
class StageFigures:
    """A set of pictures restored by one stage."""

    stage: StageId
    """Which."""
    quality: Quality | None
    """Means over the pictures; None without truth."""
    to_previous: Fidelity | None
    """The worst over the pictures."""
    to_reference: Fidelity | None
    """The worst over the pictures."""
    seconds: float
    """Wall time of inference over all pictures."""
    pictures: tuple[PictureFigures, ...]
    """Each picture."""

    @property
    def name(self) -> str:
        """What reports call the stage."""
        return self.stage.name


@dataclass(frozen=True)
class Loss:
    """What a stage lost of the headline figure against another, over the same pictures."""

    stage: str
    """The stage that lost."""
    against: str
    """The stage that it is compared with."""
    cause: str
    """What lies between them: 'pruning', 'ONNX export', 'fp16', 'engine', or 'all of it'."""
    mean_db: float
    """Mean over the pictures, dB; negative where it gained."""
    low_db: float | None
    """Lower end of the 95 % bootstrap interval of that mean; None for fewer than two pictures."""
    high_db: float | None
    """Upper end."""
    worst_picture: str
    """The picture that lost most."""
    worst_db: float
    """What it lost, dB."""


@dataclass(frozen=True)
class Culprit:
    """Who is to blame for a gate that failed."""

    picture: str
    """The picture where it is worst."""
    cause: str
    """The step of the flow that lost most on that picture; see `Loss.cause`."""
    layer: str
    """The first layer that departs, or the one that pruning hurt most; empty if none was found."""
    finding: str
    """One sentence on how that was found, without a full stop."""


@dataclass(frozen=True)
class Gate:
    """One limit and what was measured against it."""

    stage: str
    """The stage judged."""
    rule: Rule
    """What is limited."""
    setting: str
    """The setting in the TOML that holds the limit, such as 'validate.max_loss_db'."""
    limit: float
    """The setting's value, dB."""
    value: float | None
    """The figure measured, dB; None where the outputs are equal."""
    passed: bool
    """Whether it stays within the limit."""
    picture: str
    """The worst picture, whether it failed or not; empty if all are equal."""
    culprit: Culprit | None
    """Who is to blame; None where the gate passed."""


@dataclass(frozen=True)
class Crop:
    """A part of a picture as every stage restores it, kept to be looked at."""

    picture: str
    """Path of the picture below its folder."""
    why: Literal["worst", "median"]
    """Which picture of the set it is, by what the last stage lost; without truth by fidelity."""
    told: str
    """What it lost, in words, such as 'loses 0.41 dB'."""
    top: int
    """First row in the output, pixels: where stages differ most in that picture."""
    left: int
    """First column."""
    height: int
    """Rows."""
    width: int
    """Columns."""
    files: dict[str, str]
    """PNG files of that size by what they show, as paths in the run folder: 'truth' where there is
    one, 'input' enlarged without smoothing, and every stage by its name."""


@dataclass(frozen=True)
class Protocol:
    """How figures are measured, so that they can be compared with those of a paper."""

    metric: Metric
    """The figure that is shown and whose loss is limited."""
    shave: int
    """Pixels cut from every side before comparing with the truth."""
    input: str
    """How the inputs came about, a sentence without a full stop."""
    tile: int | None
    """Side of the tiles in input pixels that larger pictures were cut into; None if none was."""
    text: str
    """All of it in sentences."""


@dataclass(frozen=True)
class Validation:
    """What was measured on one folder of pictures for one budget, or for one foreign file."""

    budget: float | None
    """The budget; None for a file that no run made."""
    folder: str
    """Folder of the pictures."""
    pictures: int
    """Number of pictures."""
    scale: int
    """Output pixels for one input pixel, along each side."""
    protocol: Protocol
    """How the figures were measured."""
    stages: tuple[StageFigures, ...]
    """Dense PyTorch first, then each form in the order of the flow."""
    losses: tuple[Loss, ...]
    """What each stage lost against the one that it was made from; empty without truth."""
    totals: tuple[Loss, ...]
    """What each stage lost against the dense network; empty without truth."""
    not_run: dict[str, str]
    """What could not run here, each with its reason."""
    evidence: dict[str, Evidence]
    """How far the sparsity of each engine is proven, by its name."""
    crops: tuple[Crop, ...]
    """The worst and the median picture to look at."""
    gates: tuple[Gate, ...]
    """Limits and what was measured against them."""
    passed: bool
    """Whether all gates passed."""
    hashes: dict[str, str]
    """SHA-256 of what each stage was made of, by its name."""
    notes: tuple[str, ...] = ()
    """What is to be known of how stages were run, in sentences; mostly empty."""
