"""Every network passes the same tests."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

from sls_deploy.config import ModelConfig
from sls_deploy.models.model import build_model, load_model, save_weights
from sls_deploy.models.registry import REGISTRY, Description


def picture(*shape: int) -> torch.Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def fitting(description: Description, *shape: int) -> torch.Tensor:
    """A picture of the next larger sides that the network takes."""
    *first, height, width = shape
    sides = (-(-side // description.multiple) * description.multiple for side in (height, width))
    return picture(*first, *sides)


def test_recognised_from_keys_and_shapes(description: Description) -> None:
    state = build_model(description).network.state_dict()
    assert REGISTRY.recognise(state) == description


def test_saved_and_loaded_gives_the_same_output(description: Description, tmp_path: Path) -> None:
    model = build_model(description).eval()
    loaded = load_model(save_weights(tmp_path / "weights.safetensors", model))
    x = fitting(description, 1, 3, 20, 24)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))
    assert loaded.description == description
    assert not loaded.training


def test_bare_state_dict_gives_the_same_output(description: Description, tmp_path: Path) -> None:
    model = build_model(description).eval()
    torch.save(model.network.state_dict(), tmp_path / "weights.pth")
    wanted = ModelConfig(name=description.name, scale=description.scale)
    loaded = load_model(tmp_path / "weights.pth", wanted)
    x = fitting(description, 1, 3, 20, 24)
    with torch.inference_mode():
        assert torch.equal(loaded(x), model(x))


def test_half_precision_weights_load_as_float32(description: Description, tmp_path: Path) -> None:
    model = build_model(description)
    halves = {key: tensor.half() for key, tensor in model.network.state_dict().items()}
    torch.save(halves, tmp_path / "weights.pth")
    loaded = load_model(tmp_path / "weights.pth")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}


@pytest.mark.parametrize("shape", [(1, 3, 15, 15), (2, 3, 17, 31), (3, 3, 33, 16)])
def test_any_size_is_multiplied_by_the_scale(
    description: Description, shape: tuple[int, int, int, int]
) -> None:
    x, scale = fitting(description, *shape), description.scale
    with torch.inference_mode():
        output = build_model(description)(x)
    assert output.shape == (*shape[:2], x.shape[2] * scale, x.shape[3] * scale)


def test_least_side_is_the_least(description: Description) -> None:
    model, side = build_model(description), description.least_side
    with torch.inference_mode():
        assert model(picture(1, 3, side, side)).shape[2] == side * description.scale
        with pytest.raises(RuntimeError):
            model(picture(1, 3, side - 1, side))


def test_picture_does_not_depend_on_its_batch(description: Description) -> None:
    model = build_model(description).eval()
    x = fitting(description, 2, 3, 19, 23)
    with torch.inference_mode():
        alone, together = model(x[1:]), model(x)[1:]
    torch.testing.assert_close(alone, together, rtol=1e-5, atol=1e-5)


def test_all_but_the_mean_shift_is_trained(description: Description, tmp_path: Path) -> None:
    model = load_model(save_weights(tmp_path / "weights.safetensors", build_model(description)))
    model(fitting(description, 1, 3, 16, 16)).square().mean().backward()
    without = {name for name, parameter in model.named_parameters() if parameter.grad is None}
    assert without == {name for name, _ in model.named_parameters() if "_mean." in name}


def test_traced_by_fx(description: Description) -> None:
    model = build_model(description).eval()
    traced = torch.fx.symbolic_trace(model)
    for shape in ((1, 3, 16, 16), (2, 3, 21, 17)):
        x = fitting(description, *shape)
        with torch.inference_mode():
            assert torch.equal(traced(x), model(x))


# PyTorch's own exporter warns of its own deprecated call. One form of each network: it is slow.
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
@pytest.mark.parametrize(
    "description",
    [
        # tests/export/test_networks.py compares these four at other sizes too.
        pytest.param("edsr_x2", marks=pytest.mark.slow),
        pytest.param("carn_m_x3", marks=pytest.mark.slow),
        pytest.param("rfdn_x4", marks=pytest.mark.slow),
        pytest.param("rlfn_x2", marks=pytest.mark.slow),
        pytest.param("dmphn_1_2_4", marks=pytest.mark.slow),
        pytest.param("srn", marks=pytest.mark.slow),
        "unet",
    ],
    indirect=True,
)
def test_exported_graph_runs_at_other_sizes(description: Description) -> None:
    model = build_model(description).eval()
    dynamic = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        model,
        (fitting(description, 2, 3, 24, 40),),
        dynamo=True,
        dynamic_shapes=({0: dynamic, 2: dynamic, 3: dynamic},),
        verbose=False,
    )
    assert program is not None
    graph = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    for shape in ((1, 3, 16, 16), (3, 3, 17, 41)):
        x = fitting(description, *shape)
        with torch.inference_mode():
            expected = model(x)
        output = torch.from_numpy(session.run(None, {name: x.numpy()})[0])
        torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-4)
