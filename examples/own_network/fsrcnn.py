"""FSRCNN, as an example of a network that sls-deploy does not know.

Dong, Loy and Tang, "Accelerating the Super-Resolution Convolutional Neural Network", ECCV 2016. The
paper restores luminance alone; this one takes and gives RGB.
"""

from __future__ import annotations

from torch import Tensor, nn


class FSRCNN(nn.Module):
    """Works at the size of its input until the last layer, which makes it larger.

    Args:
        features: channels of the first and the last layer, d in the paper.
        shrunk: channels in between, s in the paper.
        mapping: 3x3 layers in between, m in the paper.
        scale: output pixels for one input pixel, along each side.
    """

    def __init__(self, features: int, shrunk: int, mapping: int, scale: int) -> None:
        super().__init__()
        self.extract = nn.Sequential(nn.Conv2d(3, features, 5, padding=2), nn.PReLU(features))
        self.shrink = nn.Sequential(nn.Conv2d(features, shrunk, 1), nn.PReLU(shrunk))
        layers: list[nn.Module] = []
        for _ in range(mapping):
            layers += [nn.Conv2d(shrunk, shrunk, 3, padding=1), nn.PReLU(shrunk)]
        self.map = nn.Sequential(*layers)
        self.expand = nn.Sequential(nn.Conv2d(shrunk, features, 1), nn.PReLU(features))
        self.enlarge = nn.ConvTranspose2d(
            features, 3, 9, stride=scale, padding=4, output_padding=scale - 1
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, a=0.25)
        nn.init.normal_(self.enlarge.weight, std=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """NCHW RGB, 0..1, to the same with sides times the scale."""
        x = self.expand(self.map(self.shrink(self.extract(x))))
        return self.enlarge(x)  # type: ignore[no-any-return]


def make(features: int = 56, shrunk: int = 12, mapping: int = 4, scale: int = 2) -> nn.Module:
    """What sls-deploy calls; the defaults are FSRCNN (56, 12, 4) of the paper, at x2."""
    return FSRCNN(features, shrunk, mapping, scale)
