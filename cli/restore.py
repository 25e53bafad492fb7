"""`sls-deploy restore`."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sls_deploy.cli import options as o

if TYPE_CHECKING:
    from sls_deploy.restore.adaptive import Target
    from sls_deploy.restore.stage import RestoreResult
    from sls_deploy.run import Run

_SHOWN = 20
"""Files that are listed one by one; of more, only those that failed."""


def restore(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="[RUN] INPUT...",
            help="Run folder (the newest below runs/ if left out), then pictures, videos, folders, "
            "patterns, or - for a list of paths on standard input.",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for what is restored.")],
    budget: Annotated[
        str | None,
        typer.Option(
            "--budget", help="Budget; the largest of the run if left out.", show_default=False
        ),
    ] = None,
    adaptive: Annotated[
        bool,
        typer.Option(
            "--adaptive", help="Choose a network for each tile; `sls-deploy adapt` comes first."
        ),
    ] = False,
    target_cost: Annotated[
        float | None,
        typer.Option(
            "--target-cost",
            help="With --adaptive: mean multiply-accumulates as a share of the dense network's.",
            show_default=False,
        ),
    ] = None,
    target_psnr_loss: Annotated[
        float | None,
        typer.Option(
            "--target-psnr-loss",
            help="With --adaptive: most dB to lose to the costliest network of the run.",
            show_default=False,
        ),
    ] = None,
    choice_map: Annotated[
        Path | None,
        typer.Option(
            "--choice-map",
            help="With --adaptive: folder for pictures of which network each tile went to.",
            show_default=False,
        ),
    ] = None,
    backend: o.RestoreBackend = None,
    precision: o.RestorePrecision = None,
    tile: o.RestoreTile = None,
    overlap: o.Overlap = None,
    blend: o.Blend = None,
    batch: o.TileBatch = None,
    form: o.Format = None,
    quality: o.Quality = None,
    max_megapixels: o.MaxMegapixels = None,
    video_codec: o.VideoCodec = None,
    video_quality: o.VideoQuality = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Write outputs anew that are there already.")
    ] = False,
    json: o.Json = False,
) -> None:
    """
    \b
    sls-deploy restore photos/ --out restored/ --budget 0.5
    sls-deploy restore runs/rlfn film.mp4 --out restored/ --adaptive --target-cost 0.3

    Restore pictures (PNG, JPEG, WebP, TIFF) and videos by a network of a run: an engine where one
    can run here, else ONNX Runtime. Large pictures go in tiles that leave no seam. Files that are
    there already are left alone; one that cannot be read is told, and the others go on.
    """
    import sys

    from sls_deploy.cli.output import print_json, progress
    from sls_deploy.config_file import merge_config
    from sls_deploy.errors import SlsError
    from sls_deploy.restore.stage import restore_files

    run, files = _run_and_files(inputs)
    if "-" in files and isinstance(sys.stdin, TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")  # names need not be text
    flags = {
        "backend": backend,
        "precision": precision,
        "tile": tile,
        "overlap": overlap,
        "blend": blend,
        "batch": batch,
        "format": form,
        "quality": quality,
        "max_megapixels": max_megapixels,
        "video_codec": video_codec,
        "video_quality": video_quality,
    }
    options = merge_config(run.config, {"restore": flags}).restore
    budgets = o.budgets_of(budget)
    if budgets is not None and len(budgets) > 1:
        raise SlsError(f"{budget!r} names several budgets", "--budget", "Give one.")
    with _ended_like_ctrl_c(), progress(quiet=json) as report:
        result = restore_files(
            run,
            files,
            out,
            options,
            report,
            budget=budgets[0] if budgets else None,
            adaptive=_target(target_cost, target_psnr_loss, adaptive=adaptive),
            choice_map=choice_map,
            overwrite=overwrite,
            listed=sys.stdin if "-" in files else (),
        )
    if json:
        print_json(result)
    else:
        print_restored(result)
    if result.failed:
        first, count = result.failed[0], len(result.failed)
        if count == 1:
            raise SlsError(first.reason)
        more = f"and {count - 1} more could not be restored; the others are done"
        raise SlsError(f"{first.reason} ({more})")


def print_restored(result: RestoreResult) -> None:
    """Print what was restored, by what, and what could not be."""
    from sls_deploy.cli.output import print_line

    print_line(f"by {result.backend}")
    for one in result.restored[:_SHOWN]:
        frames = f", {one.frames} frames" if one.frames > 1 else ""
        size = f"{one.width}x{one.height}{frames}"
        cut = "1 tile" if one.tiles == 1 else f"{one.tiles} tiles"
        print_line(f"{one.target}: from {size} in {one.seconds:.2f} s, {cut}")
        for note in one.notes:
            print_line(f"  {note}")
    if len(result.restored) > _SHOWN:
        print_line(f"and {len(result.restored) - _SHOWN} more")
    for failed in result.failed:
        print_line(f"FAILED {failed.reason}")
    if result.skipped:
        count = len(result.skipped)
        verb = "were" if count > 1 else "was"
        print_line(f"{count} {verb} there already (--overwrite writes anew)")
    if result.choices:
        tiles = sum(result.choices.values())
        shares = (f"{name} {number / tiles:.0%}" for name, number in result.choices.items())
        print_line(f"tiles: {', '.join(shares)}; mean cost {result.cost:.3f} of dense")
    for note in result.notes:
        print_line(f"  {note}")
    rate = result.megapixels / max(result.seconds, 1e-9)
    print_line(
        f"{len(result.restored)} done in {result.seconds:.1f} s, {rate:.3f} input megapixels a "
        f"second, tiles of {result.tile} with a margin of {result.margin}, {result.peak_mib} MiB"
    )


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Let a request to end, such as `docker stop` sends, leave no half file either."""

    def interrupt(number: int, frame: object) -> None:  # noqa: ARG001
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_and_files(inputs: list[str]) -> tuple[Run, list[str]]:
    """The run, if the first input is one, and what is to be restored."""
    from sls_deploy.errors import SlsError
    from sls_deploy.run import CONFIG, Run

    named = (Path(inputs[0]) / CONFIG).is_file()
    run, files = (Run.open(Path(inputs[0])), inputs[1:]) if named else (o.find_run(None), inputs)
    if not files:
        fix = "Name pictures, videos, folders or patterns after the run."
        raise SlsError("nothing to restore was named", inputs[0], fix)
    return run, files


def _target(cost: float | None, loss: float | None, *, adaptive: bool) -> Target | None:
    """What adaptive inference is to reach; None without it."""
    from sls_deploy.errors import SlsError
    from sls_deploy.restore.adaptive import Target

    given = {"--target-cost": cost, "--target-psnr-loss": loss}
    named = [flag for flag, value in given.items() if value is not None]
    if not adaptive:
        if named:
            raise SlsError("needs --adaptive", named[0], "Add it, or leave the target out.")
        return None
    if len(named) != 1:
        fix = "Give --target-cost 0.3 or --target-psnr-loss 0.05."
        raise SlsError("needs one target", "--adaptive", fix)
    return Target(cost, loss)
