"""The grammar of meeting ids."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.core.identifiers import is_instance, is_occurrence, is_series, series_of

SERIES = "501e995485e2460bb129410116757b13"
OCCURRENCE = f"{SERIES}_20210514T203000Z"
INSTANCE = f"{SERIES}_I_194316955237236650"


@pytest.mark.parametrize(
    ("value", "series"),
    [
        pytest.param(SERIES, SERIES, id="a series is its own"),
        pytest.param(OCCURRENCE, SERIES, id="an occurrence"),
        pytest.param(INSTANCE, SERIES, id="an instance"),
        pytest.param(f"{SERIES}_3c2e2338-e950-43bf-b588-573773ee43d1", SERIES, id="a participant"),
        pytest.param(f"{SERIES}_", SERIES, id="nothing after the underscore"),
        pytest.param(f"{SERIES}_X\ny", SERIES, id="anything after the underscore"),
        pytest.param(SERIES.upper(), SERIES, id="upper case is lowered"),
        pytest.param("", None, id="empty"),
        pytest.param(SERIES[:-1], None, id="31 digits"),
        pytest.param(f"{SERIES}0", None, id="33 digits"),
        pytest.param(f"{SERIES}\n", None, id="a newline at the end"),
        pytest.param(f" {SERIES}", None, id="a space before"),
        pytest.param(f"{SERIES}-I-1", None, id="another separator"),
        pytest.param("g" * 32, None, id="not hex"),
        pytest.param("\u0661" * 32, None, id="digits of another script"),
        pytest.param("8ce1f918-c138-4041-bb4a-5e01eeaadedb_M_0fc6", None, id="a transcript"),
    ],
)
def test_series_of(value: str, series: str | None) -> None:
    """The series is the leading 32 hex digits, whatever follows the underscore, and nothing else is one."""
    assert series_of(value) == series


@pytest.mark.parametrize(
    ("value", "kinds"),
    [
        pytest.param(SERIES, (True, False, False), id="series"),
        pytest.param(OCCURRENCE, (False, True, False), id="occurrence"),
        pytest.param(INSTANCE, (False, False, True), id="instance"),
        pytest.param(f"{SERIES}_20210514", (False, False, False), id="a date only"),
        pytest.param(f"{SERIES}_I_", (False, False, False), id="an instance without a number"),
        pytest.param(f"{INSTANCE}\n", (False, False, False), id="a newline at the end"),
        pytest.param("", (False, False, False), id="empty"),
    ],
)
def test_kinds(value: str, kinds: tuple[bool, bool, bool]) -> None:
    """An id is of one kind at most."""
    assert (is_series(value), is_occurrence(value), is_instance(value)) == kinds


@given(st.text())
def test_any_text_has_an_answer(value: str) -> None:
    """No text makes these functions raise, and a series that was found is one."""
    series = series_of(value)
    assert series is None or is_series(series)
    assert is_series(value) + is_occurrence(value) + is_instance(value) <= 1


@given(st.from_regex(r"[0-9a-f]{32}", fullmatch=True), st.text())
def test_whatever_follows_the_underscore(series: str, rest: str) -> None:
    """Any suffix after the underscore leaves the series as it is."""
    assert series_of(f"{series}_{rest}") == series
