from __future__ import annotations

import pytest

from benchmarks.slow_engine import run


@pytest.mark.parametrize("stall", [(), ("--stall", "0.5", "2")], ids=["steady", "stalls"])
def test_a_slow_engine_costs_no_row_and_no_second_request(stall: tuple[str, ...]) -> None:
    counts, seen = run(48, "--rate", "2500", "--sequence-rate", "250", *stall)

    assert (counts.pairs_accepted, counts.rejected) == (48, {})
    assert (seen["requests"], seen["repeated"]) == (96, 0)
