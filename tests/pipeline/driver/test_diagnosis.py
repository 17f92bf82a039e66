from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from pipeline.driver.diagnosis import Diagnosis, explain_rejections, latest_verdicts

Look = tuple[float, Mapping[str, int]]


def verdicts(accepted: int, prefix: str = "", **rejected: int) -> dict[str, int]:
    """Return counts of attempts at a pair, as the stages of a build make them."""
    reasons = {f"{prefix}rejected/validate/{reason}": number for reason, number in rejected.items()}
    return {f"{prefix}accepted": accepted, f"{prefix}rejected": sum(rejected.values()), **reasons}


def lines_of(looks: Iterable[Look], writes: bool = True) -> list[str]:
    """What is reported of counts at some seconds, in order."""
    lines: list[str] = []
    diagnosis = Diagnosis(lines.append, writes)
    for now, counts in looks:
        diagnosis.update(counts, now)
    return lines


@pytest.mark.parametrize("prefix", ["", "early/"])
def test_a_run_without_a_pair_names_the_commonest_reason_and_its_remedy(prefix: str) -> None:
    (line,) = explain_rejections(verdicts(0, prefix, copied=30, too_short=2)).values()

    assert line == (
        "no pair yet: all of the first 32 attempts were rejected, 30 as validate/copied: use another generation.model "
        "or other templates, or raise rules.copied_ngram"
    )


@pytest.mark.parametrize("counts", [{}, verdicts(0, copied=31), verdicts(1, copied=40)])
def test_bad_luck_is_not_reported(counts: dict[str, int]) -> None:
    assert explain_rejections(counts) == {}


def test_a_reason_of_most_rejections_is_named_where_few_attempts_are_accepted() -> None:
    (line,) = explain_rejections(verdicts(20, copied=130, unfinished=80)).values()

    assert line.startswith("62% of 210 rejections are validate/copied, and 9% of attempts are accepted: use another")
    assert explain_rejections(verdicts(110, copied=130, unfinished=80)) == {}
    assert explain_rejections(verdicts(20, copied=100, unfinished=100)) == {}


def test_early_verdicts_count_until_the_first_shard_is_judged() -> None:
    early = verdicts(0, "early/", copied=40)

    assert latest_verdicts(early).tried == 40
    assert latest_verdicts(early | verdicts(9, copied=1)) == (9, 1, {"validate/copied": 1})
    assert explain_rejections(early | verdicts(9, copied=1)) == {}


def test_pairs_that_wait_for_the_judge_are_not_lost() -> None:
    waiting = verdicts(0, copied=40) | {"validated": 50}

    assert explain_rejections(waiting) == {}
    assert len(explain_rejections(waiting | {"judged": 50})) == 1


def test_responses_without_levels_are_no_attempts_at_a_pair() -> None:
    (line,) = explain_rejections(verdicts(5) | {"rejected/annotate/schema": 40}).values()

    assert line.startswith("no annotation yet: all of the first 40 responses were rejected, 40 as annotate/schema: ")
    assert len(explain_rejections({"rejected/annotate/schema": 40})) == 1
    assert explain_rejections({"annotated": 60, "rejected/annotate/schema": 40}) == {}


def test_each_cause_is_reported_once() -> None:
    counts = [
        verdicts(0, copied=40),
        verdicts(0, copied=80, empty=20),
        verdicts(1, copied=90, empty=20),
        verdicts(1, copied=95, empty=20),
    ]

    first, second = lines_of((float(second), found) for second, found in enumerate(counts))

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
