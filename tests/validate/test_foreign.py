"""Files exported by hand, compared with the network that they were made from."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, nn

from sls_deploy.config import ModelConfig, ValidateConfig
from sls_deploy.data.degradation import Bicubic
from sls_deploy.data.given import Given
from sls_deploy.data.images import write_image
from sls_deploy.data.samples import sample_photos
from sls_deploy.data.truth import TruthFolder
from sls_deploy.engine.gpu import gpu_architecture
from sls_deploy.errors import SlsError
from sls_deploy.export.program import quiet
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import build_model, save_weights
from sls_deploy.models.restoration import RestorationModel
from sls_deploy.onnx_file import read_model
from sls_deploy.validate.figures import DENSE, Gate, Validation
from sls_deploy.validate.foreign import validate_file
from sls_deploy.validate.foreign_crop import ProbeCrop
from sls_deploy.validate.foreign_precision import lowest_precision, runnable_here

OPEN = torch.export.Dim.DYNAMIC


class Exported(nn.Module):
    """The network as someone else wraps it before it is exported."""

    def __init__(self, model: nn.Module, before: Any = None, after: Any = None) -> None:
        super().__init__()
        self.model, self.before, self.after = copy.deepcopy(model), before, after

    def forward(self, x: Tensor) -> Any:
        y = self.model(self.before(x) if self.before else x)
        return self.after(y) if self.after else y


def from_bytes(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2).float() / 255


def to_bytes(y: Tensor) -> Tensor:
    return (y * 255).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def turned(x: Tensor) -> Tensor:
    return x.flip(1)


def of_video(y: Tensor) -> Tensor:
    """16..235 instead of 0..255, a wrong range that pictures still look right in."""
    return y * (219 / 255) + 16 / 255


def with_small(y: Tensor) -> tuple[Tensor, Tensor]:
    return y[:, :, ::2, ::2], y


@dataclass(frozen=True)
class Case:
    """A network, pictures, and a place for files."""

    folder: Path
    network: RestorationModel
    model: ModelConfig
    pictures: Path

    def export(
        self,
        name: str,
        before: Any = None,
        after: Any = None,
        *,
        dtype: torch.dtype = torch.float32,
        size: tuple[int, int] | None = None,
        dynamo: bool = False,
        **options: Any,
    ) -> Path:
        """Write an ONNX file by hand, of open sizes unless one is given; once for each name.

        The older exporter is the faster one by far.
        """
        path = self.folder / name
        if path.is_file():
            return path
        wrapped = Exported(self.network, before, after).eval().to(dtype)
        x = torch.rand(1, 3, *(size or (24, 32))).to(dtype)
        x = to_bytes(x) if before is from_bytes else x
        axes = (1, 2) if before is from_bytes else (2, 3)
        if dynamo:
            sizes = None if size else (dict.fromkeys(axes, OPEN),)
            given: dict[str, Any] = {"external_data": False, "dynamic_shapes": sizes, **options}
        else:
            names = {} if size else {"pixels": {axis: f"axis{axis}" for axis in axes}}
            given = {"input_names": ["pixels"], "dynamic_axes": names, **options}
        with quiet(), warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            torch.onnx.export(wrapped, (x,), path, dynamo=dynamo, verbose=False, **given)
        return path

    def validate(self, onnx: Path, *, output: str = "", **options: Any) -> Validation:
        settings = ValidateConfig(pictures=self.pictures, **options)
        return validate_file(onnx, None, self.model, settings, output=output)


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    """A small EDSR x2, and four crops of photographs, two of one name."""
    folder = tmp_path_factory.mktemp("foreign")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        options = {"features": 8, "blocks": 1, "scale": 2, "input_range": 1.0}
        network = build_model(Description("edsr", options, 2, 1.0)).eval()
    weights = save_weights(folder / "net.safetensors", network)
    for name, photo in (
        ("a/one.png", "chelsea"),
        ("b/one.png", "coffee"),
        ("two.png", "rocket"),
        ("grey.png", "camera"),
    ):
        crop = sample_photos()[photo][120:190, 150:240]
        write_image(folder / "pictures" / name, crop)
    return Case(folder, network, ModelConfig(weights=weights), folder / "pictures")


@pytest.fixture(scope="module")
def plain(case: Case) -> Path:
    return case.export("plain.onnx", dynamo=True)


def failed(validation: Validation) -> list[Gate]:
    return [gate for gate in validation.gates if not gate.passed]


def by_torchscript(case: Case) -> Path:
    return case.export("script.onnx", opset_version=11)


def of_one_size(case: Case) -> Path:
    return case.export("fixed.onnx", size=(40, 24), dynamo=True)


def in_half(case: Case) -> Path:
    return case.export("half.onnx", dtype=torch.float16)


def in_bfloat16(case: Case) -> Path:
    return case.export("bfloat16.onnx", dtype=torch.bfloat16)


def on_bytes(case: Case) -> Path:
    return case.export("bytes.onnx", from_bytes, to_bytes)


def in_bgr(case: Case) -> Path:
    return case.export("bgr.onnx", turned, turned, dynamo=True, opset_version=22)


def with_two_outputs(case: Case) -> Path:
    return case.export("two.onnx", None, with_small)


@pytest.mark.parametrize(
    ("make", "precision", "told"),
    [
        (by_torchscript, "fp32", "takes RGB of 0..1, NCHW float32"),
        (of_one_size, "fp32", "takes pictures of 24x40 only"),
        (in_half, "fp16", "takes RGB of 0..1, NCHW float16"),
        (in_bfloat16, "bf16", "takes RGB of 0..1, NCHW bfloat16"),
        (on_bytes, "fp32", "takes RGB of 0..255, NHWC uint8 and gives RGB of 0..255, NHWC uint8"),
        (in_bgr, "fp32", "takes BGR of 0..1, NCHW float32 and gives BGR of 0..1"),
        (with_two_outputs, "fp32", "takes RGB of 0..1, NCHW float32"),
    ],
)
def test_a_sound_file_passes_all_gates(
    case: Case, make: Callable[[Case], Path], precision: str, told: str
) -> None:
    path = make(case)
    validation = case.validate(path)
    assert validation.passed
    dense, stage = validation.stages
    assert (dense.name, stage.name) == (DENSE, f"ONNX {path.name}")
    assert (stage.stage.kind, stage.stage.precision) == ("onnx", precision)
    assert (stage.stage.previous, stage.stage.reference) == (DENSE, DENSE)
    assert stage.stage.in_bytes == (make is on_bytes)
    assert told in " ".join(validation.notes)
    assert {gate.rule for gate in validation.gates} == {"loss", "worst picture", "fidelity"}
    assert [item.name for item in stage.pictures] == [
        "a/one.png",
        "b/one.png",
        "grey.png",
        "two.png",
    ]


@pytest.mark.parametrize(("after", "told"), [(turned, "exchanges red and blue"), (of_video, "it")])
def test_a_file_that_changes_pictures_fails(case: Case, after: Any, told: str) -> None:
    path = case.export(f"{after.__name__}.onnx", None, after)
    validation = case.validate(path)
    assert not validation.passed
    (gate,) = [gate for gate in failed(validation) if gate.rule == "fidelity"]
    assert gate.stage == f"ONNX {path.name}"
    assert gate.value is not None
    assert gate.value < 40
    assert gate.culprit is not None
    assert told in " ".join(validation.notes)


def test_a_damaged_weight_is_found(case: Case, plain: Path, tmp_path: Path) -> None:
    model = onnx.load(plain)
    weight = next(item for item in model.graph.initializer if item.name.endswith("body.1.weight"))
    damaged = numpy_helper.to_array(weight) * 1.2
    weight.CopyFrom(numpy_helper.from_array(damaged.astype(np.float32), weight.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    (gate,) = failed(case.validate(tmp_path / "damaged.onnx"))
    assert (gate.stage, gate.rule) == ("ONNX damaged.onnx", "fidelity")
    assert gate.culprit is not None
    assert gate.culprit.layer == "body.1"
    assert gate.culprit.picture == gate.picture != ""


def test_the_damage_of_a_file_with_other_ends_is_found(case: Case, tmp_path: Path) -> None:
    model = onnx.load(on_bytes(case))
    weight = next(item for item in model.graph.initializer if item.name.endswith("body.1.weight"))
    damaged = numpy_helper.to_array(weight) * 1.5
    weight.CopyFrom(numpy_helper.from_array(damaged.astype(np.float32), weight.name))
    onnx.save(model, tmp_path / "damaged.onnx")
    (gate,) = failed(case.validate(tmp_path / "damaged.onnx"))
    assert gate.limit == 50
    assert gate.culprit is not None
    assert gate.culprit.layer == "body.1"


def test_without_truth_fidelity_alone_is_judged(case: Case, plain: Path) -> None:
    validation = case.validate(plain, degradation="none")
    assert [gate.rule for gate in validation.gates] == ["fidelity"]
    assert validation.passed
    assert validation.losses == validation.totals == ()
    assert validation.protocol.input == "Input is the picture itself, and there is no truth"
    assert all(item.quality is None for stage in validation.stages for item in stage.pictures)


def test_a_file_of_one_size_is_run_in_tiles_of_it(case: Case) -> None:
    validation = case.validate(case.export("square.onnx", size=(24, 24)), degradation="none")
    assert validation.protocol.tile == 24
    near = validation.stages[1].to_reference
    assert near is not None
    assert near.max_error < 1e-5


def test_large_pictures_are_cut_into_tiles_for_all_stages(case: Case, plain: Path) -> None:
    validation = case.validate(plain, tile=64, degradation="none")
    assert validation.protocol.tile == 64
    assert validation.passed


def test_smaller_pictures_are_filled_up_to_the_one_size(case: Case) -> None:
    validation = case.validate(case.export("large.onnx", size=(80, 112)), degradation="none")
    assert validation.passed
    assert validation.protocol.tile is None


def test_weights_beside_the_file_are_hashed(case: Case) -> None:
    path = case.export("beside.onnx", dynamo=True, external_data=True)
    assert path.with_suffix(".onnx.data").is_file()
    validation = case.validate(path)
    assert validation.passed
    assert list(validation.hashes) == [
        DENSE,
        "ONNX beside.onnx",
        "ONNX beside.onnx, beside.onnx.data",
    ]


def test_weights_outside_of_the_folder_are_never_read(case: Case) -> None:
    path = case.export("beside.onnx", dynamo=True, external_data=True)
    model = onnx.load(path, load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            entry.value = f"../{path.name}.data" if entry.key == "location" else entry.value
    away = path.parent / "below" / "away.onnx"
    away.parent.mkdir()
    away.write_bytes(model.SerializeToString())
    with pytest.raises(SlsError, match="external data outside of the file's folder"):
        case.validate(away)


def test_an_output_can_be_named(case: Case) -> None:
    path = case.export("same.onnx", None, lambda y: (y, y * 0.5))
    with pytest.raises(SlsError, match=r"gives several pictures of the right size .*--output"):
        case.validate(path)
    first, second = (item.name for item in onnx.load(path).graph.output)
    assert case.validate(path, output=first).passed
    assert not case.validate(path, output=second).passed


def test_a_network_of_the_users_own_can_be_compared(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\n"
        "def make():\n"
        "    return nn.Sequential(nn.Conv2d(9, 12, 3, padding=1), nn.PixelShuffle(2))\n"
    )
    network = nn.Sequential(nn.Conv2d(9, 12, 3, padding=1), nn.PixelShuffle(2))
    torch.save(network.state_dict(), tmp_path / "net.pth")
    write_image(tmp_path / "pictures" / "a.png", sample_photos()["coffee"][100:140, 100:160])
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        frames = torch.rand(1, 9, 32, 32)
        torch.onnx.export(
            network,
            (frames,),
            tmp_path / "a.onnx",
            dynamo=False,
            input_names=["frames"],
            dynamic_axes={"frames": {2: "height", 3: "width"}},
        )
    model = ModelConfig(name=f"{tmp_path}/net.py:make", weights=tmp_path / "net.pth", frames=3)
    options = ValidateConfig(pictures=tmp_path / "pictures", degradation="none")
    validation = validate_file(tmp_path / "a.onnx", None, model, options)
    assert validation.passed
    assert validation.protocol.input.endswith("it is repeated for all 3 frames")


def test_pictures_of_every_kind_can_be_compared(case: Case, plain: Path, tmp_path: Path) -> None:
    photo = Image.fromarray(sample_photos()["coffee"][100:140, 100:160])
    for mode in ("L", "P", "RGBA", "1", "LA"):
        photo.convert(mode).save(tmp_path / f"{mode}.png")
    options = ValidateConfig(pictures=tmp_path, degradation="none")
    validation = validate_file(plain, None, case.model, options)
    assert (validation.pictures, validation.passed) == (5, True)


@pytest.mark.skipif(gpu_architecture() is not None, reason="there is a GPU here")
def test_an_engine_needs_its_manifest(case: Case, tmp_path: Path) -> None:
    (tmp_path / "sm86-fp16.plan").write_bytes(b"an engine")
    options = ValidateConfig(pictures=case.pictures)
    with pytest.raises(SlsError, match=r"sm86-fp16"):
        validate_file(None, tmp_path / "sm86-fp16.plan", case.model, options)


@pytest.mark.parametrize(
    ("given", "pictures", "weights", "message"),
    [
        (False, True, True, "--onnx: no file was named"),
        (True, False, True, "--data: no pictures were named"),
        (True, True, False, "--weights: no weights were named"),
    ],
)
def test_what_was_not_named_is_asked_for(
    case: Case, plain: Path, given: bool, pictures: bool, weights: bool, message: str
) -> None:
    model = case.model if weights else ModelConfig()
    options = ValidateConfig(pictures=case.pictures if pictures else None)
    with pytest.raises(SlsError, match=message):
        validate_file(plain if given else None, None, model, options)


def test_the_crop_to_try_with_has_contrast_and_colour(tmp_path: Path) -> None:
    write_image(tmp_path / "a.png", np.zeros((200, 200, 3), np.uint8))
    patch = np.zeros((200, 200, 3), np.uint8)
    patch[150:, 150:] = sample_photos()["coffee"][200:250, 200:250]
    write_image(tmp_path / "b.png", patch)
    crop = ProbeCrop(TruthFolder(tmp_path, Given(2)), 40)(None)
    np.testing.assert_array_equal(crop[0], (patch[160:, 160:] / 255).transpose(2, 0, 1).astype("f"))


def test_the_crop_of_grey_pictures_is_tinted(case: Case) -> None:
    grey = TruthFolder(case.pictures, Bicubic(2), paths=[case.pictures / "grey.png"])
    crop = ProbeCrop(grey, 24)((200, 30))
    assert (crop.shape, crop.dtype) == ((1, 3, 200, 30), np.float32)
    assert (crop[:, 0] - crop[:, 2]).std() > 0.01
    np.testing.assert_allclose(crop * 255, np.round(crop * 255), atol=1e-4)


def test_the_lowest_precision_is_told(case: Case, plain: Path, tmp_path: Path) -> None:
    assert lowest_precision(read_model(plain)) == "fp32"
    model = read_model(plain)
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    assert lowest_precision(model) == "fp16"
    model.graph.node.append(
        helper.make_node("QuantizeLinear", [model.graph.output[0].name, "scale"], ["rounded"])
    )
    assert lowest_precision(model) == "int8"


def test_a_graph_without_bfloat16_is_left_alone(plain: Path) -> None:
    content = plain.read_bytes()
    assert runnable_here(content) is content
