"""Networks that the spandrel library recognises."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models import spandrel_nets
from sls_deploy.models.model import load_model, save_weights
from sls_deploy.models.narrow import select
from sls_deploy.models.registry import REGISTRY

pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid.*:UserWarning")  # spandrel's own
needed = pytest.mark.skipif(
    not spandrel_nets.is_installed(), reason="needs the extra: pip install 'sls-deploy[spandrel]'"
)
SWINIR = {
    "img_size": 16,
    "embed_dim": 12,
    "depths": [1, 1],
    "num_heads": [2, 2],
    "window_size": 8,
    "mlp_ratio": 2,
    "upscale": 2,
    "upsampler": "pixelshuffledirect",
}
DAT = {
    "img_size": 16,
    "split_size": [4, 8],
    "depth": [2],
    "num_heads": [2],
    "embed_dim": 32,
    "upscale": 2,
    "upsampler": "pixelshuffledirect",
}
SMALL: dict[str, tuple[str, dict[str, Any], int, int]] = {
    "esrgan": ("ESRGAN", {"num_filters": 8, "num_blocks": 1, "scale": 4}, 4, 1),
    "esrgan_unshuffled": (
        "ESRGAN",
        {"in_nc": 12, "num_filters": 8, "num_blocks": 1, "scale": 4, "shuffle_factor": 2},
        2,
        4,
    ),
    "compact": ("Compact", {"num_feat": 8, "num_conv": 2, "upscale": 3}, 3, 1),
    "span": ("SPAN", {"num_in_ch": 3, "num_out_ch": 3, "feature_channels": 8, "upscale": 2}, 2, 1),
    "nafnet": (
        "NAFNet",
        {"width": 4, "middle_blk_num": 1, "enc_blk_nums": [1, 1], "dec_blk_nums": [1, 1]},
        1,
        1,
    ),
    "drunet": ("DRUNet", {"in_nc": 4, "out_nc": 3, "nc": [4, 8, 8, 8], "nb": 2}, 1, 8),
    "swinir": ("SwinIR", SWINIR, 2, 1),
    "dat": ("DAT", DAT, 2, 1),
    "rcan": ("RCAN", {"n_feats": 8, "n_resgroups": 1, "n_resblocks": 1, "reduction": 4}, 4, 1),
}
"""Architecture, arguments, scale and multiple of small networks."""


def make(architecture: str, options: dict[str, Any]) -> nn.Module:
    """A network of spandrel's with weights that differ between places."""
    library = spandrel_nets._library()
    assert library.__name__ == "spandrel"
    module = importlib.import_module(f"spandrel.architectures.{architecture}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: nn.Module = getattr(module, architecture)(**options).eval()
        for parameter in network.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
    return network


def saved(path: Path, network: nn.Module, **more: Any) -> Path:
    torch.save({"params_ema": network.state_dict(), **more}, path)
    return path


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


@needed
@pytest.mark.parametrize("name", SMALL)
def test_loads_saves_and_loads_with_the_output_of_spandrel(name: str, tmp_path: Path) -> None:
    architecture, options, scale, multiple = SMALL[name]
    network = make(architecture, options)
    model = load_model(saved(tmp_path / "a.pth", network))
    about = model.description
    assert (about.name, about.options["architecture"]) == ("spandrel", architecture)
    assert (about.scale, about.multiple, about.input_range) == (scale, multiple, 1)
    x = picture(1, 3, 24, 40)
    state = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    expected = spandrel_nets._library().MAIN_REGISTRY.load(state)(x.clone())
    again = load_model(save_weights(tmp_path / "a.safetensors", model))
    assert again.description == about
    kept, written = again.network.state_dict(), model.network.state_dict()
    assert kept.keys() == written.keys()
    assert all(torch.equal(kept[key], written[key]) for key in kept)
    with torch.inference_mode():
        torch.testing.assert_close(model(x).clamp(0, 1), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(again(x), model(x), rtol=1e-5, atol=1e-5)
        both = model(torch.cat([x, x.flip(3)]))
    torch.testing.assert_close(both[:1], model(x), rtol=1e-4, atol=1e-5)


@needed
@pytest.mark.parametrize("name", SMALL)
def test_takes_its_least_side(name: str, tmp_path: Path) -> None:
    architecture, options, scale, _ = SMALL[name]
    model = load_model(saved(tmp_path / "a.pth", make(architecture, options)))
    side = model.description.least_side
    with torch.inference_mode():
        assert model(picture(1, 3, side, side)).shape == (1, 3, side * scale, side * scale)


@needed
def test_picture_is_left_as_it_is(tmp_path: Path) -> None:
    model, x = load_model(saved(tmp_path / "a.pth", make(*SMALL["rcan"][:2]))), picture(1, 3, 8, 8)
    with torch.inference_mode():
        model(x)
    assert torch.equal(x, picture(1, 3, 8, 8))


@needed
@pytest.mark.parametrize("name", ["esrgan", "compact"])
def test_keys_of_other_releases_load(name: str, tmp_path: Path) -> None:
    architecture, options, *_ = SMALL[name]
    network = make(architecture, options)
    prefixed = {f"module.{key}": tensor for key, tensor in network.state_dict().items()}
    torch.save(prefixed, tmp_path / "a.pth")
    model, plain = load_model(tmp_path / "a.pth"), load_model(saved(tmp_path / "b.pth", network))
    assert torch.equal(model(picture(1, 3, 16, 16)), plain(picture(1, 3, 16, 16)))


@needed
def test_keys_of_real_esrgan_are_brought_into_those_of_spandrel(tmp_path: Path) -> None:
    network = make(*SMALL["esrgan"][:2])
    names = {
        "model.0": "conv_first", "model.1.sub.1": "conv_body", "model.3": "conv_up1",
        "model.6": "conv_up2", "model.8": "conv_hr", "model.10": "conv_last",
    }  # fmt: skip

    def renamed(key: str) -> str:
        layer, _, kind = key.rpartition(".")
        block = re.fullmatch(r"model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0", layer)
        if block:
            return f"body.{block[1]}.rdb{block[2]}.conv{block[3]}.{kind}"
        return f"{names[layer]}.{kind}"

    new = {renamed(key): tensor for key, tensor in network.state_dict().items()}
    torch.save({"params_ema": new}, tmp_path / "RealESRGAN.pth")
    loaded = load_model(tmp_path / "RealESRGAN.pth")
    with torch.inference_mode():
        assert torch.equal(loaded(picture(1, 3, 9, 12)), network(picture(1, 3, 9, 12)))


@needed
def test_half_weights_load_as_float32(tmp_path: Path) -> None:
    network = make(*SMALL["compact"][:2]).half()
    loaded = load_model(saved(tmp_path / "a.pth", network))
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@needed
def test_narrowed_network_is_built_again(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "a.pth", make(*SMALL["compact"][:2])))
    kept = torch.tensor([0, 2, 5])
    names = {"body.0": (kept, None), "body.1": (kept, None), "body.2": (None, kept)}
    smaller = select(model, names)
    again = load_model(save_weights(tmp_path / "a.safetensors", smaller))
    assert again.description.widths == {"body.0": [3, 3], "body.1": [3], "body.2": [8, 3]}
    assert torch.equal(again(picture(1, 3, 16, 16)), smaller(picture(1, 3, 16, 16)))


@needed
def test_branches_of_span_are_one_convolution(tmp_path: Path) -> None:
    model = load_model(saved(tmp_path / "a.pth", make(*SMALL["span"][:2])))
    assert not any(".sk." in name for name, _ in model.named_modules())
    model(picture(1, 3, 16, 16)).sum().backward()
    weight = model.network.get_parameter("block_1.c1_r.eval_conv.weight")
    assert weight.grad is not None
    before = model(picture(1, 3, 16, 16))
    weight.data.zero_()
    assert not torch.equal(model(picture(1, 3, 16, 16)), before)


@needed
@pytest.mark.parametrize(
    ("architecture", "options", "reason"),
    [
        ("Compact", {"num_in_ch": 1, "num_out_ch": 1, "num_feat": 8, "num_conv": 1}, "1 channels"),
        ("DRUNet", {"in_nc": 2, "out_nc": 1, "nc": [4, 8, 8, 8], "nb": 2}, "1 channels to 1"),
        ("Uformer", {"img_size": 128, "embed_dim": 4, "depths": [1] * 9}, "only square pictures"),
    ],
)
def test_other_networks_are_refused(
    architecture: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    path = saved(tmp_path / "a.pth", make(architecture, options))
    with pytest.raises(SlsError, match=f"a.pth: is a {architecture}.*{reason}"):
        load_model(path)


@needed
def test_other_scale_is_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.pth", make(*SMALL["compact"][:2]))
    with pytest.raises(SlsError, match=r"no weights for x2 \(there: x3\)"):
        load_model(path, ModelConfig(scale=2))


@needed
def test_weights_that_do_not_fit_say_so(tmp_path: Path) -> None:
    state = make(*SMALL["span"][:2]).state_dict()
    del state["block_3.c1_r.eval_conv.weight"]
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(SlsError, match=r"spandrel cannot load it .*block_3\.c1_r"):
        load_model(tmp_path / "a.pth")


@needed
@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"architecture": "None", "shapes": {}}, "spandrel knows no network None"),
        ({"architecture": "Compact", "shapes": {"body.0.weight": [3]}}, "cannot build Compact"),
    ],
)
def test_odd_options_are_refused(options: dict[str, Any], reason: str) -> None:
    with pytest.raises(SlsError, match=reason):
        spandrel_nets.build(**options)


@pytest.fixture
def without_spandrel(monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[[str], Any] = spandrel_nets.importlib.util.find_spec
    monkeypatch.setattr(
        spandrel_nets.importlib.util,
        "find_spec",
        lambda name: None if name == "spandrel" else find(name),
    )
    spandrel_nets._library.cache_clear()


@pytest.mark.usefixtures("without_spandrel")
def test_unknown_network_tells_of_the_extra() -> None:
    with pytest.raises(SlsError, match=r"pip install 'sls-deploy\[spandrel\]'"):
        REGISTRY.recognise({"layer.weight": torch.ones(3)})


@pytest.mark.usefixtures("without_spandrel")
def test_own_file_of_its_network_tells_of_the_extra() -> None:
    with pytest.raises(SlsError, match=r"missing.*pip install 'sls-deploy\[spandrel\]'"):
        spandrel_nets.build(architecture="Compact", shapes={})
