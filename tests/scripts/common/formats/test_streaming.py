from __future__ import annotations

import pytest

from common import events
from common.formats import streaming


@pytest.mark.parametrize("row_bytes", [1, streaming.TILE_BYTES // 3, 2 * streaming.TILE_BYTES])
def test_tiles_cover_all_rows_once_and_stay_small(row_bytes: int) -> None:
    ranges = list(streaming.row_ranges(10, row_bytes))
    assert [row for start, stop in ranges for row in range(start, stop)] == list(range(10))
    assert all(stop - start == 1 or (stop - start) * row_bytes <= streaming.TILE_BYTES for start, stop in ranges)


def test_results_come_in_the_order_of_the_jobs_and_an_error_is_raised() -> None:
    assert streaming.each(lambda number: number * 2, [3, 1, 2]) == [6, 2, 4]
    with pytest.raises(ZeroDivisionError):
        streaming.each(lambda number: 1 // number, [1, 0])


def test_bytes_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    reports: list[tuple] = []
    monkeypatch.setattr(events, "progress", lambda *report: reports.append(report))
    count = streaming.ByteCount(5)
    count.add(2)
    count.add(3)
    assert reports == [(2, 5, "byte"), (5, 5, "byte")]
