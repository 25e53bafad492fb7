from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls_deploy.report import page_numbers as numbers


@given(st.floats(-1e6, 1e6))
def test_a_fixed_number_reads_back_to_its_last_digit(value: float) -> None:
    text = numbers.fixed(value).replace("−", "-")
    assert abs(float(text) - value) <= 0.0005 + 1e-9
    assert text != "-0.000"


@given(st.floats(1e-12, 1e6))
def test_a_short_number_keeps_two_digits(value: float) -> None:
    text = numbers.short(value)
    mantissa, _, power = text.partition("·10")
    exponent = int(power.translate(str.maketrans("⁻⁰¹²³⁴⁵⁶⁷⁸⁹", "-0123456789"))) if power else 0
    assert math.isclose(float(mantissa) * 10.0**exponent, value, rel_tol=0.051)


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        (numbers.change(0.0211), "+0.021"),
        (numbers.change(-0.0211), "−0.021"),
        (numbers.change(0.0), "0.000"),
        (numbers.change(0.0001), "0.000"),
        (numbers.interval(0.012, 0.03), "0.012 to 0.030"),
        (numbers.interval(None, None), "–"),
        (numbers.fidelity(None), "equal"),
        (numbers.share(0.5271), "52.7\N{NARROW NO-BREAK SPACE}%"),
        (numbers.levels(1 / 255), "1.0"),
        (numbers.short(4.23e-5), "4.2·10⁻⁵"),
        (numbers.thousands(443982), "443\N{NARROW NO-BREAK SPACE}982"),
        (numbers.seconds(812.4), "13\N{NARROW NO-BREAK SPACE}min 32\N{NARROW NO-BREAK SPACE}s"),
        (numbers.pattern(4, 4), "dense"),
        (numbers.pattern(2, 4), "2:4"),
    ],
)
def test_figures_are_written_as_people_read_them(told: str, expected: str) -> None:
    assert told == expected
