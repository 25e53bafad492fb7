"""What a deblurring network makes of different kinds of synthetic blur.

    python benchmarks/blur_kinds.py WEIGHTS SHARP

WEIGHTS is a checkpoint, SHARP a folder of sharp pictures. Prints the table of docs/motion_blur.md:
mean RGB-PSNR of a square from the middle of each picture, blurred in three ways each.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.images import list_images, read_image
from sls_deploy.data.motion_blur import MotionBlur
from sls_deploy.models.model import load_model
from sls_deploy.runtime.padding import Padded
from sls_deploy.runtime.pytorch import TorchRunner
from sls_deploy.validate.metrics import psnr_rgb, to_uint8

_SIDE, _WAYS = 256, 3
_KINDS: tuple[dict[str, object], ...] = (
    {"shake": 0.0, "blend": "levels", "noise": 0.0},
    {"shake": 0.0, "blend": "levels", "noise": 1.0},
    {"shake": 0.0, "blend": "light", "noise": 0.0},
    {"shake": 0.2, "blend": "levels", "noise": 0.0},
    {"shake": 1.0, "blend": "levels", "noise": 0.0},
    {"shake": 1.0, "blend": "light", "noise": 0.0},
)


def middle(picture: Picture) -> Picture:
    """A square from the middle."""
    top, left = ((side - _SIDE) // 2 for side in picture.shape[:2])
    return picture[top : top + _SIDE, left : left + _SIDE]


def main() -> None:
    """Print the table."""
    model = load_model(Path(sys.argv[1]))
    about = model.description
    runner = Padded(TorchRunner(model), about.least_side, about.multiple, about.scale)
    truths = [read_image(path) for path in list_images(Path(sys.argv[2]))]
    print(f"| shake, blend, noise | blurred | restored by {about.name} |\n|---|---|---|")
    for kind in _KINDS:
        blur = MotionBlur(length=20, varying=False, **kind)  # type: ignore[arg-type]
        scores = []
        for number, truth in enumerate(truths):
            for way in range(_WAYS):
                blurred = middle(blur.degrade(truth, f"{number}-{way}"))
                batch = (blurred.transpose(2, 0, 1)[None] / 255).astype(np.float32)
                restored = to_uint8(runner.run(batch)[0].transpose(1, 2, 0))
                scores.append([psnr_rgb(item, middle(truth), 0) for item in (blurred, restored)])
        before, after = np.mean(scores, axis=0)
        print(f"| {', '.join(map(str, kind.values()))} | {before:.2f} | {after:.2f} |", flush=True)


if __name__ == "__main__":
    main()
