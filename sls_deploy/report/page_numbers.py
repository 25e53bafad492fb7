"""How the report's page writes figures: digits, signs and units, with no more digits than mean
something."""

from __future__ import annotations

import math

_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NARROW NO-BREAK SPACE}"
_DOWN = "\N{EN DASH}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SHORT_HASH = 12
NOTHING = _DOWN
"""Stands where there is no figure."""


def fixed(value: float | None, places: int = 3) -> str:
    """A number of so many decimals, such as '−0.021'; a zero has no sign."""
    if value is None:
        return NOTHING
    text = f"{value:.{places}f}"
    bare = text.lstrip("-")
    return f"{_MINUS}{bare}" if text != bare and float(text) else bare


def change(value: float | None, places: int = 3) -> str:
    """A number with its sign, such as '+0.021'."""
    text = fixed(value, places)
    return f"+{text}" if value and value > 0 and float(text) else text


def interval(low: float | None, high: float | None, places: int = 3) -> str:
    """'0.012 to 0.030'; a dash where there is none."""
    if low is None or high is None:
        return NOTHING
    return f"{fixed(low, places)} to {fixed(high, places)}"


def fidelity(value: float | None) -> str:
    """A PSNR between two outputs, dB; None stands for equal ones."""
    return "equal" if value is None else fixed(value, 2)


def share(value: float | None, places: int = 1) -> str:
    """A share of 1 in percent, such as '52.7 %'."""
    return NOTHING if value is None else f"{fixed(100 * value, places)}{_SPACE}%"


def levels(error: float) -> str:
    """A difference on 0..1 in levels of 8 bits, two digits that mean something."""
    return short(255 * error)


def short(value: float | None) -> str:
    """Two digits that mean something: '0.31', '4.2·10⁻⁵'."""
    if value is None:
        return NOTHING
    if not value:
        return "0"
    power = math.floor(math.log10(abs(value)))
    if power >= -3:
        return fixed(value, max(0, 1 - power))
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa.replace('-', _MINUS)}·10{str(int(exponent)).translate(_RAISED)}"


def thousands(value: float | None) -> str:
    """A whole number in groups of three digits."""
    return NOTHING if value is None else f"{value:,.0f}".replace(",", _SPACE)


def mebibytes(size: int) -> str:
    """Bytes as MiB."""
    return f"{size / 2**20:.2f}{_SPACE}MiB"


def seconds(value: float) -> str:
    """A duration, such as '41.2 s' or '13 min 32 s'."""
    if value < 60:
        return f"{value:.1f}{_SPACE}s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes}{_SPACE}min {rest}{_SPACE}s"


def brief_hash(digest: str) -> str:
    """The beginning of a hash."""
    return digest[:_SHORT_HASH]


def pattern(kept: int, of: int) -> str:
    """'2:4', or 'dense'."""
    return "dense" if kept == of else f"{kept}:{of}"
