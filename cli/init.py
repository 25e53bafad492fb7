"""`sls-deploy init`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sls_deploy.cli.options import SETTINGS, Model, Photos, Truth, Weights


def init(
    model: Model = None,
    weights: Weights = None,
    data: Photos = None,
    pictures: Truth = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace the file if it is there.")
    ] = False,
) -> None:
    """
    \b
    sls-deploy init
    sls-deploy init --weights rlfn.pth --data photos/ --pictures Set5/

    Write a commented sls-deploy.toml into the current folder, with every setting and its
    default. `sls-deploy search` then needs no flags.
    """
    from sls_deploy.cli.output import print_line
    from sls_deploy.config import Config
    from sls_deploy.config_file import merge_config, to_toml
    from sls_deploy.errors import SlsError
    from sls_deploy.files import write_text

    if SETTINGS.exists() and not force:
        raise SlsError("is there already", str(SETTINGS), "Edit it, or give --force.")
    flags: dict[str, dict[str, Any]] = {
        "model": {"name": model, "weights": weights},
        "data": {"photos": data},
        "validate": {"pictures": pictures},
    }
    write_text(SETTINGS, to_toml(merge_config(Config(), flags), comments=True))
    print_line(f"wrote {SETTINGS}; `sls-deploy search` uses it")
