"""No radius is printed that was not certified."""

import math
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from ddrs.certification.records import round_down

VALUES = st.floats(0, 1e6) | st.integers(0, 10**9).map(lambda micro: micro / 1e6) | st.integers(0, 10**8).map(lambda i: math.nextafter(i / 1e6, 0))
DIGITS = st.sampled_from([3, 6, 12])


@given(VALUES, DIGITS)
def test_never_above_the_value_and_less_than_a_unit_below(value: float, digits: int):
    text = round_down(value, digits)
    assert float(text) <= value
    assert Decimal(value) - Decimal(text) < Decimal(1).scaleb(-digits)
    assert len(text.split(".")[1]) == digits


@given(VALUES, DIGITS)
def test_reading_back_and_printing_again_is_stable(value: float, digits: int):
    text = round_down(value, digits)
    assert round_down(float(text), digits) == text
