"""The settings of a run: one source for the TOML file, the flags and the help texts.

A section is a frozen pydantic model. Its field descriptions are what `--help` and
`sls-deploy init` show, its defaults are what a run uses.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    field_validator,
)

Precision = Literal["fp32", "fp16", "bf16", "int8"]
"""Precision of an exported graph's weights and activations; pictures stay fp32. What int8 leaves
out is fp16."""

Degradation = Literal["auto", "bicubic", "pairs", "motion-blur"]
"""How the inputs of a network come about."""

ARCHITECTURES = ("sm80", "sm86", "sm87", "sm89")
"""Compute capabilities with 2:4 sparse tensor cores that engines are built for: A100/A30,
A10/A40/RTX 30, Orin, L4/L40/RTX 40."""


def _known_target(value: str) -> str:
    parts = value.split("+")
    if not set(parts) <= set(ARCHITECTURES) or len(set(parts)) < len(parts):
        known = ", ".join(ARCHITECTURES)
        raise ValueError(f"must be of {known}, or several joined by + for one engine")
    return "+".join(sorted(parts))


Target = Annotated[str, AfterValidator(_known_target)]
"""GPU generations that one engine is built for, such as 'sm86' or 'sm80+sm86'."""

Shape = Annotated[
    tuple[int, int, int, int], Field(description="Batch, channels, height and width in pixels.")
]


def _has_a_middle(value: int) -> int:
    if value < 1 or value % 2 == 0:
        raise ValueError("must be odd: the middle picture is restored")
    return value


Frames = Annotated[int, AfterValidator(_has_a_middle)]
"""Pictures that a network takes at once."""

WITHOUT_EFFECT = frozenset({"devices", "nodes", "tensorboard"})
"""Settings of a search that its result does not depend on, but for rounding."""


class Section(BaseModel):
    """A frozen group of settings that refuses unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """The dense network to start from."""

    name: str = Field(
        "auto",
        description="Network of the registry, 'auto' to recognise it, or path/to/file.py:factory "
        "of your own, which is run.",
    )
    weights: Path | None = Field(None, description="Checkpoint of the dense network.")
    scale: int | None = Field(
        None, ge=1, description="Scale to use where the weights hold several, else the largest."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Keyword arguments of your own factory."
    )
    input_range: Literal[1, 255] = Field(
        1, description="Value of white that your own network works with: 1 or 255."
    )
    frames: Frames = Field(
        1, description="Pictures that your own network takes at once; an odd number."
    )
    output: int | str | None = Field(
        None, description="Place or key of the picture, if your own network returns several things."
    )


class DataConfig(Section):
    """The photographs to learn from."""

    photos: Path | None = Field(None, description="Folder of photographs.")
    cache_mib: int = Field(1024, ge=1, description="Memory for decoded photographs, in MiB.")
    held_out: int = Field(16, ge=1, description="Crops kept apart to measure PSNR on.")
    degradation: Degradation = Field(
        "auto",
        description="How inputs come about: 'bicubic', 'motion-blur', 'pairs' in sharp/ and blur/, "
        "or 'auto': pairs where there are any, else bicubic, at scale 1 motion blur.",
    )
    blur_length: float = Field(
        20.0, gt=0, le=128, description="Most that motion blur moves a point, in pixels."
    )
    blur_varying: bool = Field(
        True, description="Roll the camera too, so that motion blur differs over the picture."
    )
    blur_shake: float = Field(
        1.0, ge=0, le=1, description="From 0, motion along a line, to 1, a shaking hand."
    )
    blur_blend: Literal["light", "levels"] = Field(
        "light",
        description="What motion blur adds up: linear 'light', or the file's 'levels' as in GoPro.",
    )
    blur_noise: float = Field(
        1.0, ge=0, description="Deviation of motion blur's noise at middle grey, in 8-bit levels."
    )


class SearchConfig(Section):
    """The search for what to prune."""

    method: Literal["auto", "reconstruct", "sls"] = Field(
        "auto",
        description="'auto': the best ratios, reconstructed, then fine-tuned; 'reconstruct': no "
        "training; 'sls': the paper's, learnt end to end.",
    )
    pattern: str = Field("2:4", description="'2:4', or 'n:M' with M of 4, 8, 16 or 32.")
    budgets: tuple[float, ...] = Field(
        (0.5,), description="Cost to reach, as a share of the prunable layers' dense cost."
    )
    steps: int = Field(600, ge=1, description="Training steps for each budget.")
    minutes: float | None = Field(
        None, gt=0, description="Minutes for each budget, refits and refill on top; replaces steps."
    )
    batch: int = Field(8, ge=1, description="Crops in a step.")
    patch: int = Field(48, ge=8, description="Side of a crop before up-scaling, in pixels.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak rate of Adam for the weights.")
    search_share: float = Field(
        0.4, gt=0, le=1, description="Share of the steps in which the budget should be reached."
    )
    penalty: float = Field(
        0.02, gt=0, description="Weight of the cost (as a share of dense) beside the L1 loss."
    )
    seed: int = Field(0, ge=0, description="Seed of crops and flips.")
    recover_rate: float = Field(8e-4, gt=0, description="Peak rate of Adam while recovering.")
    distillation: float = Field(
        1.0, ge=0, description="Weight of L1 to the dense network beside L1 to the truth."
    )
    ema: float = Field(0.999, ge=0, lt=1, description="Decay of the averaged weights.")
    regrow: bool = Field(False, description="Let pruned weights come back while recovering.")
    refits: int = Field(
        0, ge=0, description="Times that kept weights are reconstructed anew while recovering."
    )
    memory: int = Field(4096, ge=1, description="Memory for second-order work, in MiB.")
    crops: int = Field(192, ge=1, description="Crops that reconstruction is calibrated on.")
    narrow: Literal[0, 8, 16] = Field(
        16, description="Step of block widths under pattern 2:4; 0 never narrows."
    )
    align: Literal[0, 4, 8, 16] = Field(
        4,
        description="Fill channels up with zeros to this multiple where layers would not be "
        "eligible for sparse tensor cores; 0 never does.",
    )
    permute: bool = Field(
        True, description="Reorder channels before masks are chosen, so that they keep more."
    )
    keep: tuple[str, ...] = Field(
        (), description="Layers that stay dense, as shell patterns of their names."
    )
    prune: tuple[str, ...] = Field(
        (),
        description="Layers that may be pruned though they stay dense by default, such as the "
        "first.",
    )
    cost: Literal["macs", "executable", "latency"] = Field(
        "macs", description="What a budget is a share of: 'macs', 'executable' or 'latency'."
    )
    gpu: str = Field("a10", description="GPU whose latency is estimated where no table is given.")
    latency_table: Path | None = Field(None, description="Layer times measured on your GPU.")
    devices: int = Field(1, ge=1, description="Training processes on a machine, one for each GPU.")
    nodes: int = Field(1, ge=1, description="Machines to train on.")
    training_precision: Literal["fp32", "bf16", "fp16"] = Field(
        "fp32", description="Precision of training; scores and measurements stay fp32."
    )
    accumulate: int = Field(1, ge=1, description="Parts of a batch that are trained in turn.")
    tensorboard: bool = Field(False, description="Write TensorBoard logs into the run.")

    @field_validator("pattern")
    @classmethod
    def _known_pattern(cls, value: str) -> str:
        if not re.fullmatch(r"2:4|n:(4|8|16|32)", value):
            raise ValueError("must be 2:4, n:4, n:8, n:16 or n:32")
        return value

    @field_validator("budgets")
    @classmethod
    def _descending(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or not all(0 < budget < 1 for budget in value):
            raise ValueError("must lie between 0 and 1, for example 0.5")
        return tuple(sorted(set(value), reverse=True))


class TrainConfig(Section):
    """The training of a dense network from nothing."""

    name: str = Field(
        "edsr", description="Network of the registry, or path/to/file.py:factory of your own."
    )
    options: dict[str, int | float | bool] = Field(
        default_factory=dict, description="Arguments of the network, such as features=32."
    )
    frames: Frames = Field(
        1, description="Pictures that your own network takes at once; an odd number."
    )
    steps: int = Field(10_000, ge=1, description="Training steps.")
    batch: int = Field(16, ge=1, description="Crops in a step.")
    patch: int = Field(48, ge=8, description="Side of a crop before up-scaling, in pixels.")
    learning_rate: float = Field(1e-3, gt=0, description="Peak rate of Adam.")
    seed: int = Field(0, ge=0, description="Seed of weights, crops and flips.")


class ExportConfig(Section):
    """The ONNX files to write."""

    precisions: tuple[Precision, ...] = Field(
        ("fp32", "fp16"), min_length=1, description="Precisions to export."
    )
    refill: bool = Field(
        True, description="Export layers below N = M/2 with M/2, which cost the same on Ampere."
    )
    io: Literal["float", "uint8"] = Field(
        "float",
        description="'float': NCHW, RGB, 0..1; 'uint8': beside it a graph from NHWC bytes to NHWC "
        "bytes, with conversion, scaling and clamping inside.",
    )
    static_shape: Shape | None = Field(
        None, description="The one input size of the graphs, NCHW; all sizes where left out."
    )
    calibration: Path | None = Field(
        None, description="Folder of photographs to measure ranges and losses on, else the run's."
    )
    calibration_crops: int = Field(
        32,
        ge=1,
        description="Crops to measure ranges and losses of precision on; int8 takes half for each.",
    )
    half_loss_db: float = Field(
        0.02, gt=0, description="Most PSNR that fp16 or bf16 may lose; worse layers stay fp32."
    )
    int8_loss_db: float = Field(
        0.05, gt=0, description="Most PSNR that int8 may lose; worse layers stay fp16."
    )
    int8_ranges: Literal["min-max", "percentile", "entropy", "mse"] = Field(
        "mse", description="How the range of an activation is chosen from its histogram."
    )
    int8_keep: tuple[str, ...] = Field(
        (), description="Layers that stay fp16 in int8 graphs, as shell patterns of their names."
    )
    int8_ends: bool = Field(False, description="Quantise the first and the last layer too.")


class BuildConfig(Section):
    """The TensorRT engines to build."""

    backend: Literal["auto", "tensorrt", "tensorrt_rtx"] = Field(
        "auto", description="'tensorrt', 'tensorrt_rtx', or 'auto': tensorrt where it is installed."
    )
    architectures: tuple[Target, ...] = Field(
        ("sm86",),
        min_length=1,
        description="GPU generations to build for; 'sm80+sm86' is one engine for both.",
    )
    precisions: tuple[Precision, ...] = Field(
        ("fp16",), min_length=1, description="Exported precisions to build."
    )
    io: Literal["float", "uint8"] = Field(
        "float", description="Pictures that the engines take, as exported by export.io."
    )
    min_shape: Shape = Field((1, 3, 16, 16), description="Smallest input, NCHW.")
    opt_shape: Shape = Field((1, 3, 180, 320), description="Input that kernels are chosen for.")
    max_shape: Shape = Field((4, 3, 720, 1280), description="Largest input, NCHW.")
    timeout: int = Field(600, ge=1, description="Seconds after which a build is given up.")
    jobs: int | None = Field(
        None,
        ge=1,
        description="Engines built at a time; where left out, as cores and memory allow.",
    )
    memory: int = Field(8192, ge=256, description="Memory for all builds together, in MiB.")
    engine_cache_mib: int = Field(
        2048,
        ge=0,
        description="Space for engines that need not be built twice, in MiB; 0 for none.",
    )
    workspace_mib: int | None = Field(
        None, ge=1, description="Most GPU memory that a kernel may take for itself, in MiB."
    )
    optimization_level: int | None = Field(
        None, ge=0, le=5, description="How long TensorRT looks for faster kernels, from 0 to 5."
    )
    aux_streams: int | None = Field(
        None,
        ge=0,
        description="Most CUDA streams of an engine beside its own; 0 suits CUDA graphs.",
    )
    hardware_compatibility: Literal["none", "same", "ampere+"] = Field(
        "none",
        description="GPUs that an engine of tensorrt runs on: 'none' but the kind it was built on, "
        "'same' compute capability, 'ampere+'.",
    )
    version_compatible: bool = Field(
        False, description="Let later versions of TensorRT load the engine."
    )
    timing_cache: bool | None = Field(
        None, description="Keep measured kernel times for later builds; tensorrt does by default."
    )


class ValidateConfig(Section):
    """The pictures to measure on, and how much may be lost."""

    pictures: Path | None = Field(None, description="Folder of ground truth pictures.")
    degradation: Literal["auto", "bicubic", "pairs", "motion-blur", "none"] = Field(
        "auto",
        description="How their inputs come about, as in data.degradation; 'none': the pictures are "
        "inputs, and there is no truth to compare with.",
    )
    lpips: bool = Field(
        False, description="Measure LPIPS, too; it needs `pip install 'sls-deploy[lpips]'`."
    )
    tile: int = Field(
        1024,
        ge=64,
        description="Side of a tile in input pixels: pictures of more pixels than such a tile are "
        "restored in overlapping tiles, so that memory stays flat.",
    )
    max_loss_db: float = Field(
        0.3,
        ge=0,
        description="Most PSNR lost to the dense network, dB: of Y, for deblurring of RGB.",
    )
    max_picture_loss_db: float = Field(
        1.0, ge=0, description="Most that a single picture may lose of it, dB."
    )
    min_parity_sparse_db: float | None = Field(
        None,
        description="Least PSNR of the sparse to the dense network in PyTorch, dB, over a picture; "
        "left out, it is not limited.",
    )
    min_parity_fp32_db: float = Field(80.0, description="Least PSNR of ONNX fp32 to PyTorch, dB.")
    min_parity_fp16_db: float = Field(50.0, description="Least PSNR of fp16 to PyTorch, dB.")
    min_parity_bf16_db: float = Field(35.0, description="Least PSNR of bf16 to PyTorch, dB.")
    min_parity_int8_db: float = Field(30.0, description="Least PSNR of int8 to PyTorch, dB.")

    def min_parity_db(self, precision: Precision) -> float:
        """Least PSNR of a precision to PyTorch, in dB."""
        limit: float = getattr(self, f"min_parity_{precision}_db")
        return limit


class RestoreConfig(Section):
    """How pictures and video are restored."""

    backend: Literal["auto", "tensorrt", "onnxruntime"] = Field(
        "auto",
        description="'tensorrt', 'onnxruntime', or 'auto': an engine where one can run here.",
    )
    precision: Precision | None = Field(
        None,
        description="Precision to restore with; if left out, fp16 on a GPU and fp32 on the CPU, or "
        "what is there.",
    )
    tile: int = Field(512, ge=32, description="Longest side of a tile, in input pixels.")
    overlap: int | None = Field(
        None,
        ge=0,
        description="Input pixels around a tile that are restored with it and given up; as many as "
        "the network looks at if left out, up to a limit.",
    )
    blend: int = Field(
        8, ge=0, description="Input pixels over which neighbouring tiles fade into each other."
    )
    batch: int = Field(1, ge=1, description="Tiles of one size that are restored together.")
    format: Literal["keep", "png", "jpeg", "webp", "tiff"] = Field(
        "keep", description="Format to write pictures in; that of the input by default."
    )
    quality: int = Field(95, ge=1, le=100, description="Quality of JPEG and WebP.")
    max_megapixels: int = Field(
        1000, ge=1, description="Pixels above which a picture is refused unread, in millions."
    )
    video_codec: Literal["h264", "h265", "ffv1"] = Field(
        "h264", description="Codec of restored video; 'ffv1' loses nothing."
    )
    video_quality: int = Field(
        16, ge=0, le=51, description="Constant rate factor of h264 and h265; lower is better."
    )


class AdaptConfig(Section):
    """The estimators that adaptive inference chooses networks by."""

    tile: int = Field(
        64,
        ge=16,
        multiple_of=8,
        description="Side of the tiles that networks are chosen for, in input pixels.",
    )
    tiles: int = Field(6000, ge=64, description="Tiles to learn from.")
    calibration_tiles: int = Field(
        1500, ge=16, description="Tiles of other photographs to find the weight of cost on."
    )
    steps: int = Field(1500, ge=1, description="Training steps of the estimators.")
    skip: bool = Field(
        True, description="Let tiles be enlarged by bicubic, or left as they are, at no cost."
    )
    seed: int = Field(0, ge=0, description="Seed of tiles and weights.")


class Config(Section):
    """All settings of a run."""

    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    search: SearchConfig = SearchConfig()
    export: ExportConfig = ExportConfig()
    build: BuildConfig = BuildConfig()
    validate_: ValidateConfig = Field(ValidateConfig(), alias="validate")
    adapt: AdaptConfig = AdaptConfig()
    restore: RestoreConfig = RestoreConfig()
