"""Blur of a hand-held camera, made from sharp photographs.

While the shutter is open the camera shifts and rolls. The scene's light adds up along the way, and
the sensor adds its noise. All of it is computed in linear light: a bright point leaves a bright
trace, which averaging the file's gamma-coded levels would dim.

- The way: a random walk with inertia and sudden jolts (Boracchi and Foi, "Modeling the performance
  of image restoration from motion blur", IEEE TIP 21(8), 2012). Here the hand is a damped spring
  that its own tremor drives, which has the inertia and the pull back in one.
- Shift and roll within the picture plane stand for all movements of the camera, as in Gupta et al.,
  "Single image deblurring using motion density functions" (ECCV 2010).
- Noise: variance linear in the light (Foi et al., "Practical Poissonian-Gaussian noise modeling and
  fitting for single-image raw-data", IEEE TIP 17(10), 2008).
"""

from __future__ import annotations

import hashlib
import math
import os
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import fft

from sls_deploy.data.bicubic import Picture, downscale
from sls_deploy.data.synthesis import Synthesis

Light = NDArray[np.float32]
"""Channels x height x width, linear in the light of the scene, white is 1."""
Walk = NDArray[np.float64]
"""Samples x 2: displacement down and to the right, in pixels, at equal steps of time."""

_SAMPLES = 1000
"""Moments of an exposure; 128 pixels of blur leave no gaps between them."""
_DAMPING = 0.3
"""Of the hand, as a share of the damping that lets it return without swinging."""
_JOLTS = 1.0
"""Sudden movements in an exposure, on average."""
_LEAST_SHARE = 0.25
"""Blur of the least blurred picture, as a share of the most blurred one's."""
_READ_NOISE = 0.01
"""Light, as a share of white, whose shot noise is as strong as the read noise."""
_STRIP = 64
"""Rows exposed at a time, so that they stay in the processor's cache."""


@dataclass(frozen=True)
class MotionBlur(Synthesis):
    """Blurs and adds noise; what a picture gets follows from the seed and its file name alone."""

    scale: int = 1
    """Truth pixels for one input pixel; the blurred picture is shrunk by MATLAB's bicubic."""
    length: float = 20.0
    """Most that any point of a picture moves, in truth pixels; a picture gets 25 to 100 % of it."""
    varying: bool = True
    """Whether the camera also rolls, so that the blur differs over the picture."""
    noise: float = 1.0
    """Standard deviation at middle grey, in 8-bit levels."""
    shake: float = 1.0
    """From 0, an even movement along a line, to 1, a shaking hand."""
    blend: Literal["light", "levels"] = "light"
    """What adds up along the way: linear light, or the file's levels, as in GoPro's `blur`."""
    seed: int = 0
    """0 or more; another one gives other movements and noise."""

    @property
    def note(self) -> str:
        """How the input comes about, with all settings, in a sentence without a full stop."""
        movement = "shift and roll" if self.varying else "shift"
        shrunk = ", then shrunk by MATLAB's bicubic" if self.scale > 1 else ""
        return (
            f"Input made from the truth by motion blur ({movement} of up to {self.length} pixels, "
            f"shake {self.shake}, blended in {self.blend}, noise of {self.noise} levels "
            f"at middle grey, seed {self.seed}){shrunk}"
        )

    def degrade(self, truth: Picture, name: str) -> Picture:
        """The input of a picture, uint8 HWC RGB.

        Args:
            truth: uint8 HWC RGB; the scale divides its sides.
            name: what movement and noise follow from, besides the seed.
        """
        random = named_generator(name, self.seed)
        light = decode(truth) if self.blend == "light" else _levels(truth)
        length = self.length * random.uniform(_LEAST_SHARE, 1)
        if self.varying:
            # Half of the movement for the shift, half for the roll as the corners see it.
            walk = steadied(camera_walk(random, axes=3), self.shake)
            shift, roll = spread(walk[:, :2], length / 2), spread(walk[:, 2:], length / 2)
            light = expose(light, shift, roll[:, 0] / half_diagonal(light))
        else:
            walk = steadied(camera_walk(random, axes=2), self.shake)
            light = convolve(light, kernel(spread(walk, length)))
        if self.blend == "levels":
            light = _decode(light).astype(np.float32)
        return downscale(encode(add_noise(light, self.noise, random)), self.scale)


def named_generator(name: str, seed: int) -> np.random.Generator:
    """Random numbers that follow from a file name and a seed, the same on every machine."""
    digest = hashlib.sha256(os.fsencode(name)).digest()
    return np.random.default_rng((seed, int.from_bytes(digest[:8], "big")))


def camera_walk(random: np.random.Generator, axes: int) -> NDArray[np.float64]:
    """Way of a hand-held camera during an exposure, samples x axes, without a unit.

    An exposure lasts a quarter to two swings of the hand: the ways range from arcs to tangles.
    """
    swings = 0.25 * 8 ** random.random()
    step, rate = 1 / _SAMPLES, 2 * math.pi * swings
    # In the steady state that this tremor keeps up, the speed along each axis has variance 1.
    tremor = random.standard_normal((_SAMPLES, axes)) * math.sqrt(4 * _DAMPING * rate * step)
    jolted = random.random(_SAMPLES) < _JOLTS * step
    jolts = random.standard_normal((_SAMPLES, axes))
    speed, place = random.standard_normal(axes), random.standard_normal(axes) / rate
    walk = np.empty((_SAMPLES, axes))
    for moment in range(_SAMPLES):
        pull = -rate * (rate * place + 2 * _DAMPING * speed)
        speed = speed + pull * step + tremor[moment]
        if jolted[moment]:
            speed = jolts[moment] - speed
        place = place + speed * step
        walk[moment] = place
    return walk


def steadied(walk: NDArray[np.float64], shake: float) -> NDArray[np.float64]:
    """A walk drawn towards the even movement along a line from its start to its end.

    Args:
        walk: samples x axes.
        shake: 1 leaves it as it is, 0 gives the line.
    """
    line = np.linspace(walk[0], walk[-1], len(walk))
    drawn: NDArray[np.float64] = line + shake * (walk - line)
    return drawn


def spread(walk: NDArray[np.float64], length: float) -> NDArray[np.float64]:
    """A walk moved and scaled: its mean is 0, so that the blurred picture stays where it was.

    Args:
        walk: samples x axes.
        length: largest distance between two of the samples.
    """
    centred: NDArray[np.float64] = walk - walk.mean(0)
    return centred * (length / extent(centred))


def extent(walk: NDArray[np.float64]) -> float:
    """Largest distance between two samples, samples x axes."""
    squares = (walk**2).sum(1)
    return math.sqrt((squares[:, None] + squares - 2 * walk @ walk.T).max())


def kernel(walk: Walk) -> NDArray[np.float64]:
    """Picture that the walk makes of a point: square, of odd side, the point in its middle.

    Each sample is spread over the four pixels round it by bilinear interpolation. Sum 1.
    """
    radius = math.ceil(np.abs(walk).max())
    side = 2 * radius + 1
    corner = np.floor(walk).astype(np.int64)
    part = walk - corner
    image = np.zeros((side + 1, side + 1))  # a sample on the last pixel has an empty neighbour
    for down, right in ((0, 0), (0, 1), (1, 0), (1, 1)):
        weights = np.abs(1 - down - part[:, 0]) * np.abs(1 - right - part[:, 1])
        np.add.at(image, (corner[:, 0] + radius + down, corner[:, 1] + radius + right), weights)
    return image[:side, :side] / len(walk)


def convolve(light: Light, blur: NDArray[np.float64]) -> Light:
    """The same kernel everywhere; borders are mirrored with the edge repeated.

    Args:
        light: what the camera sees.
        blur: square, of odd side.
    """
    radius = len(blur) // 2
    height, width = light.shape[1:]
    padded = np.pad(light, ((0, 0), (radius, radius), (radius, radius)), "symmetric")
    # What wraps round the end of the padded picture falls into the margin that is cut off.
    size = [fft.next_fast_len(side, real=True) for side in padded.shape[1:]]
    factor = fft.rfft2(blur.astype(np.float32), size)
    margin = 2 * radius
    blurred = np.empty_like(light)
    for channel, target in zip(padded, blurred, strict=True):
        whole = fft.irfft2(fft.rfft2(channel, size) * factor, size)
        target[:] = whole[margin : margin + height, margin : margin + width]
    return blurred


def expose(light: Light, shift: Walk, roll: NDArray[np.float64]) -> Light:
    """The mean of what the camera sees on its way, by bilinear interpolation, borders mirrored.

    At every moment the picture is turned round its middle and then shifted. Moments between which
    no point moves by a whole pixel are taken together.

    Args:
        light: what the camera sees at rest.
        shift: samples x 2: displacement of the picture down and to the right, in pixels.
        roll: its turn in radians, one for each sample; from the axis down to the axis right.
    """
    shift, roll, weights = _stops(shift, roll, half_diagonal(light))
    height, width = light.shape[1:]
    source = torch.from_numpy(light)[None]
    exposed = torch.zeros_like(source)
    rows = torch.arange(height) - (height - 1) / 2
    columns = torch.arange(width) - (width - 1) / 2
    for top in range(0, height, _STRIP):
        target = exposed[:, :, top : top + _STRIP]
        places = torch.empty(1, target.shape[2], width, 2)  # right, then down, -1..1
        for (down, right), angle, weight in zip(shift, roll, weights, strict=True):
            cosine, sine = math.cos(angle), math.sin(angle)
            y, x = rows[top : top + _STRIP, None] - down, columns - right
            torch.add(x * (2 * cosine / width), y * (-2 * sine / width), out=places[0, ..., 0])
            torch.add(x * (2 * sine / height), y * (2 * cosine / height), out=places[0, ..., 1])
            seen = torch.nn.functional.grid_sample(
                source, places, "bilinear", "reflection", align_corners=False
            )
            target.add_(seen, alpha=weight)
    return exposed[0].numpy()


def half_diagonal(light: Light) -> float:
    """Distance of the corners from the middle, in pixels."""
    return math.hypot(*light.shape[1:]) / 2


def add_noise(light: Light, level: float, random: np.random.Generator) -> Light:
    """Add the sensor's shot and read noise.

    Args:
        light: what reaches the sensor.
        level: standard deviation that middle grey has once it is encoded, in 8-bit levels.
        random: where the noise comes from.
    """
    if level == 0:
        return light
    grey = float(_decode(np.array(0.5)))
    slope = 1.055 / 2.4 * grey ** (1 / 2.4 - 1)  # of the encoding at middle grey
    gain = (level / 255 / slope) ** 2 / (grey + _READ_NOISE)
    deviation: Light = np.sqrt(gain * (np.maximum(light, 0) + _READ_NOISE))
    deviation *= random.standard_normal(light.shape, dtype=np.float32)
    return light + deviation


def decode(picture: Picture) -> Light:
    """Light of a uint8 HWC picture by the sRGB transfer function (IEC 61966-2-1)."""
    levels = _decode(np.arange(256) / 255).astype(np.float32)
    return levels[np.ascontiguousarray(picture.transpose(2, 0, 1))]


def encode(light: Light) -> Picture:
    """uint8 HWC picture by the sRGB transfer function, clipped and rounded."""
    light = np.clip(light, 0, 1)
    coded = np.where(light <= 0.0031308, 12.92 * light, 1.055 * light ** (1 / 2.4) - 0.055)
    return np.ascontiguousarray((coded * 255 + 0.5).astype(np.uint8).transpose(1, 2, 0))


def _levels(picture: Picture) -> Light:
    """Levels of a uint8 HWC picture on 0..1, channels first."""
    return np.ascontiguousarray(picture.transpose(2, 0, 1)).astype(np.float32) / np.float32(255)


def _decode(coded: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def _stops(
    shift: Walk, roll: NDArray[np.float64], radius: float
) -> tuple[Walk, NDArray[np.float64], list[float]]:
    """Means of the moments of each pixel of the way that the corners see, and their shares."""
    moved = np.hypot(*np.diff(shift, axis=0).T) + radius * np.abs(np.diff(roll))
    pixel = np.floor(np.concatenate(([0.0], np.cumsum(moved)))).astype(np.int64)
    _, starts, counts = np.unique(pixel, return_index=True, return_counts=True)
    means = np.add.reduceat(np.column_stack((shift, roll)), starts) / counts[:, None]
    return means[:, :2], means[:, 2], (counts / len(roll)).tolist()
