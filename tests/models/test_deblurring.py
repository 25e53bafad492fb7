"""The deblurring networks: DMPHN, SRN and UNet."""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from sls_deploy.errors import SlsError
from sls_deploy.models.dmphn import DMPHN
from sls_deploy.models.registry import REGISTRY
from sls_deploy.models.srn import SRN
from sls_deploy.models.unet import UNet
from sls_deploy.validate.metrics import psnr, to_uint8

CHECKPOINT = "dmphn_1_2_4_8_gopro.pth"
SMALL = [
    DMPHN(features=4),
    DMPHN(features=4, levels=3),
    DMPHN(features=4, levels=2),
    DMPHN(features=4, levels=1),
    SRN(features=4, blocks=1),
    SRN(features=4, blocks=2, up_kernel=4),
    UNet(features=4),
    UNet(features=4, halvings=1, middle=0),
]
KEYS = [
    (DMPHN(features=2), "encoder_lv1.layer1.weight"),
    (SRN(features=2, blocks=1), "in_block.0.weight"),
    (SRN(features=2, blocks=1), "d_block1.1.weight"),
    (UNet(features=2), "exit.weight"),
]


def picture(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def uses(network: nn.Module, x: Tensor) -> Counter[str]:
    """How often each layer with weights runs for one picture."""
    counted: Counter[str] = Counter()
    for name, module in network.named_modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            module.register_forward_hook(lambda *_, name=name: counted.update([name]))
    with torch.inference_mode():
        network(x)
    return counted


@pytest.mark.parametrize(
    ("build", "count"),
    [
        (DMPHN, 7_232_524),  # the authors' checkpoint
        (SRN, 7_086_051),  # the SLS paper's 7.09 M
        (partial(SRN, up_kernel=4), 6_881_251),  # the authors' kernel
        (UNet, 6_760_579),  # the SLS paper has 6.79 M
    ],
)
def test_number_of_parameters(build: Any, count: int) -> None:
    with torch.device("meta"):
        assert sum(parameter.numel() for parameter in build().parameters()) == count


@pytest.mark.parametrize("network", SMALL)
def test_recognised_with_sides_that_are_true(network: nn.Module) -> None:
    about = REGISTRY.recognise(network.state_dict())
    assert (about.scale, about.input_range) == (1, 1.0)
    built = REGISTRY.get(about.name).build(**about.options)
    built.load_state_dict(network.state_dict(), strict=True)
    assert about.least_side == about.multiple
    for sides in ((1, 1), (1, 2), (3, 1)):
        x = picture(1, 3, *(side * about.multiple for side in sides))
        with torch.inference_mode():
            output = built(x)
            assert output.shape == x.shape
            assert torch.equal(output, network(x))


@pytest.mark.parametrize("network", SMALL)
def test_other_heights_fail_or_change(network: nn.Module) -> None:
    multiple = REGISTRY.recognise(network.state_dict()).multiple
    for height in set(range(1, 2 * multiple)) - {multiple}:
        x = picture(1, 3, height, 2 * multiple)
        with torch.inference_mode():
            try:
                shape = network(x).shape
            except RuntimeError:
                continue
        assert shape != x.shape


@pytest.mark.parametrize(("network", "key"), KEYS)
def test_keys_that_are_missing_or_misshaped_are_named(network: nn.Module, key: str) -> None:
    state = network.state_dict()
    with pytest.raises(SlsError, match=f"{key} is 2, where 4 dimensions"):
        REGISTRY.recognise({**state, key: torch.ones(2)})
    with pytest.raises(SlsError, match=rf"has no key {key}|is of no known network"):
        REGISTRY.recognise({name: tensor for name, tensor in state.items() if name != key})
    with pytest.raises(SlsError, match="no weights for x2"):
        REGISTRY.recognise(state, 2)


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (partial(DMPHN, levels=0), "without levels"),
        (partial(SRN, up_kernel=5), "up_kernel 5"),
        (partial(UNet, halvings=0), "without halving"),
    ],
)
def test_options_that_cannot_be_are_refused(build: Any, reason: str) -> None:
    with pytest.raises(SlsError, match=reason):
        build()


@pytest.mark.parametrize("network", SMALL)
def test_light(network: nn.Module) -> None:
    about = REGISTRY.recognise(network.state_dict())
    with torch.device("meta"):
        empty = REGISTRY.get(about.name).build(**about.options)
    x = torch.zeros(1, 3, about.multiple, about.multiple, device="meta")
    assert empty(x).shape == x.shape


@pytest.mark.parametrize("network", [DMPHN(features=2), UNet(features=2)])
def test_each_layer_runs_once(network: nn.Module) -> None:
    counted = uses(network, picture(1, 3, 16, 16))
    assert set(counted.values()) == {1}
    assert len(counted) == len(list(network.named_parameters())) / 2


def test_srn_shares_weights_over_scales() -> None:
    network = SRN(features=2, blocks=1)
    counted = uses(network, picture(1, 3, 16, 16))
    assert set(counted.values()) == {3}
    assert len(counted) == len(list(network.named_parameters())) / 2


def test_dmphn_patches_are_four_rows_of_two() -> None:
    seen: list[Tensor] = []
    network = DMPHN(features=2)
    network.get_submodule("encoder_lv4").register_forward_hook(
        lambda module, inputs, output: seen.append(inputs[0])
    )
    x = picture(2, 3, 32, 16)
    with torch.inference_mode():
        network(x)
    patches = seen[0].split(2)
    found = set()
    for top, left in np.ndindex(4, 2):
        expected = x[:, :, 8 * top : 8 * top + 8, 8 * left : 8 * left + 8] - 0.5
        found |= {place for place, patch in enumerate(patches) if torch.equal(patch, expected)}
    assert found == set(range(8))


def one_at_a_time(network: DMPHN, x: Tensor, level: int) -> Tensor:
    """Features of one patch of a level."""
    encoder = network.get_submodule(f"encoder_lv{level}")
    if level == network.levels:
        return encoder(x)
    axis = 2 if level % 2 else 3
    finer = torch.cat([one_at_a_time(network, x, level + 1) for x in x.chunk(2, axis)], axis)
    return encoder(x + network.get_submodule(f"decoder_lv{level + 1}")(finer)) + finer


@pytest.mark.parametrize("levels", [1, 2, 3, 4, 5])
def test_dmphn_is_what_its_patches_give_one_at_a_time(levels: int) -> None:
    network, x = DMPHN(features=4, levels=levels), picture(2, 3, 32, 48)
    with torch.inference_mode():
        features = one_at_a_time(network, x - 0.5, 1)
        expected = network.get_submodule("decoder_lv1")(features) + 0.5
        torch.testing.assert_close(network(x), expected, rtol=1e-5, atol=1e-5)


def test_srn_up_kernel_of_six_is_a_pixel_shuffle() -> None:
    up = nn.ConvTranspose2d(4, 2, 6, stride=2, padding=2)
    convolution = nn.Conv2d(4, 8, 3, padding=1)
    with torch.no_grad():
        for row, column in np.ndindex(2, 2):
            taps = up.weight[:, :, row::2, column::2].flip(2, 3).transpose(0, 1)
            convolution.weight[row * 2 + column :: 4] = taps
        convolution.bias.copy_(up.bias.repeat_interleave(4))  # type: ignore[union-attr]
        x = picture(1, 4, 5, 7)
        expected = nn.functional.pixel_shuffle(convolution(x), 2)
        torch.testing.assert_close(up(x), expected, rtol=1e-5, atol=1e-5)


def test_unet_of_zeros_gives_the_picture_back() -> None:
    network, x = UNet(features=2), picture(1, 3, 8, 16)
    with torch.inference_mode():
        for parameter in network.exit.parameters():
            parameter.zero_()
        assert torch.equal(network(x), x)


@pytest.fixture(scope="module")
def published(shared_data: Path) -> DMPHN:
    with torch.device("meta"):
        network = DMPHN()
    path = shared_data / "ckpt" / CHECKPOINT
    network.load_state_dict(torch.load(path, weights_only=True), strict=True, assign=True)
    return network.eval()


def gopro(shared_data: Path, number: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Blurred and sharp picture, HWC."""
    folder = shared_data / "bench" / "GoPro"
    blurred, sharp = (
        np.asarray(Image.open(folder / kind / f"{number}.png").convert("RGB")).copy()
        for kind in ("blur", "sharp")
    )
    return blurred, sharp


def restored_psnr(network: DMPHN, blurred: NDArray[np.uint8], sharp: NDArray[np.uint8]) -> float:
    x = torch.from_numpy(blurred).permute(2, 0, 1)[None].float() / 255
    with torch.inference_mode():
        output = network(x)[0].permute(1, 2, 0).numpy()
    return psnr(to_uint8(output), sharp, peak=255)


def test_published_dmphn_is_recognised(shared_data: Path) -> None:
    state = torch.load(shared_data / "ckpt" / CHECKPOINT, weights_only=True)
    assert REGISTRY.recognise(state).options == {"features": 32, "levels": 4}


def test_published_dmphn_restores_a_detail(published: DMPHN, shared_data: Path) -> None:
    detail = np.s_[400:496, 500:660]
    blurred, sharp = (image[detail].copy() for image in gopro(shared_data, "00"))
    assert psnr(blurred, sharp, peak=255) == pytest.approx(21.335, abs=0.001)
    assert restored_psnr(published, blurred, sharp) == pytest.approx(29.073, abs=0.005)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "measured"), [("00", 30.01), ("01", 27.55), ("02", 25.65)])
def test_published_dmphn_restores_whole_pictures(
    number: str, measured: float, published: DMPHN, shared_data: Path
) -> None:
    figure = restored_psnr(published, *gopro(shared_data, number))
    assert figure == pytest.approx(measured, abs=0.02)
