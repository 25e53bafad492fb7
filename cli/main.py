"""The program `sls-deploy`: its commands, and how errors end it."""

from __future__ import annotations

import os
import sys
from io import TextIOWrapper
from typing import Annotated

import typer

from sls_deploy import __version__
from sls_deploy.cli import (
    adapt,
    bench,
    build,
    demo,
    doctor,
    export,
    init,
    inspect,
    models,
    package,
    report,
    restore,
    run,
    search,
    train,
    validate,
)
from sls_deploy.errors import GateError, SlsError

app = typer.Typer(
    help="Search N:M sparsity for image restoration networks, and prove what it does.",
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("init", short_help="Write a commented sls-deploy.toml here.")(init.init)
app.command("run", short_help="Search, export, build and validate in one go.")(run.run)
app.command("search", short_help="Find what to prune, under a budget.")(search.search)
app.command("export", short_help="Write ONNX files, with proof.")(export.export)
app.command("build", short_help="Build TensorRT engines, with evidence.")(build.build)
app.command("validate", short_help="Measure every stage on real pictures.")(validate.validate)
app.command("report", short_help="Write the report of a run, or compare two.")(report.report)
app.command("adapt", short_help="Train what chooses a network for each tile.")(adapt.adapt)
app.command("restore", short_help="Restore pictures and video.")(restore.restore)
app.command("package", short_help="Pack a network for machines without sls-deploy.")(
    package.package
)
app.command("bench", short_help="Time every form of a network, or its layers.")(bench.bench)
app.command("demo", short_help="Do the whole job on bundled pictures.")(demo.demo)
app.command("train", short_help="Train a dense network from photographs.")(train.train)
app.command("inspect", short_help="List the layers of a network, an ONNX file or an engine.")(
    inspect.inspect
)
app.command("doctor", short_help="Say what works on this machine, and what mends the rest.")(
    doctor.doctor
)
app.command("models", short_help="List the networks that are known.")(models.models)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"sls-deploy {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print it.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the program.

    Exit codes: 0 done, 1 a gate failed, 2 bad usage or input, 70 a bug, 130 interrupted.
    """
    # Threads that wait by spinning cost a busy machine a hundred times what they save on a quiet
    # one: 27 s against 0.24 s for the choice of one layer's weights. Read when PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a file's name need not be text
    try:
        arguments = sys.argv[1:] or ["--help"]
        code = app(arguments, prog_name="sls-deploy", standalone_mode=False)
        if code == 130:  # Typer returns it in place of the interrupt
            raise KeyboardInterrupt
        sys.exit(code)
    except GateError as error:
        code, text = 1, str(error)
    except SlsError as error:
        code, text = 2, str(error)
    except typer.TyperException as error:
        code, text = 2, error.format_message()
    except (typer.Abort, KeyboardInterrupt):
        code, text = 130, "interrupted; the same command goes on where it stopped"
    except OSError as error:  # such as a full disk under standard output
        code, text = 2, f"{error.filename or 'standard output'}: {error.strerror or error}"
        sys.stdout = None  # what it could not take would fail once more at exit
    except Exception as error:  # the last resort: a bug, or a machine that gave out
        if os.environ.get("SLS_DEPLOY_DEBUG"):
            raise
        what = " ".join(str(error).split()) or type(error).__name__
        fix = "SLS_DEPLOY_DEBUG=1 shows where; please report it."
        code, text = 70, f"unexpected: {what}. {fix}"
    from sls_deploy.cli.output import print_error

    print_error(text)
    sys.exit(code)


if __name__ == "__main__":
    main()
