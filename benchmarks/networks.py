"""Six networks of the paper and four of users' own through the whole flow; one row for each.

Every network is one run folder, so that what stands there is not done again. See README.md beside
this file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from sls_deploy.cli.run import run_all
from sls_deploy.config import Config
from sls_deploy.config_file import merge_config
from sls_deploy.errors import GateError, SlsError
from sls_deploy.files import write_json
from sls_deploy.models.bundled import DEMO_WEIGHTS
from sls_deploy.models.model import load_model
from sls_deploy.run import Run, budget_name
from sls_deploy.search.inspect import inspect_network
from sls_deploy.validate.stage import read_validation

BUDGETS = (0.5, 0.25)
_OWN = Path(__file__).resolve().parents[1] / "examples"
_GATE_DB = 100.0
"""Loss at which validation fails: the table is there to show losses."""


@dataclass(frozen=True)
class Entry:
    """One network of the table."""

    title: str
    """What the table calls it."""
    weights: str
    """File of the dense weights, in the folder of the weights; empty for the bundled one."""
    task: str
    """What it restores, and the pictures that it is validated on, below the folder of those."""
    settings: dict[str, dict[str, Any]]
    """Settings that differ from the benchmark's."""


DEBLUR = {"search": {"patch": 64}}
"""Blur needs larger crops."""
ENTRIES = {
    "edsr": Entry("EDSR (bundled, 32 channels)", "", "Set14", {}),
    "carn": Entry("CARN-M", "carn_m_x234.pth", "Set14", {}),
    "rfdn": Entry("RFDN", "rfdn_aim_x4.pth", "Set14", {}),
    "unet": Entry("UNet (16 features)", "unet.safetensors", "Set14", DEBLUR),
    "srn": Entry("SRN (16 features)", "srn.safetensors", "Set14", DEBLUR),
    "dmphn": Entry(
        "DMPHN 1-2-4-8",
        "dmphn_1_2_4_8_gopro.pth",
        "GoPro",
        {
            # No photographs like GoPro's are at hand: short blur and noise reach most directions
            # of the layers' inputs, and training on them would draw it away from GoPro.
            "data": {"blur_length": 10.0, "blur_noise": 2.0},
            "search": {"pattern": "2:4", "method": "reconstruct", "patch": 64, "crops": 96},
        },
    ),
    "fsrcnn": Entry(
        "FSRCNN, own",
        "fsrcnn.safetensors",
        "Set14",
        {"model": {"name": f"{_OWN}/own_network/fsrcnn.py:make"}},
    ),
    "swin": Entry(
        "window attention, own",
        "swin.safetensors",
        "Set14",
        {"model": {"name": f"{_OWN}/networks/swin.py:make"}},
    ),
    "nafnet": Entry(
        "NAFNet, own",
        "nafnet.safetensors",
        "Set14",
        {"model": {"name": f"{_OWN}/networks/nafnet.py:make"}, **DEBLUR},
    ),
    "frames": Entry(
        "three frames, own",
        "frames.safetensors",
        "Set14",
        {"model": {"name": f"{_OWN}/networks/frames.py:make", "frames": 3}, **DEBLUR},
    ),
}
"""The networks, in the order of the table."""

app = typer.Typer(add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False)
Out = Annotated[Path, typer.Option("--out", help="Folder of the rows, one JSON file each.")]


@app.command()
def run(
    weights: Annotated[Path, typer.Option("--weights", help="Folder of dense weights.")],
    photos: Annotated[Path, typer.Option("--data", help="Folder of photographs.")],
    pictures: Annotated[Path, typer.Option("--pictures", help="Holds Set14 and GoPro.")],
    out: Out,
    runs: Annotated[Path, typer.Option("--runs", help="Where the run folders lie.")],
    only: Annotated[str, typer.Option("--only", help="Networks, by comma.")] = ",".join(ENTRIES),
    steps: Annotated[int, typer.Option("--steps", help="Steps of fine-tuning.")] = 300,
) -> None:
    """Do the networks whose row is not there yet."""
    for name in only.split(","):
        entry = ENTRIES[name]
        if (out / f"{name}.json").exists():
            continue
        flags = {
            "model": {"weights": weights / entry.weights if entry.weights else DEMO_WEIGHTS},
            "data": {"photos": photos},
            "search": {
                "budgets": BUDGETS,
                "pattern": "n:16",
                "steps": steps,
                "batch": 4,
                "patch": 32,
                "crops": 64,
            },
            "build": {"opt_shape": (1, 3, 180, 320), "max_shape": (1, 3, 720, 1280)},
            "validate": {
                "pictures": pictures / entry.task,
                "max_loss_db": _GATE_DB,
                "max_picture_loss_db": _GATE_DB,
            },
        }
        config = merge_config(Config(), flags)
        config = merge_config(config, entry.settings)
        typer.echo(f"{name}: {entry.title}", err=True)
        try:
            run_all(config, runs / name)
        except GateError as error:
            typer.echo(f"{name}: {error}", err=True)
        write_json(out / f"{name}.json", row_of(Run.open(runs / name), entry))


def row_of(folder: Run, entry: Entry) -> dict[str, Any]:
    """The figures of one network from its run folder."""
    config = folder.config
    found = inspect_network(config.model, (720, 1280), config.search.pattern)
    about = load_model(config.model.weights, config.model).description  # type: ignore[arg-type]
    return {
        "title": entry.title,
        "pictures": entry.task,
        "scale": about.scale,
        "parameters": found.parameters,
        "layers": len(found.layers),
        "prunable_layers": sum(layer.prunable for layer in found.layers),
        "prunable": found.prunable,
        "eligible": found.eligible,
        "pattern": config.search.pattern,
        "method": config.search.method,
        "budgets": {f"{budget:g}": _budget(folder, budget) for budget in BUDGETS},
    }


def _budget(folder: Run, budget: float) -> dict[str, Any]:
    ratios = json.loads((folder.folder("search", budget) / "ratios.json").read_text())
    proof = json.loads((folder.folder("export", budget) / "proof.json").read_text())
    (file,) = (folder.path / "validation" / budget_name(budget)).glob("*.json")
    figures = read_validation(file)
    metric = figures.protocol.metric
    dense, sparse = (getattr(stage.quality, metric) for stage in figures.stages[:2])
    (plan,) = folder.folder("engines", budget).glob("*.plan")
    return {
        "cost": ratios["cost"],
        "exported_cost": proof["cost"],
        "steps": ratios["steps"],
        "metric": metric,
        "dense_db": dense,
        "lost_db": dense - sparse,
        "parity_fp32_db": proof["files"]["fp32"]["parity"]["psnr_db"],
        "parity_fp16_db": proof["files"]["fp16"]["parity_rounded"]["psnr_db"],
        "eligible_layers": sum(layer["eligible"] for layer in proof["files"]["fp16"]["layers"]),
        "plan_bytes": plan.stat().st_size,
        "gates_failed": [gate.stage for gate in figures.gates if not gate.passed],
        "seconds": round(folder.manifest[f"search/{budget_name(budget)}"].seconds),
    }


@app.command()
def table(out: Out) -> None:
    """Print the rows that are there as a table in Markdown."""
    typer.echo(
        "| network | parameters | layers, prunable | MACs prunable, 2:4-eligible | dense dB | "
        "cost at 0.5, 0.25 | exported | lost dB | steps | parity fp32, fp16 dB | plan MiB |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|"
    )
    for name in ENTRIES:
        path = out / f"{name}.json"
        if path.exists():
            typer.echo(line_of(json.loads(path.read_text())))


def line_of(row: dict[str, Any]) -> str:
    """A row of the table in Markdown."""
    both = [row["budgets"][f"{budget:g}"] for budget in BUDGETS]
    first = both[0]
    colour = "Y" if first["metric"] == "psnr_y" else "RGB"

    def pair(key: str, form: str, factor: float = 1.0) -> str:
        return ", ".join(format(item[key] * factor, form) for item in both)

    cells = (
        f"{row['title']}, x{row['scale']}, {row['pattern']}",
        f"{row['parameters']:,}",
        f"{row['layers']}, {row['prunable_layers']}",
        f"{row['prunable']:.0%}, {row['eligible']:.0%}",
        f"{first['dense_db']:.2f} {colour}, {row['pictures']}",
        pair("cost", ".3f"),
        pair("exported_cost", ".3f"),
        pair("lost_db", "+.2f"),
        f"{first['steps']}",
        ", ".join(f"{item['parity_fp32_db']:.0f}/{item['parity_fp16_db']:.0f}" for item in both),
        pair("plan_bytes", ".1f", 2**-20),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    try:
        app()
    except SlsError as error:
        sys.exit(f"error: {error}")
