"""What the elements along one axis of a tensor look at in the picture, in input pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from fractions import Fraction

Window = Callable[[int], tuple[int, int]]
"""First and last element that an element of the result is computed from, by its number."""
_MOST = 1024
"""Most elements that an operator makes of one, along an axis."""


@dataclass(frozen=True)
class Size:
    """The number of elements along height or width, as a graph computes it from the picture's."""

    side: int
    """0 for the height of the picture, 1 for its width."""
    grid: int
    """Pixels that this side of the picture is known to be a multiple of."""
    spacing: Fraction = Fraction(1)
    """Input pixels from one element to the next."""
    least: Fraction = Fraction(0)
    """The number times the spacing is at least the picture's side and this, in input pixels."""
    most: Fraction = Fraction(0)
    """It is at most the side and this. With grids that divide, both are the same number."""
    steps: tuple[tuple[str, int], ...] = ()
    """How it is computed where that is not all known, so that sizes can be told apart."""

    @property
    def exact(self) -> bool:
        """Whether it is the same share of every picture, but for a constant number of pixels."""
        return self.least == self.most

    def plus(self, number: int) -> Size:
        """So many elements more."""
        by = number * self.spacing
        return self._step("+", number, self.spacing, self.least + by, self.most + by)

    def times(self, number: int) -> Size:
        """So many times as many elements."""
        return self._step("*", number, self.spacing / number, self.least, self.most)

    def over(self, number: int) -> Size:
        """A part of the elements, rounded down."""
        spacing = self.spacing * number
        if self.exact and (self.grid / spacing).denominator == 1:
            rest = self.least / self.spacing % number * self.spacing
            return Size(self.side, self.grid, spacing, self.least - rest, self.least - rest)
        lost = (number - 1) * self.spacing
        return self._step("/", number, spacing, self.least - lost, self.most)

    def _step(
        self, kind: str, number: int, spacing: Fraction, least: Fraction, most: Fraction
    ) -> Size:
        steps = () if least == most else (*self.steps, (kind, number))
        return Size(self.side, self.grid, spacing, least, most, steps)


@dataclass(frozen=True)
class Axis:
    """An axis of a tensor along which the picture's height or width lies.

    Element k of it hangs on the pixels from `first + k * spacing` to `last + k * spacing` and on no
    others. Of an element that does not exist the same is said, and it reaches behind the border of
    the picture there: so what a tile lacks is only missed by what looks out of the tile.
    """

    size: Size
    """Number of its elements, with their spacing."""
    first: Fraction = Fraction(0)
    """First pixel of element 0."""
    last: Fraction = Fraction(0)
    """Last pixel of element 0."""
    folded: tuple[int, int] = (0, 0)
    """Elements at its beginning and end that hold what lies as far inside the border, or nearer to
    it; `first` and `last` do not yet tell of that."""

    @property
    def spacing(self) -> Fraction:
        """Input pixels from one element to the next."""
        return self.size.spacing

    def through(self, up: int, down: int, window: Window, size: Size) -> Axis:
        """The axis behind an operator that makes `up` elements of every `down`.

        Args:
            up: elements after which windows repeat.
            down: elements that the windows have moved on by then.
            window: window of an element, whether it exists or not.
            size: of the result.

        Raises:
            ValueError: `up` is more than any network has.
        """
        if up > _MOST:
            raise ValueError(up)
        axis = self.settled()
        spacing = axis.spacing
        places = [(*window(k), Fraction(k * down, up)) for k in range(up)]
        first = min(start - place for start, _, place in places)
        last = max(stop - place for _, stop, place in places)
        return Axis(size, axis.first + first * spacing, axis.last + last * spacing)

    def settled(self, reach: int = 0, pads: tuple[int, int] = (0, 0)) -> Axis:
        """The same axis with `first` and `last` widened by what folded elements hold.

        A window of `reach + 1` elements that stands over folded ones sees most of what they hold
        anyway: all of it if no more were folded than half of `reach`, as for convolutions that keep
        the size.

        Args:
            reach: elements from the first to the last of a window.
            pads: zeros that the operator adds itself.
        """
        begin, end = (
            max(0, 2 * count + pad - reach) if count else 0
            for count, pad in zip(self.folded, pads, strict=True)
        )
        first = self.first - end * self.spacing
        return replace(self, first=first, last=self.last + begin * self.spacing, folded=(0, 0))

    def joined(self, other: Axis) -> Axis | None:
        """The axis of elements that hang on one of either; None if they lie on other grids."""
        if (self.size.side, self.spacing) != (other.size.side, other.spacing):
            return None
        one, two = (
            (self, other) if self.folded == other.folded else (self.settled(), other.settled())
        )
        size = one.size if one.size.exact or not two.size.exact else two.size
        return Axis(size, min(one.first, two.first), max(one.last, two.last), one.folded)


def slid(
    axis: Axis, kernel: int, stride: int, pads: tuple[int, int], *, ceil: bool = False
) -> Axis:
    """The axis behind a window that slides along it, as of a convolution or a pooling.

    Args:
        axis: in front.
        kernel: elements from the first to the last of the window, inclusive; at least 1.
        stride: elements that it moves on by.
        pads: elements that are added at the beginning and the end, not below zero.
        ceil: whether a last window may lie partly behind the end.
    """
    begin, end = pads
    room = axis.size.plus(begin + end - kernel)
    size = (room.plus(stride - 1) if ceil else room).over(stride).plus(1)
    if ceil:  # a window that starts behind the end is left out, by other rules in every runtime
        size = replace(size, least=size.least - size.spacing, steps=(*size.steps, ("ceil", 1)))

    def window(k: int) -> tuple[int, int]:
        return k * stride - begin, k * stride - begin + kernel - 1

    return axis.settled(kernel - 1, pads).through(1, stride, window, size)


def spread(axis: Axis, kernel: int, stride: int, pads: tuple[int, int], extra: int) -> Axis:
    """The axis behind a transposed convolution.

    Args:
        axis: in front.
        kernel: elements from the first to the last of the kernel, inclusive; at least 1.
        stride: elements of the result for one of the input.
        pads: elements of the result that are left out at the beginning and the end, not below zero.
        extra: elements that are added at the end (`output_padding`).
    """
    begin, end = pads
    surplus = kernel - begin - end + extra
    size = axis.size.plus(-1).times(stride).plus(surplus)

    def window(k: int) -> tuple[int, int]:
        start = -((kernel - 1 - begin - k) // stride)
        # It must also reach to where the axis ends when the result does before this element.
        return min(start, k // stride), max((k + begin) // stride, (k - surplus) // stride + 1)

    return axis.through(stride, 1, window, size)


def parted(axis: Axis, block: int) -> Axis:
    """The axis whose elements are blocks of several, as behind SpaceToDepth."""

    def window(k: int) -> tuple[int, int]:
        return k * block, (k + 1) * block - 1

    return axis.through(1, block, window, axis.size.over(block))


def filled(axis: Axis, block: int) -> Axis:
    """The axis with several elements in place of each, as behind DepthToSpace."""
    return axis.through(block, 1, lambda k: (k // block, k // block), axis.size.times(block))
