"""Every kind of operation that a network of a user's own may hold goes through the export."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import nn

from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.export.parity import Batch, Parity, compare, comparison_batches
from sls_deploy.export.passes.half import Half
from sls_deploy.export.passes.rounding import RoundedFloat32
from sls_deploy.export.proof import prove
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel
from sls_deploy.runtime.onnxruntime import OnnxRunner
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.runtime.runner import Pictures, Runner
from tests.export.engines import built
from tests.export.exported_graphs import exported, folded
from tests.zoo import ZOO, zoo_model

HARDEST = (
    "batch_norm",
    "pixel_unshuffle",
    "resize_like",
    "gates",
    "shifted_windows",
    "frames_sequence",
    "u_shape",
)
UNUSED = {"in_place": {"other.0", "other.2"}, "scales": {"small"}, "named_outputs": {"small"}}
LAYERS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose2d, nn.Linear)


@dataclass(frozen=True)
class Case:
    """A network of the zoo and its graphs."""

    name: str
    model: RestorationModel
    exported: RestorationModel
    fp32: ir.Model
    fp16: ir.Model
    batches: list[Batch]
    reference: list[Pictures]

    def measure(self, graph: ir.Model, precision: str) -> Parity:
        runner = self.padded(OnnxRunner(to_bytes(graph), threads=1))
        return compare(self.reference, runner, self.batches, precision)  # type: ignore[arg-type]

    def padded(self, runner: Runner) -> Padded:
        about = self.model.description
        return Padded(runner, about.least_side, about.multiple, about.scale)


@cache
def photographs(frames: int, scale: int) -> list[Batch]:
    """What networks are compared on, which hangs on nothing else of them."""
    return comparison_batches(Description("any", {}, scale, 1.0, frames=frames))


@cache
def make(name: str) -> Case:
    model = zoo_model(name)
    graph = exported(name)
    half = Half("fp16")(graph.clone()).model
    batches = photographs(model.description.frames, model.description.scale)
    made = Case(name, model, folded(name), graph, half, batches, [])
    runner = made.padded(TorchRunner(model))
    made.reference.extend(runner.run(batch.pictures) for batch in batches)
    return made


# What these hold, others hold too, which stand behind them.
REPEATED = {
    "window_attention": "shifted_windows",
    "pixel_shuffle": "pixel_unshuffle",
    "upsample_bilinear": "upsample_nearest",
    "residual": "dense",
    "weight_norm_hooks": "weight_norm",
    "frames_stacked": "frames_separate",
}
assert set(REPEATED.values()) <= ZOO.keys() - REPEATED.keys()
CASES = [pytest.param(name, marks=pytest.mark.slow if name in REPEATED else ()) for name in ZOO]


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


def test_matches_pytorch(case: Case) -> None:
    assert case.measure(case.fp32, "fp32").psnr_db >= 80


def test_matches_pytorch_in_fp16(case: Case) -> None:
    assert case.measure(case.fp16, "fp16").psnr_db >= 50


def test_matches_pytorch_with_activations_rounded(case: Case) -> None:
    rounded = RoundedFloat32()(case.fp16.clone()).model
    assert case.measure(rounded, "fp16").psnr_db >= 50


def test_is_sound_onnx_of_any_size(case: Case) -> None:
    for graph in (case.fp32, case.fp16):
        proto = ir.to_proto(graph)
        onnx.checker.check_model(proto, full_check=True)
        (taken,) = proto.graph.input
        batch, channels, *sides = taken.type.tensor_type.shape.dim
        assert channels.dim_value == 3 * case.model.description.frames
        assert [size.dim_param for size in sides] == ["height", "width"]
        alone = case.name == "counted_windows"  # which takes the number of pictures for a constant
        assert (batch.dim_value, batch.dim_param) == ((1, "") if alone else (0, "batch"))
        assert [value.name for value in proto.graph.output] == ["output"]


def test_every_layer_is_proved(case: Case, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(to_bytes(case.fp16))
    network = case.exported.network
    names = {name for name, item in network.named_modules() if isinstance(item, LAYERS)}
    names -= UNUSED.get(case.name, set())
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    proofs = prove(path, state, [{"name": name, "kept": 2, "of": 4} for name in sorted(names)])
    assert {proof.name for proof in proofs if proof.pruned} == names
    for proof in (proof for proof in proofs if proof.pruned):
        layer = network.get_submodule(proof.name)
        outputs = "out_features" if isinstance(layer, nn.Linear) else "out_channels"
        assert proof.shape[0] == getattr(layer, outputs)


@pytest.mark.parametrize("name", HARDEST)
def test_becomes_an_engine(name: str, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx")
    channels = 3 * make(name).model.description.frames
    shapes = ((1, channels, 16, 16), (1, channels, 32, 48), (2, channels, 64, 64))
    answer = built(to_bytes(make(name).fp16), tmp_path / "model.plan", *shapes)
    assert answer.inputs[0].shape == (-1, channels, -1, -1)
    assert answer.outputs[0].shape == (-1, 3, -1, -1)


def wrap(network: nn.Module) -> RestorationModel:
    return RestorationModel(network.eval(), Description("mine", {}, 1, 1.0))


def farthest(model: RestorationModel, graph: ir.Model, *shapes: tuple[int, ...]) -> float:
    """The largest difference of what PyTorch and the graph make of noise of these shapes."""
    torch_runner, runner = TorchRunner(model), OnnxRunner(to_bytes(graph), threads=1)
    noise = [np.random.default_rng(0).random(shape, dtype=np.float32) for shape in shapes]
    found = [np.abs(runner.run(some) - torch_runner.run(some)).max() for some in noise]
    return float(np.max(found))


class PadsIfItMust(nn.Module):
    """Asks whether sides are even, and pads only then."""

    def __init__(self) -> None:
        super().__init__()
        self.middle = nn.Conv2d(12, 12, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        height, width = x.shape[2:]
        if height % 2 or width % 2:
            x = nn.functional.pad(x, (0, width % 2, 0, height % 2), "reflect")
        out = self.middle(nn.functional.pixel_unshuffle(x, 2))
        return nn.functional.pixel_shuffle(out, 2)[:, :, :height, :width]


def test_what_is_done_to_odd_sides_is_right_for_all() -> None:
    model = wrap(PadsIfItMust())
    assert farthest(model, to_onnx(model), (1, 3, 12, 16), (2, 3, 13, 9), (1, 3, 8, 7)) < 1e-5


class Heads(nn.Module):
    """PyTorch's own module of attention, over all places."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 3, 1)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.entry(x)
        places = self.layer(out.flatten(2).transpose(1, 2))
        return self.exit(places.transpose(1, 2).reshape(out.shape))  # type: ignore[no-any-return]


def test_the_modules_of_transformers_are_taken() -> None:
    model = wrap(Heads())
    assert farthest(model, to_onnx(model), (2, 3, 7, 9)) < 1e-5


class Square(nn.Module):
    """Takes square pictures alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + x.transpose(2, 3)


def test_refuses_a_network_whose_sides_must_be_equal() -> None:
    with pytest.raises(SlsError, match="mine: "):
        to_onnx(wrap(Square()))
