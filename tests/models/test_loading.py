"""Files that load, and files that are refused with a reason."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.model import RestorationModel, build_model, load_model, save_weights
from sls_deploy.models.registry import Description

SMALL = Description(
    "rlfn",
    {"features": 4, "inner": 4, "attention": 2, "blocks": 1, "scale": 2},
    2,
    255.0,
    least_side=15,
)


@pytest.fixture
def model() -> RestorationModel:
    return build_model(SMALL)


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def refused(path: Path, reason: str, name: str = "auto", scale: int | None = None) -> None:
    with pytest.raises(SlsError, match=reason) as caught:
        load_model(path, ModelConfig(name=name, scale=scale))
    assert caught.value.where == str(path)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params_ema": state, "params": {}},
        lambda state: {"params": state},
        lambda state: {f"module.{key}": tensor for key, tensor in state.items()},
        lambda state: {"state_dict": {f"module.{key}": state[key] for key in state}},
    ],
)
def test_common_nestings_load(
    wrap: Callable[[Any], Any], model: RestorationModel, tmp_path: Path
) -> None:
    state = model.network.state_dict()
    loaded = load_model(saved(tmp_path / "nested.ckpt", wrap(state))).network.state_dict()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


def test_description_in_the_file_wins_over_recognition(tmp_path: Path) -> None:
    described = Description("edsr", {"features": 4, "blocks": 1, "res_scale": 0.5}, 4, 255.0)
    path = save_weights(tmp_path / "weights.safetensors", build_model(described))
    assert load_model(path).description == described


def test_plain_safetensors_are_recognised(model: RestorationModel, tmp_path: Path) -> None:
    save_file(model.network.state_dict(), tmp_path / "plain.safetensors")
    assert load_model(tmp_path / "plain.safetensors").description == SMALL


def test_other_state_is_saved_under_the_same_description(
    model: RestorationModel, tmp_path: Path
) -> None:
    zeros = {key: torch.zeros_like(value) for key, value in model.network.state_dict().items()}
    loaded = load_model(save_weights(tmp_path / "zeros.safetensors", model, zeros))
    assert not any(parameter.any() for parameter in loaded.parameters())


def test_failed_save_leaves_the_old_file(model: RestorationModel, tmp_path: Path) -> None:
    path = save_weights(tmp_path / "weights.safetensors", model)
    before = path.read_bytes()
    with pytest.raises(SlsError, match="missing"):
        save_weights(path, model, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("zipped", [True, False])
def test_code_is_refused_and_has_not_run(zipped: bool, tmp_path: Path) -> None:
    marker = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (marker,)

    path = tmp_path / "code.pth"
    torch.save({"conv_1.weight": Code()}, path, _use_new_zipfile_serialization=zipped)
    refused(path, "code or objects")
    assert not marker.exists()


def test_whole_module_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path / "module.pt", torch.nn.Linear(2, 2)), r"Linear.*state_dict\(\)")


def test_missing_file_is_named(tmp_path: Path) -> None:
    refused(tmp_path / "missing.pth", "no such file")


def test_folder_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "is a folder")


def test_unknown_ending_lists_those_known(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(b"weights")
    refused(tmp_path / "weights.bin", r"\.safetensors, \.pth, \.pt, \.ckpt")


@pytest.mark.parametrize("name", ["damaged.pth", "damaged.safetensors"])
@pytest.mark.parametrize("content", [b"", b"hello world\n", b"PK\x03\x04" + bytes(200)])
def test_damaged_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "cannot be read")


def test_cut_checkpoint_is_refused(model: RestorationModel, tmp_path: Path) -> None:
    path = saved(tmp_path / "cut.pth", model.network.state_dict())
    path.write_bytes(path.read_bytes()[:-1000])
    refused(path, "cannot be read")


@pytest.mark.parametrize("content", [[1, 2], {}, {"epoch": 3}, {"state_dict": {"lr": 0.1}}, 7])
def test_anything_but_a_state_dict_is_refused(content: Any, tmp_path: Path) -> None:
    refused(saved(tmp_path / "other.pth", content), "not a state dict")


def test_unknown_network_lists_those_known(tmp_path: Path) -> None:
    path = saved(tmp_path / "other.pth", {"layer.weight": torch.ones(2)})
    refused(path, r"layer\.weight.*edsr, carn, rfdn, rlfn")


def test_checkpoint_of_another_network_is_refused(model: RestorationModel, tmp_path: Path) -> None:
    path = saved(tmp_path / "rlfn.pth", model.network.state_dict())
    refused(path, "holds rlfn, not edsr", name="edsr")


def test_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SlsError, match="no network is named 'resnet'"):
        load_model(tmp_path / "missing.pth", ModelConfig(name="resnet"))


@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_scale_that_is_not_there_is_refused(
    ending: str, model: RestorationModel, tmp_path: Path
) -> None:
    path = tmp_path / f"x2.{ending}"
    if ending == "pth":
        saved(path, model.network.state_dict())
    else:
        save_weights(path, model)
    refused(path, r"no weights for x4 \(there: x2\)", scale=4)


def test_keys_that_do_not_fit_are_listed_briefly(model: RestorationModel, tmp_path: Path) -> None:
    state = model.network.state_dict()
    for key in [key for key in state if ".esa.conv3" in key or ".esa.conv2" in key]:
        del state[key]
    state["extra"] = torch.ones(1)
    state["conv_2.bias"] = torch.ones(9)
    reason = (
        "does not fit rlfn: 4 keys missing (block_1.esa.conv2.weight, block_1.esa.conv2.bias, "
        "block_1.esa.conv3.weight, ...); 1 key unexpected (extra); "
        "1 key of another shape (conv_2.bias: 9, needed 4)"
    )
    refused(saved(tmp_path / "unfit.pth", state), re.escape(reason))


@pytest.mark.parametrize("broken", [torch.ones(3), torch.ones(0, 3, 3, 3), torch.tensor(1.0)])
def test_mis_shaped_key_that_recognition_needs_is_named(
    broken: torch.Tensor, model: RestorationModel, tmp_path: Path
) -> None:
    state = {**model.network.state_dict(), "conv_1.weight": broken}
    refused(saved(tmp_path / "shape.pth", state), r"conv_1\.weight is .* 4 dimensions")


def test_filters_that_fit_no_scale_are_named(model: RestorationModel, tmp_path: Path) -> None:
    state = {**model.network.state_dict(), "upsampler.0.weight": torch.ones(16, 4, 3, 3)}
    refused(saved(tmp_path / "grey.pth", state), "16 filters, which fit no scale")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_tensor_that_is_not_finite_is_named(
    value: float, model: RestorationModel, tmp_path: Path
) -> None:
    state = model.network.state_dict()
    state["block_1.c2_r.weight"][0, 0, 0, 0] = value
    refused(saved(tmp_path / "diverged.pth", state), r"block_1\.c2_r\.weight holds NaN or inf")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, dtype=torch.complex64),
        torch.ones(2, device="meta"),
    ],
)
def test_tensor_without_real_values_is_named(tensor: torch.Tensor, tmp_path: Path) -> None:
    refused(saved(tmp_path / "kind.pth", {"conv_1.bias": tensor}), r"conv_1\.bias is a tensor")


@pytest.mark.parametrize(
    "text", ["{", "[]", '{"name": "edsr"}', '{"name":[],"options":{},"scale":2,"input_range":1}']
)
def test_description_that_is_none_is_refused(text: str, tmp_path: Path) -> None:
    save_file({"a": torch.ones(1)}, tmp_path / "odd.safetensors", {"description": text})
    refused(tmp_path / "odd.safetensors", "description of the network is not understood")


def test_options_that_the_network_lacks_are_refused() -> None:
    with pytest.raises(SlsError, match="cannot build edsr"):
        build_model(Description("edsr", {"depth": 3}, 2, 1.0))
