"""Tiny networks, one for each kind of operation that networks of users' own may hold.

All have fixed random weights, a few thousand of them, and restore pictures at x1 or x2.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import weight_norm as hooked_weight_norm
from torch.nn.utils.parametrizations import weight_norm

from sls_deploy.config import ModelConfig
from sls_deploy.models.fold import fold
from sls_deploy.models.probe import probe
from sls_deploy.models.restoration import RestorationModel

WIDTH = 16


@dataclass(frozen=True)
class Entry:
    """One network of the zoo."""

    make: Callable[[], nn.Module]
    """Makes it with fresh weights."""
    config: ModelConfig = field(default_factory=ModelConfig)
    """What a user would have to say of it."""


def zoo_model(name: str) -> RestorationModel:
    """A network of the zoo as `load_model` would give it, always with the same weights."""
    entry = ZOO[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of the hooks of weight_norm
        torch.manual_seed(0)
        network = entry.make().eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                _pretend_trained(module)
    model = RestorationModel(network, probe(network, name, entry.config))
    fold(network)
    return model.eval()


def _pretend_trained(norm: nn.BatchNorm2d) -> None:
    """Give a batch normalisation statistics and factors, some of them negative."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    nn.init.normal_(norm.running_mean, 0, 0.2)
    nn.init.uniform_(norm.running_var, 0.1, 2)
    norm.num_batches_tracked.fill_(1000)
    if norm.affine:
        nn.init.normal_(norm.weight, 0.5, 0.5)
        nn.init.normal_(norm.bias, 0, 0.2)


def conv(inputs: int = WIDTH, outputs: int = WIDTH, side: int = 3, **options: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, side, padding=side // 2, **options)


class Residual(nn.Module):
    """A picture plus what layers make of it, between an entry and an exit convolution."""

    def __init__(self, *body: nn.Module, width: int = WIDTH) -> None:
        super().__init__()
        self.entry = conv(3, width)
        self.body = nn.Sequential(*body)
        self.exit = conv(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.exit(self.body(self.entry(x)))


class PreLU(Residual):
    def __init__(self) -> None:
        super().__init__(nn.PReLU(WIDTH), conv(), nn.PReLU(), conv(), nn.LeakyReLU(0.1))


class BatchNorm(nn.Module):
    """Normalisations behind a convolution, before one, and behind one that is used twice."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = nn.Sequential(conv(3), nn.BatchNorm2d(WIDTH), nn.ReLU())
        self.bare = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False)
        self.bare_norm = nn.BatchNorm2d(WIDTH)
        self.before = nn.BatchNorm2d(WIDTH)
        self.twice = conv()
        self.twice_norm = nn.BatchNorm2d(WIDTH, affine=False)
        self.grouped = nn.Sequential(conv(groups=4), nn.BatchNorm2d(WIDTH))
        self.up = nn.ConvTranspose2d(WIDTH, 8, 2, stride=2, groups=2)
        self.up_norm = nn.BatchNorm2d(8)
        self.exit = conv(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.entry(x)
        out = out + F.relu(self.bare_norm(self.bare(out)))
        out = self.twice(F.relu(self.before(out)))
        out = self.grouped(out + self.twice_norm(out))
        return self.exit(F.relu(self.up_norm(self.up(out))))  # type: ignore[no-any-return]


class Shuffle(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = conv(3), conv(WIDTH, 12)

    def forward(self, x: Tensor) -> Tensor:
        return F.pixel_shuffle(self.exit(F.relu(self.entry(x))), 2)


class Unshuffle(nn.Module):
    """Works at half the sides."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.PixelUnshuffle(2)
        self.entry, self.middle, self.exit = conv(12, 8), conv(32, WIDTH), conv(WIDTH, 48)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.entry(self.down(x)))
        out = F.relu(self.middle(F.pixel_unshuffle(out, 2)))
        return x + F.pixel_shuffle(self.exit(out), 4)


class Upsample(nn.Module):
    """Up-scales its features, and the picture in another way."""

    def __init__(self, mode: str) -> None:
        super().__init__()
        aligned = {} if mode == "nearest" else {"align_corners": False}
        self.up = nn.Upsample(scale_factor=2, mode=mode, **aligned)
        self.entry, self.exit = conv(3), conv(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        base = F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=False)
        return base + self.exit(self.up(F.relu(self.entry(x))))


class ResizeLike(nn.Module):
    """Resizes to the size of another tensor, whatever that is."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.small, self.least = conv(3), conv(stride=2), conv(stride=2)
        self.exit = conv(3 * WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.entry(x))
        small = F.relu(self.small(out))
        least = F.max_pool2d(F.relu(self.least(small)), 3, stride=2, padding=1)
        size = out.shape[-2:]
        back = F.interpolate(small, size=size, mode="bilinear", align_corners=False)
        nearest = F.interpolate(least, size=(size[0], size[1]), mode="nearest")
        return x + self.exit(torch.cat([out, back, nearest], 1))


class SqueezeLinear(nn.Module):
    """Channel attention with linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze, self.excite = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels = x.shape[:2]
        weight = F.adaptive_avg_pool2d(x, 1).view(batch, channels)
        weight = torch.sigmoid(self.excite(F.relu(self.squeeze(weight))))
        return x * weight.view(batch, channels, 1, 1)


class SqueezeConv(nn.Module):
    """Channel attention with 1x1 convolutions, as in RCAN."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            conv(WIDTH, 8, 1),
            nn.ReLU(inplace=True),
            conv(8, WIDTH, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.attention(x)  # type: ignore[no-any-return]


class SpatialAttention(nn.Module):
    """Weighs places by the mean and the largest of their channels, as in CBAM."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Conv2d(2, 1, 7, padding=3)

    def forward(self, x: Tensor) -> Tensor:
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return x * torch.sigmoid(self.look(seen))


class EfficientAttention(nn.Module):
    """Channel attention with a convolution over the channels, as in ECA."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv1d(1, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.mix(x.mean((2, 3)).unsqueeze(1)).squeeze(1)
        return x * torch.sigmoid(weight)[..., None, None]


class Sequence1d(nn.Module):
    """Convolutions along the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.row = nn.Conv1d(WIDTH, WIDTH, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        rows = x.permute(0, 2, 1, 3).reshape(batch * height, channels, width)
        rows = self.row(rows).reshape(batch, height, channels, width)
        return x + rows.permute(0, 2, 1, 3)


class LayerNormLast(nn.Module):
    """Normalises channels that it moves last, and mixes them there, as in ConvNeXt."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(WIDTH)
        self.widen, self.back = nn.Linear(WIDTH, 2 * WIDTH), nn.Linear(2 * WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm(x.permute(0, 2, 3, 1))
        return x + self.back(F.gelu(self.widen(out))).permute(0, 3, 1, 2)


class LayerNormFirst(nn.Module):
    """Normalises channels where they are, as in NAFNet."""

    def __init__(self, width: int = WIDTH) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.rand(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean(1, keepdim=True)
        variance = (x - mean).pow(2).mean(1, keepdim=True)
        out = (x - mean) / (variance + 1e-6).sqrt()
        return out * self.weight.view(1, -1, 1, 1) + self.bias.view(1, -1, 1, 1)


class GateBlock(nn.Module):
    """A block of NAFNet: simple gates and simplified channel attention."""

    def __init__(self) -> None:
        super().__init__()
        self.first_norm, self.second_norm = LayerNormFirst(), LayerNormFirst()
        self.widen, self.narrow = conv(WIDTH, 2 * WIDTH, 1), conv(WIDTH, WIDTH, 1)
        self.depthwise = conv(2 * WIDTH, 2 * WIDTH, groups=2 * WIDTH)
        self.attention = nn.Sequential(nn.AdaptiveAvgPool2d(1), conv(WIDTH, WIDTH, 1))
        self.forth, self.back = conv(WIDTH, 2 * WIDTH, 1), conv(WIDTH, WIDTH, 1)
        self.beta = nn.Parameter(torch.full((1, WIDTH, 1, 1), 0.5))
        self.gamma = nn.Parameter(torch.full((1, WIDTH, 1, 1), 0.5))

    @staticmethod
    def gate(x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * second

    def forward(self, x: Tensor) -> Tensor:
        out = self.gate(self.depthwise(self.widen(self.first_norm(x))))
        x = x + self.narrow(out * self.attention(out)) * self.beta
        return x + self.back(self.gate(self.forth(self.second_norm(x)))) * self.gamma


class WindowAttention(nn.Module):
    """Attention inside windows, as in SwinIR, and shifted windows on request."""

    relative: Tensor

    def __init__(self, *, shifted: bool = False, side: int = 4, heads: int = 2) -> None:
        super().__init__()
        self.side, self.heads, self.shift = side, heads, side // 2 if shifted else 0
        self.norm = nn.LayerNorm(WIDTH)
        self.qkv, self.project = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.bias = nn.Parameter(torch.randn((2 * side - 1) ** 2, heads) * 0.02)
        at = torch.cartesian_prod(torch.arange(side), torch.arange(side))
        apart = at[:, None] - at[None] + side - 1
        self.register_buffer("relative", apart[..., 0] * (2 * side - 1) + apart[..., 1])

    def attend(self, windows: Tensor, mask: Tensor | None) -> Tensor:
        """Windows as [windows, places, channels]."""
        count, places, channels = windows.shape
        qkv = self.qkv(windows).reshape(count, places, 3, self.heads, channels // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        scores = q * (channels // self.heads) ** -0.5 @ k.transpose(-2, -1)
        bias = self.bias[self.relative.view(-1)].view(places, places, self.heads)
        scores = scores + bias.permute(2, 0, 1)[None]
        if mask is not None:
            each = mask.shape[0]
            scores = scores.view(count // each, each, self.heads, places, places)
            scores = (scores + mask[None, :, None]).view(-1, self.heads, places, places)
        out = scores.softmax(-1) @ v
        return self.project(out.transpose(1, 2).reshape(count, places, channels))  # type: ignore[no-any-return]

    def cut(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        side = self.side
        x = x.view(batch, height // side, side, width // side, side, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, side * side, channels)

    def join(self, windows: Tensor, height: int, width: int) -> Tensor:
        side = self.side
        x = windows.view(-1, height // side, width // side, side, side, windows.shape[-1])
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, height, width, windows.shape[-1])

    def mask(self, x: Tensor) -> Tensor | None:
        """Keeps places apart that shifting brought together."""
        if not self.shift:
            return None
        regions = torch.zeros(1, x.shape[1], x.shape[2], 1)
        cuts = (slice(0, -self.side), slice(-self.side, -self.shift), slice(-self.shift, None))
        for index, (rows, columns) in enumerate((a, b) for a in cuts for b in cuts):
            regions[:, rows, columns] = index
        places = self.cut(regions).squeeze(-1)
        apart = places[:, None] - places[:, :, None]
        return apart.masked_fill(apart != 0, -100.0)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[2:]
        right, bottom = -width % self.side, -height % self.side
        padded = F.pad(x, (0, right, 0, bottom), "reflect").permute(0, 2, 3, 1)
        out = self.norm(padded)
        if self.shift:
            out = torch.roll(out, (-self.shift, -self.shift), (1, 2))
        out = self.attend(self.cut(out), self.mask(out))
        out = self.join(out, height + bottom, width + right)
        if self.shift:
            out = torch.roll(out, (self.shift, self.shift), (1, 2))
        return x + out.permute(0, 3, 1, 2)[:, :, :height, :width]


class CountedWindows(WindowAttention):
    """Counts pictures in floating point, as the code of Swin and SwinIR does."""

    def join(self, windows: Tensor, height: int, width: int) -> Tensor:
        side = self.side
        batch = int(windows.shape[0] / (height * width / side / side))
        x = windows.view(batch, height // side, width // side, side, side, -1)
        return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(batch, height, width, -1)


class TwoNames(nn.Module):
    """One convolution that stands in two places."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.exit = conv(3), conv(WIDTH, 3)
        self.first = self.again = conv()

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.first(self.entry(x)))
        return x + self.exit(self.again(out))


class InPlace(nn.Module):
    """Activations in place, behind the picture's layers and behind those of another output."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.body, self.exit = conv(3), conv(), conv(WIDTH, 3)
        self.other = nn.Sequential(conv(), nn.ReLU(inplace=True), conv(WIDTH, 3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        out = self.entry(x)
        F.leaky_relu_(out, 0.1)
        body = self.body(out)
        body.view(x.shape[0], -1).clamp_(-2, 2)
        return x + self.exit(body), self.other(out)


class ChannelTransformer(nn.Module):
    """Attention between channels, as in Restormer."""

    def __init__(self, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.temperature = nn.Parameter(torch.ones(heads, 1, 1))
        self.qkv = nn.Conv2d(WIDTH, 3 * WIDTH, 1, bias=False)
        self.depthwise = conv(3 * WIDTH, 3 * WIDTH, groups=3 * WIDTH)
        self.project = conv(WIDTH, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, height, width = x.shape
        parts = self.depthwise(self.qkv(x)).chunk(3, dim=1)
        q, k, v = (part.reshape(batch, self.heads, channels // self.heads, -1) for part in parts)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        out = (scores * self.temperature).softmax(-1) @ v
        return x + self.project(out.reshape(batch, channels, height, width))


class TokenAttention(nn.Module):
    """PyTorch's own attention function and einsum, over places pooled to 4x4."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(3))
        self.mix = nn.Parameter(torch.randn(WIDTH, WIDTH) / 4)

    def forward(self, x: Tensor) -> Tensor:
        places = x.flatten(2).transpose(1, 2)
        few = F.avg_pool2d(x, 2, 2).mean((2, 3), keepdim=True).flatten(2).transpose(1, 2)
        few = torch.cat([few, -few, few * few], 1)
        out = F.scaled_dot_product_attention(self.q(places), self.k(few), self.v(few))
        out = torch.einsum("bnc,cd->bnd", out, self.mix)
        return x + out.transpose(1, 2).reshape(x.shape)


class Dense(nn.Module):
    """Layers that see all before them, as in RDN."""

    def __init__(self, layers: int = 3, growth: int = 8) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(WIDTH + growth * at, growth) for at in range(layers))
        self.fuse = conv(WIDTH + growth * layers, WIDTH, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = [x]
        for layer in self.layers:
            seen.append(F.relu(layer(torch.cat(seen, 1))))
        return x + self.fuse(torch.cat(seen, 1)) * 0.2


class Block(nn.Module):
    """A residual block of EDSR."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = conv(), conv()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class Transposed(nn.Module):
    """Up-scales by transposed convolutions, as FSRCNN; one of them in groups."""

    def __init__(self) -> None:
        super().__init__()
        self.entry = conv(3)
        self.same = nn.ConvTranspose2d(WIDTH, WIDTH, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose2d(WIDTH, 3, 5, stride=2, padding=2, output_padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.same(F.relu(self.entry(x)))))  # type: ignore[no-any-return]


class Grouped(Residual):
    def __init__(self) -> None:
        super().__init__(
            conv(groups=4), nn.ReLU(), conv(groups=WIDTH), nn.ReLU6(), conv(side=1), nn.Hardswish()
        )


class Dilated(Residual):
    def __init__(self) -> None:
        super().__init__(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=2, dilation=2),
            nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, (1, 5), padding="same"),
            nn.ELU(),
        )


class Reflected(nn.Module):
    """Convolutions that pad by reflection, replication or around."""

    def __init__(self) -> None:
        super().__init__()
        self.pad = nn.ReflectionPad2d(2)
        self.entry = nn.Conv2d(3, WIDTH, 5)
        self.middle = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="reflect")
        self.other = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, padding_mode="replicate")
        self.exit = nn.Conv2d(WIDTH, 3, 3, padding=1, padding_mode="circular")

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.middle(F.relu(self.entry(self.pad(x)))))
        return x + self.exit(F.relu(self.other(out)))


class Shared(nn.Module):
    """One block over and over, as in DRRN."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.block, self.exit = conv(3), Block(), conv(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        out = self.entry(x)
        for _ in range(3):
            out = self.block(out)
        return x + self.exit(out)


class WeightNorm(Residual):
    """Weight normalisation, in its newer form or as hooks, as in WDSR."""

    def __init__(self, *, hooks: bool) -> None:
        layers = [conv(), conv()]
        wrap = hooked_weight_norm if hooks else weight_norm
        super().__init__(wrap(layers[0]), nn.ReLU(), wrap(layers[1]))


class Scales(nn.Module):
    """Gives pictures of several scales, as a list or by name, smallest first."""

    def __init__(self, *, named: bool) -> None:
        super().__init__()
        self.named = named
        self.entry, self.small, self.large = conv(3), conv(WIDTH, 3), conv(WIDTH, 3)

    def forward(self, x: Tensor) -> list[Tensor] | dict[str, Tensor]:
        out = F.relu(self.entry(x))
        half = self.small(F.avg_pool2d(out, 2))
        whole = x + self.large(out)
        return {"half": half, "whole": whole} if self.named else [half, whole]


class Frames(nn.Module):
    """Restores the middle one of three frames along the channels."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.middle, self.exit = conv(9), Block(), conv(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 3:6] + self.exit(self.middle(F.relu(self.entry(x))))


class SeparateFrames(Frames):
    def forward(self, before: Tensor, now: Tensor, after: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([before, now, after], 1))


class SequenceFrames(nn.Module):
    """Takes NTCHW and looks at each frame alone before it fuses them."""

    def __init__(self) -> None:
        super().__init__()
        self.entry, self.fuse, self.exit = conv(3, 8), conv(24, WIDTH, 1), conv(WIDTH, 3)

    def forward(self, x: Tensor) -> Tensor:
        batch, frames, channels, height, width = x.shape
        each = F.relu(self.entry(x.reshape(-1, channels, height, width)))
        out = self.fuse(each.view(batch, -1, height, width))
        return x[:, frames // 2] + self.exit(F.relu(out))


class UShape(nn.Module):
    """Halves the sides three times, which must be multiples of 8."""

    def __init__(self, widths: Sequence[int] = (8, 16, 16, 16)) -> None:
        super().__init__()
        steps = list(pairwise(widths))
        self.entry, self.exit = conv(3, widths[0]), conv(widths[0], 3)
        self.down = nn.ModuleList(conv(a, b, stride=2) for a, b in steps)
        self.up = nn.ModuleList(nn.ConvTranspose2d(b, a, 2, stride=2) for a, b in reversed(steps))
        self.join = nn.ModuleList(conv(2 * a, a) for a, _ in reversed(steps))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.entry(x))
        skips = []
        for down in self.down:
            skips.append(out)
            out = F.relu(down(out))
        for up, join in zip(self.up, self.join, strict=True):
            out = F.relu(join(torch.cat([up(out), skips.pop()], 1)))
        return x + self.exit(out)


class Gated(nn.Module):
    """Multiplies one half of the channels by the other."""

    def forward(self, x: Tensor) -> Tensor:
        first, second = x.chunk(2, dim=1)
        return first * torch.tanh(second)


def _frames(make: Callable[[], nn.Module]) -> Entry:
    return Entry(make, ModelConfig(frames=3))


ZOO: dict[str, Entry] = {
    "prelu": Entry(PreLU),
    "batch_norm": Entry(BatchNorm),
    "pixel_shuffle": Entry(Shuffle),
    "pixel_unshuffle": Entry(Unshuffle),
    "upsample_nearest": Entry(lambda: Upsample("nearest")),
    "upsample_bilinear": Entry(lambda: Upsample("bilinear")),
    "upsample_bicubic": Entry(lambda: Upsample("bicubic")),
    "resize_like": Entry(ResizeLike),
    "squeeze_linear": Entry(lambda: Residual(SqueezeLinear())),
    "squeeze_conv": Entry(lambda: Residual(SqueezeConv())),
    "spatial_attention": Entry(lambda: Residual(SpatialAttention())),
    "efficient_attention": Entry(lambda: Residual(EfficientAttention())),
    "rows": Entry(lambda: Residual(Sequence1d())),
    "layer_norm": Entry(lambda: Residual(LayerNormLast())),
    "gates": Entry(lambda: Residual(GateBlock()), ModelConfig(input_range=255)),
    "window_attention": Entry(lambda: Residual(WindowAttention())),
    "shifted_windows": Entry(lambda: Residual(WindowAttention(shifted=True))),
    "counted_windows": Entry(lambda: Residual(CountedWindows())),
    "two_names": Entry(TwoNames),
    "in_place": Entry(InPlace, ModelConfig(output=0)),
    "channel_transformer": Entry(lambda: Residual(ChannelTransformer())),
    "token_attention": Entry(lambda: Residual(TokenAttention())),
    "residual": Entry(lambda: Residual(Block(), Block())),
    "dense": Entry(lambda: Residual(Dense())),
    "transposed": Entry(Transposed),
    "grouped": Entry(Grouped),
    "dilated": Entry(Dilated),
    "reflected": Entry(Reflected),
    "shared": Entry(Shared),
    "weight_norm": Entry(lambda: WeightNorm(hooks=False)),
    "weight_norm_hooks": Entry(lambda: WeightNorm(hooks=True)),
    "scales": Entry(lambda: Scales(named=False)),
    "named_outputs": Entry(lambda: Scales(named=True), ModelConfig(output="whole")),
    "frames_stacked": _frames(Frames),
    "frames_separate": _frames(SeparateFrames),
    "frames_sequence": _frames(SequenceFrames),
    "u_shape": Entry(UShape),
    "activations": Entry(
        lambda: Residual(conv(), nn.GELU(), conv(), nn.SiLU(), conv(WIDTH, 2 * WIDTH), Gated())
    ),
    "instance_norm": Entry(
        lambda: Residual(
            nn.InstanceNorm2d(WIDTH, affine=True), nn.ReLU(), conv(), nn.InstanceNorm2d(WIDTH)
        )
    ),
    "group_norm": Entry(lambda: Residual(nn.GroupNorm(4, WIDTH), nn.SiLU(), conv())),
}
"""Every network by its name."""
