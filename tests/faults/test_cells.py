"""The quick cells of the matrix on three real brokers; the whole of it is `python -m tests.faults.cells`."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.cells import CELLS, HEADINGS, Options, row, run

pytestmark = [pytest.mark.timeout(600), pytest.mark.kafka]

#: Less load after the fault than in the whole matrix (seconds).
OPTIONS = Options(after=15)


@pytest.mark.quick
@pytest.mark.parametrize("name", [name for name, cell in CELLS.items() if cell.quick])
async def test_cell(name: str, tmp_path: Path) -> None:
    """Nothing that was answered 2xx is lost, the order is kept, duplicates are few, and 2xx goes on."""
    result = await run(CELLS[name], OPTIONS, keep=tmp_path)
    for heading, value in zip(HEADINGS, row(result), strict=True):
        print(f"{heading}: {value}", end="; ")  # noqa: T201
    print(f"\n{result.detail}")  # noqa: T201
    assert result.problems == ()
