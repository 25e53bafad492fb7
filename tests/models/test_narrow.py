"""Networks with fewer channels: cut from wide ones, built, saved, loaded, exported."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.export.graph import to_bytes, to_onnx
from sls_deploy.models.architecture import Description
from sls_deploy.models.model import RestorationModel, build_model, load_model, save_weights
from sls_deploy.models.narrow import narrow, select

OPTIONS = {"features": 8, "inner": 8, "attention": 4, "blocks": 1, "scale": 2}
WIDE = Description("rlfn", OPTIONS, 2, 255.0)
INDEX = torch.tensor([1, 2, 5])
KEPT = {
    "block_1.c1_r": (INDEX, None),
    "block_1.c2_r": (torch.tensor([0, 7]), INDEX),
    "block_1.c3_r": (None, torch.tensor([0, 7])),
}
WIDTHS = {"block_1.c1_r": [3, 8], "block_1.c2_r": [2, 3], "block_1.c3_r": [8, 2]}


class Normalised(nn.Module):
    """A convolution with everything that holds a value for each of its channels."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3, bias=False)
        self.norm, self.slope, self.one_slope = nn.BatchNorm2d(6), nn.PReLU(6), nn.PReLU()
        self.last = nn.Conv2d(6, 3, 1)
        self.grouped, self.linear = nn.Conv2d(6, 6, 1, groups=2), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.one_slope(self.slope(self.norm(self.first(x)))))  # type: ignore[no-any-return]


def picture() -> torch.Tensor:
    return torch.rand(1, 3, 16, 19, generator=torch.Generator().manual_seed(0))


def normalised() -> RestorationModel:
    torch.manual_seed(0)
    model = RestorationModel(Normalised(), Description("mine", {}, 1, 1.0)).double().eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.1, 1)
    return model


@pytest.fixture
def wide() -> RestorationModel:
    torch.manual_seed(0)
    return build_model(WIDE).eval()


@pytest.fixture
def smaller(wide: RestorationModel) -> RestorationModel:
    return select(wide, KEPT)


@given(st.sets(st.integers(0, 5), min_size=1))
def test_selected_channels_give_the_output_of_the_wide_network_without_the_others(
    channels: set[int],
) -> None:
    wide, index = normalised(), torch.tensor(sorted(channels))
    kept = dict.fromkeys(("first", "norm", "slope"), (index, None))
    smaller = select(wide, {**kept, "last": (None, index)})
    dropped = [channel for channel in range(6) if channel not in channels]
    wide.network.get_parameter("last.weight").data[:, dropped] = 0
    x = picture().double()
    torch.testing.assert_close(smaller(x), wide(x))


def test_modules_say_their_new_sizes() -> None:
    two = torch.tensor([3, 4])
    kept = dict.fromkeys(("first", "norm", "slope"), (two, None))
    network: Any = select(normalised(), {**kept, "last": (two[:1] - 3, two)}).network
    assert (network.first.out_channels, network.first.in_channels) == (2, 3)
    assert (network.last.out_channels, network.last.in_channels) == (1, 2)
    assert (network.norm.num_features, network.slope.num_parameters) == (2, 2)
    shapes = {key: tuple(tensor.shape) for key, tensor in network.norm.state_dict().items()}
    one_each = dict.fromkeys(("weight", "bias", "running_mean", "running_var"), (2,))
    assert shapes == {**one_each, "num_batches_tracked": ()}


def test_the_wide_model_is_untouched(wide: RestorationModel) -> None:
    before = {key: tensor.clone() for key, tensor in wide.network.state_dict().items()}
    select(wide, KEPT).network.get_parameter("conv_1.weight").data.zero_()
    after = wide.network.state_dict()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert wide.description == WIDE


def test_fixed_weights_stay_fixed(wide: RestorationModel) -> None:
    wide.network.get_parameter("block_1.c1_r.weight").requires_grad_(False)
    network = select(wide, KEPT).network
    assert not network.get_parameter("block_1.c1_r.weight").requires_grad
    assert network.get_parameter("block_1.c2_r.weight").requires_grad


def test_description_lists_the_modules_that_shrank(wide: RestorationModel) -> None:
    all_channels = (torch.arange(8), None)
    assert select(wide, {**KEPT, "conv_1": all_channels}).description.widths == WIDTHS


def test_selecting_twice_is_selecting_once(wide: RestorationModel) -> None:
    some = torch.tensor([1, 2, 4, 5])
    first = {"block_1.c1_r": (some, None), "block_1.c2_r": (None, some)}
    of_first = torch.tensor([0, 1, 3])
    second = {"block_1.c1_r": (of_first, None), "block_1.c2_r": (KEPT["block_1.c2_r"][0], of_first)}
    twice = select(select(wide, first), {**KEPT, **second})
    once = select(wide, KEPT)
    assert twice.description == once.description
    assert torch.equal(twice(picture()), once(picture()))


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({"block_1.c9": (INDEX, None)}, r"cannot narrow block_1\.c9: .* no such module"),
        ({"upsampler.1": (INDEX, None)}, r"upsampler\.1: it is a PixelShuffle"),
        ({"conv_1": (torch.tensor([2, 1]), None)}, "not ascending numbers below 8"),
        ({"conv_1": (torch.tensor([1, 1]), None)}, "not ascending"),
        ({"conv_1": (torch.tensor([-1, 1]), None)}, "not ascending"),
        ({"conv_1": (torch.tensor([7, 8]), None)}, "not ascending"),
        ({"conv_1": (None, torch.tensor([3]))}, "not ascending numbers below 3"),
        ({"conv_1": (torch.tensor([], dtype=torch.int64), None)}, "not ascending"),
        ({"conv_1": (torch.tensor([True, False]), None)}, "not ascending"),
        ({"conv_1": (torch.tensor(1), None)}, "not ascending"),
    ],
)
def test_channels_that_are_none_are_refused(
    kept: dict[str, Any], reason: str, wide: RestorationModel
) -> None:
    with pytest.raises(SlsError, match=reason):
        select(wide, kept)


@pytest.mark.parametrize(
    ("kept", "reason"),
    [
        ({"grouped": (INDEX, None)}, "grouped: it is a Conv2d with groups"),
        ({"linear": (None, INDEX)}, "it is a Linear"),
        ({"norm": (INDEX, INDEX)}, "norm keeps are not ascending numbers below 0"),
        ({"one_slope": (INDEX, None)}, "not ascending numbers below 1"),
    ],
)
def test_modules_that_cannot_shrink_are_refused(kept: dict[str, Any], reason: str) -> None:
    with pytest.raises(SlsError, match=reason):
        select(normalised(), kept)


def test_narrow_keeps_the_first_channels() -> None:
    network: Any = Normalised()
    before = network.norm.running_mean, network.last.weight
    narrow(network, {"norm": [2], "last": [3, 2]})
    assert torch.equal(network.norm.running_mean, before[0][:2])
    assert torch.equal(network.last.weight, before[1][:, :2])


def test_built_from_the_description_takes_the_weights(smaller: RestorationModel) -> None:
    built = build_model(smaller.description).eval()
    built.network.load_state_dict(smaller.network.state_dict(), strict=True)
    assert torch.equal(built(picture()), smaller(picture()))


def test_saved_and_loaded_is_the_same(smaller: RestorationModel, tmp_path: Path) -> None:
    loaded = load_model(
        save_weights(tmp_path / "smaller.safetensors", smaller), ModelConfig(name="rlfn", scale=2)
    )
    assert loaded.description == smaller.description
    assert torch.equal(loaded(picture()), smaller(picture()))
    loaded(picture()).sum().backward()
    assert all(parameter.grad is not None for parameter in loaded.parameters())


def test_file_of_a_wide_network_does_not_speak_of_widths(
    wide: RestorationModel, tmp_path: Path
) -> None:
    with safe_open(save_weights(tmp_path / "wide.safetensors", wide), framework="pt") as file:
        text = file.metadata()["description"]
    plain = {"name": "rlfn", "options": OPTIONS, "scale": 2, "input_range": 255.0}
    assert text == json.dumps(plain, sort_keys=True)


@pytest.mark.parametrize(
    ("widths", "reason"),
    [
        ([["conv_1", [4, 3]]], "description of the network is not understood"),
        (None, "description of the network is not understood"),
        ({"block_1.c9": [4, 8]}, r"block_1\.c9: the network has no such module"),
        ({"": [4, 8]}, "it is a RLFN"),
        ({"block_1.esa": [4]}, "it is a SpatialAttention"),
        ({"conv_1": [999, 3]}, r"conv_1 cannot have the width \[999, 3\] .* has \[8, 3\]"),
        ({"conv_1": [0, 3]}, r"cannot have the width \[0, 3\]"),
        ({"conv_1": [-1, 3]}, "cannot have the width"),
        ({"conv_1": [4]}, "cannot have the width"),
        ({"conv_1": [4, 3, 3]}, "cannot have the width"),
        ({"conv_1": [4.0, 3]}, "description of the network is not understood"),
        ({"conv_1": [True, 3]}, "description of the network is not understood"),
        ({"conv_1": 4}, "description of the network is not understood"),
        ({"conv_1": "43"}, "description of the network is not understood"),
        ({"block_1.c1_r": [3, 8]}, "widths of its modules do not fit each other"),
        ({"upsampler.0": [8, 8]}, "widths of its modules do not fit each other"),
    ],
)
def test_file_with_other_widths_is_refused(widths: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.safetensors"
    content = {"name": "rlfn", "options": OPTIONS, "scale": 2, "input_range": 255.0}
    text = json.dumps({**content, "widths": widths})
    save_file({"conv_1.bias": torch.ones(8)}, path, {"description": text})
    with pytest.raises(SlsError, match=reason) as caught:
        load_model(path)
    assert caught.value.where == str(path)


def test_file_whose_weights_are_wider_than_described_is_refused(
    wide: RestorationModel, smaller: RestorationModel, tmp_path: Path
) -> None:
    path = tmp_path / "wider.safetensors"
    text = smaller.description.to_json()
    save_file(wide.network.state_dict(), path, {"description": text})
    reason = "block_1.c1_r.weight: 8x8x3x3, needed 3x8x3x3"
    with pytest.raises(SlsError, match=re.escape(reason)):
        load_model(path)


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_exported_gives_the_same_output(smaller: RestorationModel) -> None:
    content = to_bytes(to_onnx(smaller))
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    x = picture()
    with torch.inference_mode():
        expected = smaller(x)
    output = torch.from_numpy(session.run(None, {"input": x.numpy()})[0])
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
