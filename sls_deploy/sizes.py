"""Sizes of pictures that a network takes."""

from __future__ import annotations


def padded_side(side: int, least_side: int, multiple: int) -> int:
    """The smallest multiple that is neither below a side nor below the least one, in pixels."""
    return -(-max(side, least_side) // multiple) * multiple
