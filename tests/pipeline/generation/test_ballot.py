from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from pipeline.generation.ballot import Ballot
from pipeline.generation.completions import (
    PROBABILITIES,
    VOTES,
    AnyRequest,
    Completion,
    Failure,
    Outcome,
    choice_head,
    decode_probabilities,
    encode_probabilities,
    make_choice_request,
)
from pipeline.generation.items import RequestBatch
from pipeline.generation.journal import JournalWriter, read_journal
from pipeline.generation.service import GenerationService
from pipeline.plan import BuildPlan
from tests.pipeline.generation.asking import finish, hang, make_choices
from tests.pipeline.helpers import tiny
from tests.stub import StubServer, chat_alone, refuse
from tests.waiting import wait_until

CHOICE = make_choice_request(choice_head("m", structured_outputs=False), "Rye.", ("Kind?", "Young?"), b"known")
DOWN = Failure("timeout", "no reply", may_pass=True)
REFUSED = Failure("http_400", "no", may_pass=False)


class Journal:
    def __init__(self) -> None:
        self.lines: list[tuple[str, Outcome]] = []

    def append(self, key: str, outcome: Outcome) -> None:
        self.lines.append((key, outcome))

    def close(self) -> None:
        raise AssertionError("the owner of the journal closes it")


def by_numbers(*shares: float) -> Completion:
    return Completion(encode_probabilities([shares]), PROBABILITIES, 100, 2, reasoning_tokens=1)


def by_letter(letter: str) -> Completion:
    return Completion(encode_probabilities([[float(option == letter) for option in "ABC"]]), VOTES, 100, 1)


def counted(answer: Callable[[int], Outcome], votes: int = 3) -> tuple[Outcome, int]:
    """The outcome of a ballot whose requests get `answer(n)`, n being their order, and the number of requests."""
    journal, batch = Journal(), RequestBatch([None, None], 1)
    queue: list[tuple[AnyRequest, RequestBatch, JournalWriter]] = []
    sent, is_open = 0, False

    def submit(
        requests: Sequence[tuple[int, AnyRequest]], batch: RequestBatch, journal: JournalWriter, is_begun: bool = False
    ) -> None:
        assert is_begun == is_open
        queue.extend((request, batch, journal) for _, request in requests)

    Ballot(CHOICE, votes, 1, batch, journal, submit).open()
    is_open = True
    while queue:
        request, ballot, writer = queue.pop(0)
        writer.append(request.key, answer(sent))
        ballot.pending -= 1
        sent += 1
    assert batch.is_done
    outcome = batch.outcomes[1]
    assert outcome is not None
    assert journal.lines == [(CHOICE.key, outcome)]
    return outcome, sent


def shares(outcome: Outcome) -> list[list[int]]:
    assert isinstance(outcome, Completion)
    return decode_probabilities(outcome.text).tolist()


def test_with_numbers_one_vote_on_each_question_is_enough() -> None:
    outcome, sent = counted(lambda n: (by_numbers(0.2, 0.6, 0.2), by_numbers(1, 0, 0))[n])

    assert (shares(outcome), sent) == ([[51, 153, 51], [255, 0, 0]], 2)
    assert isinstance(outcome, Completion)
    assert outcome == Completion(outcome.text, PROBABILITIES, 200, 4, reasoning_tokens=2)


def test_the_probabilities_of_one_vote_are_not_rounded_again() -> None:
    outcome, _ = counted(lambda n: Completion(bytes([48, 176, 30]).hex(), PROBABILITIES, 100, 1))

    assert shares(outcome)[0] == [48, 176, 30]


def test_without_numbers_shares_are_those_of_the_votes() -> None:
    # First votes on both questions, then two more on each.
    outcome, sent = counted(lambda n: by_letter("ABABBC"[n]))

    assert (shares(outcome), sent) == ([[170, 85, 0], [0, 170, 85]], 6)
    assert isinstance(outcome, Completion)
    assert (outcome.finish_reason, outcome.prompt_tokens, outcome.completion_tokens) == (VOTES, 600, 6)


def test_one_question_without_numbers_is_asked_again_alone() -> None:
    outcome, sent = counted(lambda n: by_letter("C") if n == 0 else by_numbers(0, 1, 0) if n == 1 else by_letter("A"))

    assert (shares(outcome), sent) == ([[170, 0, 85], [0, 255, 0]], 4)


def test_votes_that_name_no_option_do_not_count() -> None:
    outcome, _ = counted(lambda n: by_letter("ABxxxC"[n]))

    assert shares(outcome) == [[255, 0, 0], [0, 128, 128]]


def test_where_no_vote_names_an_option_there_is_no_answer() -> None:
    outcome, _ = counted(lambda n: by_letter("xBxxBB"[n]))

    assert shares(outcome)[0] == [0, 0, 0]


def test_one_vote_may_be_enough() -> None:
    assert counted(lambda n: by_letter("AB"[n]), votes=1)[1] == 2


def test_a_failed_vote_fails_the_request_and_no_further_one_is_cast() -> None:
    assert counted(lambda n: DOWN if n == 0 else by_letter("A")) == (DOWN, 2)


def test_a_failure_that_will_not_pass_is_the_one_that_is_kept() -> None:
    assert counted(lambda n: (DOWN, REFUSED)[n])[0] == REFUSED


# A kill

IN_FLIGHT, QUESTIONS, VOTES_EACH = 8, 5, 3
VOTER = chat_alone(has_numbers=False)


def judge_at(folder: Path, url: str) -> GenerationService:
    """The service of a judge that knows chat alone."""
    engine = {"kind": "openai", "base_urls": [url], "in_flight": IN_FLIGHT}
    settings = {"mode": "record", "model": "judge", "protocol": "chat", "votes": VOTES_EACH}
    return GenerationService(BuildPlan(folder, "", tiny(engine=engine, verification=settings)), "verification")


@pytest.mark.parametrize("is_busy", [False, True], ids=["at once", "with limits"])
@pytest.mark.parametrize("answers", [100, 149, 260])
def test_a_kill_loses_the_answers_in_flight_and_those_of_one_request(
    tmp_path: Path, answers: int, is_busy: bool
) -> None:
    requests, served, refused = make_choices(*[QUESTIONS] * 30), 0, 0

    async def mortal(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        nonlocal served, refused
        if is_busy and served // 20 > refused:
            refused += 1
            return await refuse(429, "slow down")(request, body)
        served += 1
        return await (VOTER if served <= answers else hang)(request, body)

    with StubServer(mortal, on_trial=VOTER) as stub:
        service = judge_at(tmp_path / "killed", stub.url)
        service.submit("verify-0", requests)
        wait_until(lambda: service.counters.get("answers") == answers)
        decided = len(read_journal(tmp_path / "killed" / "journal" / "verify-0.jsonl"))
        service.close()
    assert answers - decided * QUESTIONS * VOTES_EACH <= IN_FLIGHT + QUESTIONS * VOTES_EACH

    whole, resumed = (answered(tmp_path / name, requests) for name in ("whole", "killed"))
    assert resumed[0] == whole[0]
    assert whole[1] - resumed[1] == decided * QUESTIONS * VOTES_EACH


def answered(folder: Path, requests: Sequence[AnyRequest]) -> tuple[list[Outcome], int]:
    """The outcomes of requests, and how many votes they took."""
    with StubServer(VOTER, on_trial=VOTER) as stub:
        service = judge_at(folder, stub.url)
        outcomes = finish(service, service.submit("verify-0", requests))
        service.close()
        return outcomes, len(stub.bodies)
