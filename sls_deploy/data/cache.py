"""Memory for decoded photographs."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from sls_deploy.data.bicubic import Picture


class PairCache:
    """Decoded pairs of the photographs used last, at most `limit` bytes of pixels."""

    def __init__(self, limit: int) -> None:
        self.limit, self.used = limit, 0
        self._pairs: OrderedDict[Path, tuple[Picture, Picture]] = OrderedDict()

    def get(self, path: Path) -> tuple[Picture, Picture] | None:
        """The pair of a file, if it is still there."""
        if path in self._pairs:
            self._pairs.move_to_end(path)
        return self._pairs.get(path)

    def put(self, path: Path, pair: tuple[Picture, Picture]) -> None:
        """Keep a pair in place of those not used for longest; one above the limit is not kept."""
        size = _bytes(pair)
        if size > self.limit:
            return
        while self.used + size > self.limit:
            self.used -= _bytes(self._pairs.popitem(last=False)[1])
        self._pairs[path] = pair
        self.used += size


def _bytes(pair: tuple[Picture, Picture]) -> int:
    return pair[0].nbytes + pair[1].nbytes
