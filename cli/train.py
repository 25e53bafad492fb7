"""`sls-deploy train`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from sls_deploy.cli import options as o
from sls_deploy.config import TrainConfig


def train(
    out: Annotated[Path, typer.Option("--out", help="Safetensors file to write.")],
    data: o.Photos = None,
    model: Annotated[str | None, o.setting(TrainConfig, "name", "--model")] = None,
    options: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="An argument of the network; repeatable."),
    ] = None,
    frames: Annotated[int | None, o.setting(TrainConfig, "frames", "--frames")] = None,
    steps: Annotated[int | None, o.setting(TrainConfig, "steps", "--steps")] = None,
    batch: Annotated[int | None, o.setting(TrainConfig, "batch", "--batch")] = None,
    patch: Annotated[int | None, o.setting(TrainConfig, "patch", "--patch")] = None,
    learning_rate: Annotated[
        float | None, o.setting(TrainConfig, "learning_rate", "--learning-rate")
    ] = None,
    seed: Annotated[int | None, o.setting(TrainConfig, "seed", "--seed")] = None,
    degradation: o.Degradation = None,
    blur_length: o.BlurLength = None,
    blur_varying: o.BlurVarying = None,
    blur_shake: o.BlurShake = None,
    blur_blend: o.BlurBlend = None,
    blur_noise: o.BlurNoise = None,
    cache_mib: o.CacheMib = None,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy train --data photos/ --model edsr --set scale=2 --out edsr_x2.safetensors
    sls-deploy train --data photos/ --model edsr --set features=32 --set blocks=4 --out small.safetensors

    Train a dense network, of the registry or your own (path/to/file.py:factory), from a folder of
    photographs, with the L1 loss. An interrupted training goes on with the same command.
    """  # noqa: E501
    from sls_deploy.cli.output import print_json, print_line, progress
    from sls_deploy.config import DataConfig
    from sls_deploy.config_file import parse_section
    from sls_deploy.search.dense import train_dense

    flags = locals()
    given = {
        "name": model,
        "options": _arguments(options or []),
        "frames": frames,
        "steps": steps,
        "batch": batch,
        "patch": patch,
        "learning_rate": learning_rate,
        "seed": seed,
    }
    config = parse_section(TrainConfig, given, "sls-deploy train")
    photos = parse_section(DataConfig, o.data_flags(flags), "sls-deploy train")
    with progress(quiet=json) as report:
        result = train_dense(config, photos, out, report)
    if json:
        print_json(result)
    else:
        print_line(
            f"wrote {result.weights}: {result.parameters} parameters, "
            f"{result.psnr:.2f} dB on held-out crops"
        )


def _arguments(pairs: list[str]) -> dict[str, Any]:
    import json

    from sls_deploy.errors import SlsError

    values = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        try:
            values[name] = json.loads(text)
        except ValueError:
            equals = ""
        if not equals or isinstance(values[name], (list, dict, str)):
            raise SlsError(f"'{pair}' is not NAME=VALUE", "--set", "For example --set blocks=4.")
    return values
