"""Networks of users' own: their files, what is found out about them, and their weights."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from sls_deploy.config import ModelConfig
from sls_deploy.errors import SlsError
from sls_deploy.models.architecture import Description, StateDict
from sls_deploy.models.model import RestorationModel, find_architecture, load_model, save_weights
from sls_deploy.models.own import code_hash

HEAD = """
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, spectral_norm, weight_norm

def conv(inputs=3, outputs=3, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1)
"""
PLAIN = """
class Net(nn.Module):
    def __init__(self, features=4, scale=2):
        super().__init__()
        self.head, self.norm = conv(3, features), nn.BatchNorm2d(features)
        self.tail = conv(features, 3 * scale**2)
        self.scale = scale

    def forward(self, x):
        return F.pixel_shuffle(self.tail(F.relu(self.norm(self.head(x)))), self.scale)

def make(features=4, scale=2):
    return Net(features, scale)
"""
FORM = "path/to/file.py:factory"


def wanted(tmp_path: Path, text: str = PLAIN, factory: str = "make", **more: Any) -> ModelConfig:
    """The settings for a factory in a file of that text."""
    path = tmp_path / "net.py"
    path.write_text(HEAD + textwrap.dedent(text))
    return ModelConfig(name=f"{path}:{factory}", **more)


def line(config: ModelConfig, text: str) -> str:
    """File and line, as an error names them, of the line that holds a text."""
    path = Path(config.name.rpartition(":")[0])
    lines = path.read_text().splitlines()
    return f"{path}:{next(at for at, each in enumerate(lines, 1) if text in each)}: "


def forward(body: str, init: str = "self.c = conv()") -> str:
    """A file with a network of one convolution, `self.c`."""
    return f"""
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        {init}

    def forward(self, x):
        {body}

make = Net
"""


def built(config: ModelConfig) -> torch.nn.Module:
    """The raw network, with weights that differ between places."""
    network = find_architecture(config).build(**config.options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in network.parameters():
            parameter.data = torch.randn(parameter.shape) / 4
    return network.eval()


def described(config: ModelConfig) -> Description:
    network = find_architecture(config)
    found = network.recognise({}, None)
    assert found is not None
    return found


def saved(path: Path, content: Any) -> Path:
    torch.save(content, path)
    return path


def picture(channels: int = 3, side: int = 16) -> torch.Tensor:
    shape = (2, channels, side, side)
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def output(model: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return model(x)  # type: ignore[no-any-return]


def test_network_in_a_file_loads_saves_and_loads(tmp_path: Path) -> None:
    config = wanted(tmp_path)
    network = built(config)
    model = load_model(saved(tmp_path / "a.pth", network.state_dict()), config)
    assert model.description == Description("net.py:make", {}, 2, 1.0)
    assert torch.equal(output(model, picture()), output(network, picture()))
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    assert again.description == model.description
    assert torch.equal(output(again, picture()), output(model, picture()))


def test_options_are_given_and_kept(tmp_path: Path) -> None:
    config = wanted(tmp_path, options={"features": 6, "scale": 3})
    path = saved(tmp_path / "a.pth", built(config).state_dict())
    model = load_model(path, config)
    assert model.description == Description("net.py:make", config.options, 3, 1.0)
    kept = save_weights(tmp_path / "a.safetensors", model)
    plain = ModelConfig(name=config.name)
    assert load_model(kept, plain).network.get_parameter("head.weight").shape[0] == 6


def test_range_of_255_is_kept(tmp_path: Path) -> None:
    config = wanted(tmp_path, input_range=255)
    network = built(config)
    model = load_model(saved(tmp_path / "a.pth", network.state_dict()), config)
    expected = output(network, picture() * 255) / 255
    torch.testing.assert_close(output(model, picture()), expected)


@pytest.mark.parametrize(
    ("text", "factory", "reason"),
    [
        ("def one():\n  pass\nclass Two:\n  pass\n", "make", "no factory make (there: conv, one,"),
        ("make = 3\n", "make", "has no factory make (there: conv)"),
    ],
)
def test_missing_factory_lists_those_there(
    text: str, factory: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SlsError, match=re.escape(reason)) as caught:
        find_architecture(wanted(tmp_path, text, factory))
    assert caught.value.where == str(tmp_path / "net.py")
    assert FORM in caught.value.fix


@pytest.mark.parametrize(
    ("name", "reason"),
    [("gone.py:make", "no such file"), ("net.py", "names no factory"), ("net.py:", "no factory")],
)
def test_name_of_another_form_says_the_form(name: str, reason: str) -> None:
    with pytest.raises(SlsError, match=reason) as caught:
        load_model(Path("a.pth"), ModelConfig(name=name))
    assert FORM in caught.value.fix


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("raise OSError('no disk')  # here", "cannot be run (OSError: no disk)"),
        ("import no_such_module  # here", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("def make(:  # here", "cannot be run (SyntaxError: invalid syntax"),
        ("if True:\nmake = 1  # here", "cannot be run (IndentationError: expected an indented"),
        ("raise SystemExit(3)  # here", "cannot be run (SystemExit: 3)"),
    ],
)
def test_file_that_raises_is_named_with_its_line(text: str, reason: str, tmp_path: Path) -> None:
    config = wanted(tmp_path, text)
    with pytest.raises(SlsError, match=re.escape(reason)) as caught:
        find_architecture(config)
    assert str(caught.value).startswith(line(config, "# here"))


@pytest.mark.parametrize(
    ("text", "options", "reason"),
    [
        ("def make():\n    raise ValueError('odd')  # here", {}, "make() raised ValueError: odd"),
        ("def make(a):\n    return [][a]  # here", {"a": 1}, "make(a=1) raised IndexError"),
        ("def make():\n    exit(1)  # here", {}, "make() raised SystemExit"),
    ],
)
def test_factory_that_raises_is_named_with_its_line(
    text: str, options: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    config = wanted(tmp_path, text, options=options)
    with pytest.raises(SlsError, match=re.escape(reason)) as caught:
        described(config)
    assert str(caught.value).startswith(line(config, "# here"))


def test_option_that_the_factory_lacks_is_named(tmp_path: Path) -> None:
    reason = r"make\(depth=3\) raised TypeError: .*'depth'.*model\.options"
    with pytest.raises(SlsError, match=reason):
        described(wanted(tmp_path, options={"depth": 3}))


def test_factory_that_makes_no_module_is_refused(tmp_path: Path) -> None:
    config = wanted(tmp_path, "def make():\n    return 3\n")
    with pytest.raises(SlsError, match=r"make\(\) returned a int, not a torch\.nn\.Module"):
        described(config)


def test_weights_that_do_not_fit_are_listed_briefly(tmp_path: Path) -> None:
    config = wanted(tmp_path)
    state = built(config).state_dict()
    for key in [key for key in state if key.startswith("norm.")]:
        del state[key]
    state |= {"extra": torch.ones(1), "tail.bias": torch.ones(5)}
    reason = (
        "a.pth: does not fit net.py:make: 5 keys missing (norm.weight, norm.bias, "
        "norm.running_mean, ...); 1 key unexpected (extra); "
        "1 key of another shape (tail.bias: 5, needed 12)"
    )
    with pytest.raises(SlsError, match=re.escape(reason)):
        load_model(saved(tmp_path / "a.pth", state), config)


def test_weights_with_nan_are_refused(tmp_path: Path) -> None:
    config = wanted(tmp_path)
    state = built(config).state_dict()
    state["tail.weight"][0, 0, 0, 0] = float("nan")
    with pytest.raises(SlsError, match=r"tail\.weight holds NaN"):
        load_model(saved(tmp_path / "a.pth", state), config)


@pytest.mark.parametrize(
    ("body", "init", "reason"),
    [
        (
            "return self.c(x)",
            "self.c = conv(1, 3)",
            r"cannot take .* 3 channels and 64x64 .*1 chan",
        ),
        ("return self.c(x)", "self.c = conv(4, 3)", r"cannot take .* 3 channels .*RGB"),
        ("return self.c(x)", "self.c = conv(3, 1)", r"no picture of 3 channels \(1x1x64x64\)"),
        ("return self.c(x)", "self.c = conv(3, 4)", r"no picture of 3 channels \(1x4x64x64\)"),
        ("return self.c(x).mean()", "self.c = conv()", "gives no picture"),
        ("return 'text'", "self.c = conv()", r"gives no picture of 3 channels \(str\)"),
        ("return self.c(x)", "self.c = conv(3, 3, 2)", "makes 32x32 of a picture of 64x64"),
        ("return self.c(x)[..., 1:]", "self.c = conv()", "makes 64x63 of a picture of 64x64"),
    ],
)
def test_network_that_is_none_for_pictures_is_refused(
    body: str, init: str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SlsError, match=reason):
        described(wanted(tmp_path, forward(body, init)))


LIST = "y = self.c(x); return [y[:, :, ::2, ::2], y, y + 1]"
DICT = "y = self.c(x); return {'half': y[:, :, ::2, ::2], 'deep': {}, 'out': y, 'mask': y[:, :1]}"


@pytest.mark.parametrize(
    ("body", "asked", "found", "scale"),
    [
        ("return self.c(x)", None, None, 1),
        (LIST, None, 1, 1),
        (LIST, 2, 2, 1),
        (DICT, None, "out", 1),
        (DICT, "out", "out", 1),
        ("return self.c(x), 3, None", None, 0, 1),
    ],
)
def test_picture_among_several_outputs_is_found(
    body: str, asked: int | str | None, found: int | str | None, scale: int, tmp_path: Path
) -> None:
    config = wanted(tmp_path, forward(body), output=asked)
    network = built(config)
    model = load_model(saved(tmp_path / "a.pth", network.state_dict()), config)
    assert (model.description.output, model.description.scale) == (found, scale)
    whole = output(network, picture())
    assert torch.equal(output(model, picture()), whole if found is None else whole[found])
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    assert again.description == model.description


@pytest.mark.parametrize(
    ("body", "asked", "reason"),
    [
        (LIST, 5, r"returns nothing at 5 \(there: 0, 1, 2\)"),
        (DICT, "mask", "gives no picture of 3 channels"),
        (DICT, "other", r"nothing at 'other' \(there: 'half', 'out', 'mask'\)"),
        ("return self.c(x)", 0, r"nothing at 0 \(there: one tensor\)"),
    ],
)
def test_output_that_is_no_picture_is_refused(
    body: str, asked: int | str, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(SlsError, match=reason):
        described(wanted(tmp_path, forward(body), output=asked))


@pytest.mark.parametrize(
    ("layout", "arguments", "body"),
    [
        ("stacked", "x", "return self.c(x)"),
        ("sequence", "x", "b, t, c, h, w = x.shape; return self.c(x.reshape(b, t * c, h, w))"),
        ("separate", "a, b, c", "return self.c(torch.cat([a, b, c], dim=1))"),
    ],
)
def test_several_frames_are_given_as_the_network_takes_them(
    layout: str, arguments: str, body: str, tmp_path: Path
) -> None:
    text = forward(body, "self.c = conv(9)").replace("(self, x)", f"(self, {arguments})")
    config = wanted(tmp_path, text, frames=3)
    network = built(config)
    model = load_model(saved(tmp_path / "a.pth", network.state_dict()), config)
    assert (model.description.layout, model.description.frames) == (layout, 3)
    convolution: Any = network.get_submodule("c")
    expected = output(convolution, picture(9))
    assert torch.equal(output(model, picture(9)), expected)
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    assert torch.equal(output(again, picture(9)), expected)


U_SHAPED = """
class Net(nn.Module):
    def __init__(self, halvings=3):
        super().__init__()
        self.down = nn.ModuleList(conv(3, 3, 2) for _ in range(halvings))
        self.up = nn.ModuleList(nn.ConvTranspose2d(3, 3, 2, 2) for _ in range(halvings))

    def forward(self, x):
        shortcuts = []
        for down in self.down:
            shortcuts.append(x)
            x = down(x)
        for up in self.up:
            x = up(x) + shortcuts.pop()
        return x

make = Net
"""


@pytest.mark.parametrize(
    ("text", "options", "scale", "multiple", "least"),
    [
        (PLAIN, {"scale": 4}, 4, 1, 1),
        (U_SHAPED, {}, 1, 8, 8),
        (U_SHAPED, {"halvings": 5}, 1, 32, 32),
        (forward("return self.c(F.pad(x, [6] * 4, 'reflect'))[..., 6:-6, 6:-6]"), {}, 1, 1, 7),
        (forward("return F.interpolate(self.c(x), scale_factor=3)"), {}, 3, 1, 1),
    ],
)
def test_scale_and_sides_are_found(
    text: str, options: dict[str, Any], scale: int, multiple: int, least: int, tmp_path: Path
) -> None:
    about = described(wanted(tmp_path, text, options=options))
    assert (about.scale, about.multiple, about.least_side) == (scale, multiple, least)


def prefixed(prefix: str, state: StateDict) -> dict[str, torch.Tensor]:
    return {f"{prefix}{key}": tensor for key, tensor in state.items()}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"params_ema": state, "params": state},
        lambda state: {"generator": state, "discriminator": {}},
        lambda state: {"model": {"state_dict": state}},
        lambda state: prefixed("module.", state),
        lambda state: prefixed("_orig_mod.", state),
        lambda state: prefixed("_orig_mod.module.", state),
        lambda state: prefixed("module._orig_mod.", state),
        lambda state: {"state_dict": prefixed("model.", state)},
        lambda state: {"state_dict": prefixed("model._orig_mod.", state)},
    ],
)
def test_nestings_load(wrap: Callable[[StateDict], Any], tmp_path: Path) -> None:
    config = wanted(tmp_path)
    state = built(config).state_dict()
    loaded = load_model(saved(tmp_path / "a.ckpt", wrap(state)), config).network.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], state[key]) for key in state)


@pytest.mark.parametrize("prefix", ["", "model.", "net."])
def test_network_whose_keys_all_begin_alike_loads(prefix: str, tmp_path: Path) -> None:
    config = wanted(tmp_path, forward("return self.model(x)", "self.model = conv()"))
    state = built(config).state_dict()
    loaded = load_model(saved(tmp_path / "a.pth", prefixed(prefix, state)), config)
    assert torch.equal(loaded.network.state_dict()["model.weight"], state["model.weight"])


def test_whole_numbers_stay_whole(tmp_path: Path) -> None:
    config = wanted(tmp_path)
    network = built(config)
    network.get_buffer("norm.num_batches_tracked").fill_(7)
    model = load_model(saved(tmp_path / "a.pth", network.half().state_dict()), config)
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    for each in (model, again):
        count = each.network.get_buffer("norm.num_batches_tracked")
        assert (count.dtype, int(count)) == (torch.int64, 7)
        assert each.network.get_buffer("norm.running_var").dtype == torch.float32


def test_module_with_two_names_is_saved(tmp_path: Path) -> None:
    init = "self.a = conv(); self.b = self.a"
    config = wanted(tmp_path, forward("return self.b(self.a(x))", init))
    model = load_model(saved(tmp_path / "a.pth", built(config).state_dict()), config)
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    assert torch.equal(output(again, picture()), output(model, picture()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "norm",
    [
        "weight_norm",
        "spectral_norm",
        "parametrizations.weight_norm",
        "parametrizations.spectral_norm",
    ],
)
def test_weights_computed_from_others_are_folded(norm: str, tmp_path: Path) -> None:
    init = f"self.c = nn.Sequential({norm}(conv()), conv())"
    config = wanted(tmp_path, forward("return self.c(x)", init))
    network = built(config)
    raw = saved(tmp_path / "a.pth", {"params": network.state_dict()})
    model = load_model(raw, config)
    keys = {"c.0.weight", "c.0.bias", "c.1.weight", "c.1.bias"}
    assert model.network.state_dict().keys() == keys
    torch.testing.assert_close(output(model, picture()), output(network, picture()))
    again = load_model(save_weights(tmp_path / "a.safetensors", model), config)
    assert torch.equal(output(again, picture()), output(model, picture()))
    weight = again.network.get_parameter("c.0.weight")
    again(picture()).sum().backward()
    assert weight.grad is not None


COUNTED = """
with open(__file__ + ".runs", "a") as file:
    file.write("x")
"""


def runs(tmp_path: Path) -> int:
    path = tmp_path / "net.py.runs"
    return len(path.read_text()) if path.exists() else 0


def test_file_runs_once(tmp_path: Path) -> None:
    config = wanted(tmp_path, COUNTED + PLAIN)
    path = saved(tmp_path / "a.pth", built(config).state_dict())
    load_model(path, config)
    load_model(path, config)
    assert runs(tmp_path) == 1


def test_changed_file_runs_again(tmp_path: Path) -> None:
    assert described(wanted(tmp_path)).scale == 2
    assert described(wanted(tmp_path, PLAIN.replace("scale=2", "scale=3"))).scale == 3


def own_weights(tmp_path: Path) -> tuple[RestorationModel, Path]:
    config = wanted(tmp_path, COUNTED + PLAIN)
    path = saved(tmp_path / "a.pth", built(config).state_dict())
    model = load_model(path, config)
    return model, save_weights(tmp_path / "a.safetensors", model)


@pytest.mark.parametrize("name", ["auto", "rlfn"])
def test_weights_alone_never_run_a_file(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, path = own_weights(tmp_path)
    monkeypatch.chdir(tmp_path)
    # Another text, so that the file would have to run.
    (tmp_path / "net.py").write_text(COUNTED + HEAD + PLAIN)
    reason = r"is of a network of your own, net\.py:make\. Name it: --model path/to/net\.py:make"
    with pytest.raises(SlsError, match=reason):
        load_model(path, ModelConfig(name=name))
    assert runs(tmp_path) == 1


def test_weights_hold_no_folder(tmp_path: Path) -> None:
    model, path = own_weights(tmp_path)
    assert model.description.name == "net.py:make"
    assert str(tmp_path).encode() not in path.read_bytes()


def test_weights_of_another_factory_are_refused(tmp_path: Path) -> None:
    _, path = own_weights(tmp_path)
    other = wanted(tmp_path, PLAIN + "\nother = make\n", "other")
    with pytest.raises(SlsError, match=r"of a network of your own, net\.py:make"):
        load_model(path, other)


def test_file_imports_what_lies_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own_blocks_beside.py").write_text(HEAD + PLAIN)
    config = wanted(tmp_path, "from own_blocks_beside import make")
    assert described(config).scale == 2


def test_settings_that_contradict_the_file_are_refused(tmp_path: Path) -> None:
    config = wanted(tmp_path, options={"features": 6})
    model = built(config)
    path = save_weights(tmp_path / "own.safetensors", RestorationModel(model, described(config)))
    assert load_model(path, ModelConfig(name=config.name)).description.options == {"features": 6}
    for told in ({"options": {"features": 8}}, {"input_range": 255}, {"output": "x"}):
        with pytest.raises(SlsError, match=f"was written with {next(iter(told))} "):
            load_model(path, ModelConfig(name=config.name, **told))


def test_settings_may_say_more_than_the_file(tmp_path: Path) -> None:
    config = wanted(tmp_path)
    model = RestorationModel(built(config), described(config))
    path = save_weights(tmp_path / "own.safetensors", model)
    more = ModelConfig(name=config.name, options={"features": 4, "scale": 2})
    assert load_model(path, more).description.options == {"features": 4, "scale": 2}


def test_text_for_the_factory_is_taken_from_the_settings_only(tmp_path: Path) -> None:
    text = """
    def make(weights="none"):
        return nn.Sequential(conv(), nn.ReLU(), conv())
    """
    config = wanted(tmp_path, text, options={"weights": "a.pth"})
    path = save_weights(
        tmp_path / "own.safetensors", RestorationModel(built(config), described(config))
    )
    assert load_model(path, config).description.options == {"weights": "a.pth"}
    with pytest.raises(SlsError, match="has the option weights, which is no number"):
        load_model(path, ModelConfig(name=config.name))


def test_multiples_need_not_be_powers_of_two(tmp_path: Path) -> None:
    text = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.c = conv()

        def forward(self, x):
            n, c, h, w = x.shape
            return self.c(x).view(n, c, h // 12, 12, w // 12, 12).reshape(x.shape)

    def make():
        return Net()
    """
    found = described(wanted(tmp_path, text))
    assert (found.multiple, found.least_side) == (12, 12)


def test_hash_of_the_code_covers_what_it_imports(tmp_path: Path) -> None:
    (tmp_path / "blocks_beside.py").write_text("WIDTH = 4\n")
    config = wanted(tmp_path, "import blocks_beside\n" + textwrap.dedent(PLAIN))
    before = code_hash(config.name)
    (tmp_path / "blocks_beside.py").write_text("WIDTH = 5\n")
    assert code_hash(config.name) != before
    assert code_hash("rlfn") == ""
