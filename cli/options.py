"""Flags that several commands share; their help texts come from the settings themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sls_deploy.config import (
    AdaptConfig,
    BuildConfig,
    Config,
    DataConfig,
    ExportConfig,
    ModelConfig,
    RestoreConfig,
    SearchConfig,
    Section,
    ValidateConfig,
)
from sls_deploy.config_file import merge_config, read_config
from sls_deploy.errors import SlsError
from sls_deploy.run import Run

SETTINGS = Path("sls-deploy.toml")
INPUT = "input"
"""Name of the one input of every exported graph."""


def setting(section: type[Section], field: str, *flags: str) -> Any:
    """A Typer option that says what the field of the settings says."""
    info = section.model_fields[field]
    default = info.default
    if isinstance(default, tuple):
        default = ",".join(str(item) for item in default)
    shown = "" if default is None else f" [default: {default}]"
    return typer.Option(*flags, help=f"{info.description}{shown}", show_default=False)


RunFolder = Annotated[
    Path | None,
    typer.Argument(metavar="RUN", help="Run folder; the newest below runs/ if left out."),
]
Settings = Annotated[
    Path | None,
    typer.Option("--config", help=f"Settings; ./{SETTINGS} if it is there.", show_default=False),
]
Out = Annotated[Path | None, typer.Option("--out", help="Run folder; runs/<weights> if left out.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Budget = Annotated[
    str | None,
    typer.Option("--budget", help="Budget; all those of the run if left out.", show_default=False),
]
Model = Annotated[str | None, setting(ModelConfig, "name", "--model")]
Weights = Annotated[Path | None, setting(ModelConfig, "weights", "--weights")]
Scale = Annotated[int | None, setting(ModelConfig, "scale", "--scale")]
Frames = Annotated[int | None, setting(ModelConfig, "frames", "--frames")]
Photos = Annotated[Path | None, setting(DataConfig, "photos", "--data")]
Degradation = Annotated[str | None, setting(DataConfig, "degradation", "--degradation")]
BlurLength = Annotated[float | None, setting(DataConfig, "blur_length", "--blur-length")]
BlurVarying = Annotated[
    bool | None, setting(DataConfig, "blur_varying", "--blur-varying/--no-blur-varying")
]
BlurShake = Annotated[float | None, setting(DataConfig, "blur_shake", "--blur-shake")]
BlurBlend = Annotated[str | None, setting(DataConfig, "blur_blend", "--blur-blend")]
BlurNoise = Annotated[float | None, setting(DataConfig, "blur_noise", "--blur-noise")]
CacheMib = Annotated[int | None, setting(DataConfig, "cache_mib", "--cache-mib")]
Method = Annotated[str | None, setting(SearchConfig, "method", "--method")]
RecoverRate = Annotated[float | None, setting(SearchConfig, "recover_rate", "--recover-rate")]
Distillation = Annotated[float | None, setting(SearchConfig, "distillation", "--distillation")]
Ema = Annotated[float | None, setting(SearchConfig, "ema", "--ema")]
Regrow = Annotated[bool | None, setting(SearchConfig, "regrow", "--regrow/--no-regrow")]
Refits = Annotated[int | None, setting(SearchConfig, "refits", "--refits")]
Memory = Annotated[int | None, setting(SearchConfig, "memory", "--memory")]
Crops = Annotated[int | None, setting(SearchConfig, "crops", "--crops")]
Narrow = Annotated[int | None, setting(SearchConfig, "narrow", "--narrow")]
Align = Annotated[int | None, setting(SearchConfig, "align", "--align")]
Permute = Annotated[bool | None, setting(SearchConfig, "permute", "--permute/--no-permute")]
Pattern = Annotated[str | None, setting(SearchConfig, "pattern", "--pattern")]
Budgets = Annotated[str | None, setting(SearchConfig, "budgets", "--budget")]
Steps = Annotated[int | None, setting(SearchConfig, "steps", "--steps")]
Minutes = Annotated[float | None, setting(SearchConfig, "minutes", "--minutes")]
Batch = Annotated[int | None, setting(SearchConfig, "batch", "--batch")]
Patch = Annotated[int | None, setting(SearchConfig, "patch", "--patch")]
Rate = Annotated[float | None, setting(SearchConfig, "learning_rate", "--learning-rate")]
Penalty = Annotated[float | None, setting(SearchConfig, "penalty", "--penalty")]
Seed = Annotated[int | None, setting(SearchConfig, "seed", "--seed")]
Keep = Annotated[list[str] | None, setting(SearchConfig, "keep", "--keep")]
Prune = Annotated[list[str] | None, setting(SearchConfig, "prune", "--prune")]
Cost = Annotated[str | None, setting(SearchConfig, "cost", "--cost")]
Gpu = Annotated[str | None, setting(SearchConfig, "gpu", "--gpu")]
LatencyTable = Annotated[Path | None, setting(SearchConfig, "latency_table", "--table")]
Devices = Annotated[int | None, setting(SearchConfig, "devices", "--devices")]
Nodes = Annotated[int | None, setting(SearchConfig, "nodes", "--nodes")]
TrainingPrecision = Annotated[
    str | None, setting(SearchConfig, "training_precision", "--training-precision")
]
Accumulate = Annotated[int | None, setting(SearchConfig, "accumulate", "--accumulate")]
Tensorboard = Annotated[bool | None, setting(SearchConfig, "tensorboard", "--tensorboard")]
ExportPrecisions = Annotated[str | None, setting(ExportConfig, "precisions", "--precision")]
Refill = Annotated[bool | None, setting(ExportConfig, "refill", "--refill/--no-refill")]
ExportIo = Annotated[str | None, setting(ExportConfig, "io", "--io")]
StaticShape = Annotated[str | None, setting(ExportConfig, "static_shape", "--static-shape")]
Calibration = Annotated[Path | None, setting(ExportConfig, "calibration", "--calibration")]
HalfLoss = Annotated[float | None, setting(ExportConfig, "half_loss_db", "--half-loss-db")]
Int8Loss = Annotated[float | None, setting(ExportConfig, "int8_loss_db", "--int8-loss-db")]
Int8Ranges = Annotated[str | None, setting(ExportConfig, "int8_ranges", "--int8-ranges")]
Int8Keep = Annotated[list[str] | None, setting(ExportConfig, "int8_keep", "--int8-keep")]
Int8Ends = Annotated[bool | None, setting(ExportConfig, "int8_ends", "--int8-ends/--no-int8-ends")]
BuildPrecisions = Annotated[str | None, setting(BuildConfig, "precisions", "--precision")]
BuildIo = Annotated[str | None, setting(BuildConfig, "io", "--io")]
Architectures = Annotated[str | None, setting(BuildConfig, "architectures", "--arch")]
Backend = Annotated[str | None, setting(BuildConfig, "backend", "--backend")]
Timeout = Annotated[int | None, setting(BuildConfig, "timeout", "--timeout")]
Jobs = Annotated[int | None, setting(BuildConfig, "jobs", "--jobs")]
BuildMemory = Annotated[int | None, setting(BuildConfig, "memory", "--memory")]
EngineCache = Annotated[int | None, setting(BuildConfig, "engine_cache_mib", "--engine-cache-mib")]
Workspace = Annotated[int | None, setting(BuildConfig, "workspace_mib", "--workspace-mib")]
Level = Annotated[int | None, setting(BuildConfig, "optimization_level", "--optimization-level")]
AuxStreams = Annotated[int | None, setting(BuildConfig, "aux_streams", "--aux-streams")]
Hardware = Annotated[
    str | None, setting(BuildConfig, "hardware_compatibility", "--hardware-compatibility")
]
VersionCompatible = Annotated[
    bool | None,
    setting(BuildConfig, "version_compatible", "--version-compatible/--no-version-compatible"),
]
TimingCache = Annotated[
    bool | None, setting(BuildConfig, "timing_cache", "--timing-cache/--no-timing-cache")
]
OneShape = Annotated[
    str | None,
    typer.Option("--shape", help="The one input size, such as 1x3x180x320.", show_default=False),
]
MinShape = Annotated[str | None, setting(BuildConfig, "min_shape", "--min")]
OptShape = Annotated[str | None, setting(BuildConfig, "opt_shape", "--opt")]
MaxShape = Annotated[str | None, setting(BuildConfig, "max_shape", "--max")]
Pictures = Annotated[Path | None, setting(ValidateConfig, "pictures", "--data")]
"""Where --data can only mean these; a command that also takes photographs has `Truth`."""
Truth = Annotated[Path | None, setting(ValidateConfig, "pictures", "--pictures")]
HowDegraded = Annotated[str | None, setting(ValidateConfig, "degradation", "--degradation")]
"""How the inputs of these pictures come about; `Degradation` is for photographs to learn from."""
MaxLoss = Annotated[float | None, setting(ValidateConfig, "max_loss_db", "--max-loss-db")]
MaxPictureLoss = Annotated[
    float | None, setting(ValidateConfig, "max_picture_loss_db", "--max-picture-loss-db")
]
MeasureLpips = Annotated[bool | None, setting(ValidateConfig, "lpips", "--lpips/--no-lpips")]
Tile = Annotated[int | None, setting(ValidateConfig, "tile", "--tile")]
AdaptTile = Annotated[int | None, setting(AdaptConfig, "tile", "--tile")]
AdaptTiles = Annotated[int | None, setting(AdaptConfig, "tiles", "--tiles")]
CalibrationTiles = Annotated[
    int | None, setting(AdaptConfig, "calibration_tiles", "--calibration-tiles")
]
AdaptSteps = Annotated[int | None, setting(AdaptConfig, "steps", "--steps")]
AdaptSkip = Annotated[bool | None, setting(AdaptConfig, "skip", "--skip/--no-skip")]
AdaptSeed = Annotated[int | None, setting(AdaptConfig, "seed", "--seed")]
RestoreBackend = Annotated[str | None, setting(RestoreConfig, "backend", "--backend")]
RestorePrecision = Annotated[str | None, setting(RestoreConfig, "precision", "--precision")]
RestoreTile = Annotated[int | None, setting(RestoreConfig, "tile", "--tile")]
Overlap = Annotated[int | None, setting(RestoreConfig, "overlap", "--overlap")]
Blend = Annotated[int | None, setting(RestoreConfig, "blend", "--blend")]
TileBatch = Annotated[int | None, setting(RestoreConfig, "batch", "--batch")]
Format = Annotated[str | None, setting(RestoreConfig, "format", "--format")]
Quality = Annotated[int | None, setting(RestoreConfig, "quality", "--quality")]
MaxMegapixels = Annotated[int | None, setting(RestoreConfig, "max_megapixels", "--max-megapixels")]
VideoCodec = Annotated[str | None, setting(RestoreConfig, "video_codec", "--video-codec")]
VideoQuality = Annotated[int | None, setting(RestoreConfig, "video_quality", "--video-quality")]


def data_flags(given: dict[str, Any]) -> dict[str, Any]:
    """The flags of photographs as settings."""
    names = DataConfig.model_fields.keys() - {"photos", "held_out"}
    return {"photos": given["data"], **{name: given[name] for name in names}}


def load_settings(path: Path | None, flags: dict[str, dict[str, Any]]) -> Config:
    """The settings of a file (or ./sls-deploy.toml, or the defaults) with flags put over them."""
    if path is None and SETTINGS.is_file():
        path = SETTINGS
    return merge_config(Config() if path is None else read_config(path), flags)


def find_run(folder: Path | None) -> Run:
    """The run that was named, or the newest one."""
    return Run.newest() if folder is None else Run.open(folder)


def listed(text: str | None) -> list[str] | None:
    """The items of a flag such as 'fp32,fp16'."""
    return None if text is None else [part.strip() for part in text.split(",") if part.strip()]


def shape_of(text: str | None, flag: str) -> list[int] | None:
    """The numbers of a flag such as '1x3x180x320'; the input may be named, as 'input:1x3x180x320'.

    Raises:
        SlsError: not four whole numbers above 0, or there is no such input.
    """
    if text is None:
        return None
    name, _, sizes = text.rpartition(":")
    if name not in ("", INPUT):
        fix = f"Leave the name out, or write {INPUT}:{sizes}."
        raise SlsError(f"exported graphs have no input '{name}'", flag, fix)
    parts = sizes.split("x")
    if len(parts) != 4 or not all(part.isdigit() and int(part) for part in parts):
        fix = "Give batch, channels, height and width, such as 1x3x180x320."
        raise SlsError(f"{text!r} is not a shape", flag, fix)
    return [int(part) for part in parts]


def budgets_of(text: str | None) -> list[float] | None:
    """The numbers of a flag such as '0.5,0.25'.

    Raises:
        SlsError: not a number between 0 and 1.
    """
    if text is None:
        return None
    try:
        budgets = [float(part) for part in text.split(",")]
    except ValueError:
        budgets = []
    if not budgets or not all(0 < budget < 1 for budget in budgets):
        fix = "Give a share between 0 and 1, such as 0.5."
        raise SlsError(f"{text!r} is not a budget", "--budget", fix)
    return budgets


def chosen_budgets(run: Run, text: str | None, stage: str) -> list[float]:
    """The budgets of a flag, or all that `stage` finished in the run.

    Raises:
        SlsError: there are none, or `stage` was not done for one of them.
    """
    budgets = budgets_of(text) or run.budgets(stage)
    if not budgets:
        raise SlsError(
            f"nothing was {stage}ed yet", str(run.path), f"`sls-deploy {stage}` does it."
        )
    for budget in budgets:
        run.require(stage, budget)
    return budgets
