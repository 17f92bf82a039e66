from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from pipeline.driver.diagnosis import Diagnosis, explain_rejections

Look = tuple[float, Mapping[str, int]]


def lines_of(looks: Iterable[Look], writes: bool = True) -> list[str]:
    """What is reported of counts at some seconds, in order."""
    lines: list[str] = []
    diagnosis = Diagnosis(lines.append, writes)
    for now, counts in looks:
        diagnosis.update(counts, now)
    return lines


def test_a_run_without_a_pair_names_the_commonest_reason_and_its_remedy() -> None:
    counts = {"accepted": 0, "rejected/validate/copied": 30, "rejected/validate/too_short": 2, "rejected": 32}

    (line,) = explain_rejections(counts).values()

    assert line == (
        "no pair yet: all of the first 32 attempts were rejected, 30 as validate/copied: use another generation.model "
        "or other templates, or raise rules.copied_ngram"
    )


@pytest.mark.parametrize(
    "counts", [{}, {"rejected/validate/copied": 31}, {"accepted": 1, "rejected/validate/copied": 40}]
)
def test_bad_luck_is_not_reported(counts: dict[str, int]) -> None:
    assert explain_rejections(counts) == {}


def test_a_reason_of_most_rejections_is_named_where_few_attempts_are_accepted() -> None:
    rejected = {"rejected/validate/copied": 130, "rejected/validate/unfinished": 80}

    (line,) = explain_rejections({"accepted": 20} | rejected).values()

    assert line.startswith("62% of 210 rejections are validate/copied, and 9% of attempts are accepted: use another")
    assert explain_rejections({"accepted": 110} | rejected) == {}
    assert explain_rejections({"accepted": 20, "rejected/validate/equal": 60} | rejected) == {}


def test_responses_without_levels_are_no_attempts_at_a_pair() -> None:
    (line,) = explain_rejections({"accepted": 5, "rejected/annotate/schema": 40}).values()

    assert line.startswith("no annotation yet: all of the first 40 responses were rejected, 40 as annotate/schema: ")
    assert explain_rejections({"accepted": 0, "annotated": 60, "rejected/annotate/schema": 40}) == {}


def test_each_cause_is_reported_once() -> None:
    looks: list[Look] = [
        (0.0, {"rejected/validate/copied": 40}),
        (1.0, {"rejected/validate/copied": 80, "rejected/validate/empty": 20}),
        (2.0, {"rejected/validate/copied": 90, "rejected/validate/empty": 20, "accepted": 1}),
        (3.0, {"rejected/validate/copied": 95, "rejected/validate/empty": 20, "accepted": 1}),
    ]

    first, second = lines_of(looks)

    assert first.startswith("no pair yet: all of the first 40")
    assert second.startswith("82% of 110 rejections are validate/copied, and 1% of attempts")


def running(tokens: float, seconds: int, in_flight: int = 48, reply: int = 100, **gauges: int) -> list[Look]:
    """An engine at work: so many tokens a second, in replies of so many."""
    return [
        (
            float(second),
            {
                "in_flight": in_flight,
                "tokens_heard": int(tokens * second),
                "answers": int(tokens * second) // reply,
                **gauges,
            },
        )
        for second in range(0, seconds, 5)
    ]


def test_an_engine_that_is_too_slow_for_its_requests_is_named_with_both_figures() -> None:
    (line,) = lines_of(running(tokens=25, seconds=600))

    assert line.startswith("the engine makes 25 tokens/s for 48 requests in flight, less than one a second for each: ")
    assert "generation.model" in line
    assert "engine.in_flight" in line


def test_an_engine_is_judged_when_each_request_has_had_a_turn() -> None:
    assert lines_of(running(tokens=25, seconds=120, reply=10)) == []
    assert lines_of(running(tokens=25, seconds=190, reply=100)) == []


@pytest.mark.parametrize("looks", [running(tokens=60, seconds=900), running(tokens=25, seconds=900, in_flight=24)])
def test_an_engine_that_makes_a_token_a_second_for_each_request_is_fast_enough(looks: list[Look]) -> None:
    assert lines_of(looks) == []


def test_the_pace_of_choices_is_not_judged() -> None:
    assert lines_of(running(tokens=25, seconds=900), writes=False) == []


def test_an_engine_that_sends_nothing_is_named() -> None:
    (line,) = lines_of([(second, {"in_flight": 8, "tokens_heard": 5}) for second in (0.0, 60.0, 119.0, 125.0, 300.0)])

    assert line.startswith("the engine has sent nothing for 125 s, for 8 requests: check the server and its log")


@pytest.mark.parametrize("state", [{"in_flight": 0}, {"paused": 1}, {"outage": 1}])
def test_a_server_that_starts_pauses_or_is_out_is_not_judged(state: dict[str, int]) -> None:
    before = running(tokens=25, seconds=100, reply=10)
    gap: list[Look] = [(100.0 + second, {"in_flight": 48, "tokens_heard": 2500} | state) for second in range(0, 600, 5)]
    after = [(700.0 + now, dict(counts) | {"answers": 10_000}) for now, counts in running(tokens=25, seconds=100)]

    assert lines_of([*before, *gap, *after]) == []
