"""Photographs to learn from: a folder of them is all that a user needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from sls_deploy.data.bicubic import Picture
from sls_deploy.data.cache import PairCache
from sls_deploy.data.degradation import Degradation
from sls_deploy.data.images import image_size, list_images
from sls_deploy.errors import SlsError


@dataclass(frozen=True)
class Skipped:
    """A file that cannot be learnt from."""

    path: Path
    """The file."""
    reason: str
    """What is wrong with it, in a few words."""


class Photos:
    """Photographs and the networks' inputs for them, decoded when asked for.

    Headers are looked at once, here; a file that turns out damaged when it is decoded gives way
    to the next one. So what an index gives depends on the files alone, never on the order of
    reading.

    Args:
        paths: the photographs, which are the truth.
        degradation: makes or finds their inputs.
        cache_mib: memory for decoded pairs (both pictures, uint8), in MiB.
        min_side: least height and width of a photograph, in its own pixels.

    Raises:
        SlsError: none of the files is usable.
    """

    def __init__(
        self, paths: Sequence[Path], degradation: Degradation, cache_mib: int, min_side: int
    ) -> None:
        self.degradation, self.min_side = degradation, min_side
        self.skipped: list[Skipped] = []
        """Files left out so far; both parts of a split add to the same list."""
        self._cache = PairCache(cache_mib * 2**20)
        self._damaged: set[Path] = set()
        self._pixels: dict[Path, int] = {}
        self.paths = [path for path in paths if self._large_enough(path)]
        if not self.paths:
            raise self._nothing_left()

    @classmethod
    def from_folder(
        cls, folder: Path, degradation: Degradation, cache_mib: int, min_side: int
    ) -> Photos:
        """Take all pictures of a folder and of the folders below it.

        Raises:
            SlsError: no such folder, no pictures in it, or none of them usable.
        """
        return cls(list_images(folder), degradation, cache_mib, min_side)

    def __len__(self) -> int:
        return len(self.paths)

    @property
    def scale(self) -> int:
        """Photograph pixels for one input pixel, along each side."""
        return self.degradation.scale

    @property
    def files(self) -> list[Path]:
        """Photographs and the files that their inputs are read from, sorted."""
        return sorted({file for path in self.paths for file in self.degradation.files(path)})

    @property
    def cached(self) -> int:
        """How many photographs of average size fit into the cache together, at least 1."""
        shares = 1 + self.degradation.frames / self.scale**2
        size = sum(3 * self._pixels[path] for path in self.paths) * shares
        return max(1, int(self._cache.limit * len(self) / size))

    def pair(self, index: int) -> tuple[Picture, Picture]:
        """Input and photograph, uint8 HWC, the photograph cut to a multiple of the scale.

        Args:
            index: 0 .. len - 1; a damaged file gives the pair of the next good one.

        Raises:
            SlsError: all files are damaged.
        """
        for offset in range(len(self)):
            path = self.paths[(index + offset) % len(self)]
            if pair := self._read(path):
                return pair
        raise self._nothing_left()

    def split(self, held_out_share: float) -> tuple[Photos, Photos]:
        """Photographs to learn from, and others to measure on, which are decoded here.

        Which ones are held out follows from a hash of their names, so that a folder gives the
        same split on every machine. At least one is held out and one is left to learn from; if
        only one is good, both parts are this object.

        Args:
            held_out_share: 0 .. 1.

        Raises:
            SlsError: all files are damaged.
        """
        count = max(1, round(held_out_share * len(self)))
        ordered = sorted(self.paths, key=_name_hash)
        good = list(islice((path for path in ordered if self._read(path)), count + 1))
        if not good:
            raise self._nothing_left()
        if len(good) == 1:
            return self, self
        held_out = set(good[:-1])
        return (
            self._part([path for path in self.paths if path not in held_out]),
            self._part([path for path in self.paths if path in held_out]),
        )

    def _part(self, paths: list[Path]) -> Photos:
        part = copy(self)
        part.paths = paths
        return part

    def _large_enough(self, path: Path) -> bool:
        try:
            self.degradation.files(path)
            height, width = image_size(path)
        except SlsError as error:
            self.skipped.append(Skipped(path, error.what))
            return False
        if min(height, width) < self.min_side:
            reason = f"{width}x{height} is below {self.min_side} pixels"
            self.skipped.append(Skipped(path, reason))
            return False
        self._pixels[path] = height * width
        return True

    def _read(self, path: Path) -> tuple[Picture, Picture] | None:
        if path in self._damaged:
            return None
        if pair := self._cache.get(path):
            return pair
        try:
            pair = self.degradation.pair(path)
        except SlsError as error:
            self._damaged.add(path)
            self.skipped.append(Skipped(path, error.what))
            return None
        self._cache.put(path, pair)
        return pair

    def _nothing_left(self) -> SlsError:
        if not self.skipped:
            return SlsError("no photographs given")
        first = self.skipped[0]
        return SlsError(
            f"none of {len(self.skipped)} pictures can be used ({first.reason})",
            str(first.path),
            f"Whole photographs of {self.min_side} pixels or more on both sides are needed.",
        )


def _name_hash(path: Path) -> tuple[str, Path]:
    return hashlib.sha256(os.fsencode(path.name)).hexdigest(), path
