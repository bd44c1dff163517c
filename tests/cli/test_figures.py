"""Numbers as text: digits, alignment, sparklines, sizes and durations."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sounding_cli.figures import figure, figures, size_text, sparkline


@pytest.mark.parametrize(
    ("values", "texts"),
    [
        ([2.302585, 0.25], ["2.303", "0.250"]),
        ([15.349, 4.47], ["15.35", "4.47"]),
        ([3.0, 40.0], ["3", "40"]),
        ([None, 1.5], ["", "1.500"]),
        ([1.0, 1e-9], ["1.000e+00", "1.000e-09"]),
        ([2_500_000.5], ["2.500e+06"]),
        ([0.0, 0.5], ["0.0000", "0.5000"]),
        ([math.nan, 1.5], ["nan", "1.500"]),
        ([math.inf, 2.0], ["inf", "2"]),
        ([0.00098, 0.5], ["0.00098", "0.50000"]),
        ([], []),
    ],
)
def test_a_column_shares_its_decimals(values: list[float | None], texts: list[str]) -> None:
    assert figures(values) == texts


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1))
def test_a_column_can_be_read_back_to_four_digits_of_its_greatest(values: list[float]) -> None:
    great = max(abs(value) for value in values)
    for value, text in zip(values, figures(list(values)), strict=True):
        assert abs(float(text) - value) <= 5.1e-4 * great


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False, min_value=1e-4, max_value=1e5), min_size=1))
def test_points_of_a_column_stand_below_each_other(values: list[float]) -> None:
    texts = figures(list(values))
    assert len({len(text.partition(".")[2]) for text in texts}) == 1


def test_one_number_alone() -> None:
    assert figure(0.1) == "0.1000"


def test_a_sparkline_goes_from_the_lowest_bar_to_the_highest() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"


def test_a_sparkline_marks_what_is_missing_and_what_is_not_finite() -> None:
    assert sparkline([0.0, None, math.nan, 1.0]) == "▁ ×█"
    assert sparkline([None, math.inf]) == " ×"
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([-1.7e308, 1.7e308]) == "▁█"


def test_a_long_series_is_averaged_into_the_width() -> None:
    drawn = sparkline([float(number) for number in range(1000)], width=8)
    assert drawn == "▁▂▃▄▅▆▇█"


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (53_649, "54 kB"), (1.5e9, "1.5 GB"), (2e13, "20.0 TB")],
)
def test_sizes(size: float, text: str) -> None:
    assert size_text(size) == text
