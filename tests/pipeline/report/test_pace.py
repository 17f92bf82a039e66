from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import orjson

from pipeline.report.pace import read_pace
from pipeline.runtime import progress
from tests.pipeline.helpers import run_build
from tests.waiting import wait_until


def note(run: str, seconds: float, pairs: int, tokens: int) -> bytes:
    entry: Mapping[str, object] = {
        "run": run,
        "seconds": seconds,
        "pairs": pairs,
        "prompt_tokens": 2 * tokens,
        "completion_tokens": tokens,
    }
    return orjson.dumps(entry) + b"\n"


def read(folder: Path, *lines: bytes) -> list[tuple[float, int, int, int]]:
    path = folder / progress.PACE
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"".join(lines))
    return [(p.seconds, p.pairs, p.prompt_tokens, p.completion_tokens) for p in read_pace(folder)]


def test_notes_of_one_run_are_its_pace(tmp_path: Path) -> None:
    assert read(tmp_path, note("a", 1, 10, 100), note("a", 2.5, 30, 300)) == [(1, 10, 200, 100), (2.5, 30, 600, 300)]


def test_a_run_continues_where_the_one_before_stopped(tmp_path: Path) -> None:
    lines = [note("a", 1, 10, 100), note("a", 5, 50, 500), note("b", 1, 40, 5), note("b", 3, 60, 80)]

    assert read(tmp_path, *lines)[2:] == [(6, 50, 1010, 505), (8, 60, 1160, 580)]


def test_a_line_that_a_kill_cut_off_is_left_out(tmp_path: Path) -> None:
    cut = note("a", 2, 20, 200)[:30]

    assert [point[0] for point in read(tmp_path, note("a", 1, 10, 100), cut)] == [1]
    # The next run appends to the same line.
    lines = [note("a", 1, 10, 100), cut, note("b", 1, 20, 5), note("b", 2, 30, 9)]
    assert read(tmp_path, *lines) == [(1, 10, 200, 100), (3, 30, 218, 109)]


def test_many_notes_become_some_hundred_points(tmp_path: Path) -> None:
    points = read(tmp_path, *(note("a", k, k, k) for k in range(5000)))

    assert len(points) == 300
    assert (points[0][1], points[-1][1]) == (0, 4999)


def test_a_build_without_notes_has_no_pace(tmp_path: Path) -> None:
    assert read_pace(tmp_path) == ()


def test_progress_is_noted_until_the_end(tmp_path: Path) -> None:
    counts = progress.counters_for(tmp_path)
    counts.add(progress.EARLIER_PAIRS, 100)
    pace = progress.Pace(tmp_path, "now")
    counts.add("settled", 7)
    counts.add("completion_tokens", 50)
    wait_until(lambda: 107 in [point.pairs for point in read_pace(tmp_path)])
    counts.add("settled", 5)
    counts.flush()
    pace.close()
    progress.delete_counts(tmp_path)

    points = read_pace(tmp_path)
    assert (points[-1].pairs, points[-1].completion_tokens) == (112, 50)
    assert 1 <= points[-1].seconds < 60


def test_a_full_disk_does_not_stop_a_build(tmp_path: Path) -> None:
    (tmp_path / "logs").write_text("no folder")
    pace = progress.Pace(tmp_path, "now")
    pace.close()

    assert read_pace(tmp_path) == ()


def test_a_build_notes_its_pace(tmp_path: Path) -> None:
    manifest, _ = run_build(tmp_path)
    last = read_pace(tmp_path)[-1]

    assert last.pairs == manifest.counts.pairs_asked == 60
    assert last.completion_tokens == manifest.counts.completion_tokens
    assert last.prompt_tokens == manifest.counts.prompt_tokens
