"""Training of a dense network from a folder of photographs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sls_deploy._version import __version__
from sls_deploy.config import DataConfig, ModelConfig, TrainConfig
from sls_deploy.data.crops import CropSampler, held_out
from sls_deploy.data.feed import Feed
from sls_deploy.errors import SlsError
from sls_deploy.files import hash_file, hash_json
from sls_deploy.models.model import fresh_model, save_weights
from sls_deploy.models.own import code_hash
from sls_deploy.progress import Progress, Report, silent
from sls_deploy.search.checkpoint import (
    IDENTITY,
    Checkpoint,
    load_optimiser_state,
    optimiser_state,
    resume,
    save_checkpoint,
)
from sls_deploy.search.photos import load_photos
from sls_deploy.search.schedule import rate
from sls_deploy.search.sls import held_out_psnr

_CHECKPOINTS = 40


@dataclass(frozen=True)
class TrainResult:
    """A trained dense network."""

    weights: Path
    """The safetensors file."""
    parameters: int
    """Number of weights."""
    psnr: float
    """PSNR in dB over RGB on held-out crops."""


def train_dense(
    config: TrainConfig, data: DataConfig, out: Path, report: Report = silent
) -> TrainResult:
    """Train a network with the L1 loss; goes on where it was interrupted.

    Args:
        config: network, length and rate.
        data: the photographs.
        out: safetensors file to write; checkpoints lie beside it until it is done.
        report: receives loss and held-out PSNR.

    Raises:
        SlsError: unknown network or options, or no usable photographs.
    """
    if out.suffix != ".safetensors":
        raise SlsError("is not a .safetensors file", str(out), "Name one with --out.")
    if out.exists():
        raise SlsError("is there already", str(out), "Name another file with --out.")
    torch.manual_seed(config.seed)
    wanted = ModelConfig(name=config.name, options=config.options, frames=config.frames)
    model = fresh_model(wanted).train()
    photos, measured = load_photos(data, model.description, config.patch)
    sampler = CropSampler(photos, config.patch, config.batch, config.seed)
    crops = held_out(measured, data.held_out, config.patch)
    optimiser = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    folder = out.with_name(f"{out.stem}.checkpoint")
    files = {str(path): hash_file(path) for path in (*photos.files, *measured.files)}
    made_by = [__version__, code_hash(config.name)]
    identity = hash_json(
        [config.model_dump(mode="json"), data.model_dump(mode="json"), files, made_by]
    )
    step, psnr = 0, 0.0
    if state := resume(folder, identity):
        model.load_state_dict(
            {key: value for key, value in state.tensors.items() if not key.startswith("optimiser.")}
        )
        load_optimiser_state(optimiser, state.tensors)
        step = state.facts["step"]
    epoch = max(1, config.steps // _CHECKPOINTS)
    with Feed(sampler.batch, step, config.steps) as feed:
        while step < config.steps:
            if step % epoch == 0:
                psnr = held_out_psnr(model.eval(), crops)
                model.train()
                tensors = {**model.state_dict(), **optimiser_state(optimiser)}
                facts = {IDENTITY: identity, "step": step}
                save_checkpoint(folder, step, Checkpoint(tensors, facts))
            optimiser.param_groups[0]["lr"] = config.learning_rate * rate(step, config.steps)
            degraded, truth = feed.batch(step)
            loss = torch.nn.functional.l1_loss(model(degraded), truth)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            step += 1
            report(
                Progress("train", step, config.steps, {"loss": float(loss.detach()), "psnr": psnr})
            )
    save_weights(out, model.eval())
    for path in folder.glob("*.safetensors"):
        path.unlink()
    if folder.is_dir():
        folder.rmdir()
    parameters = sum(value.numel() for value in model.network.parameters())
    return TrainResult(out, parameters, held_out_psnr(model, crops))
