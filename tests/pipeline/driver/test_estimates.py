from __future__ import annotations

from pipeline.driver.estimates import expected_work


def test_what_is_to_come_asks_as_many_questions_as_what_was_begun() -> None:
    # 40 pairs are begun: an earlier run has left the answers to 60 of their questions, and 20 were asked now.
    counts = {"begun": 40, "questions": 20, "answers": 15, "answers_replayed": 60}

    assert expected_work(counts, total=60, settled=30, attempts=1) == (15, 5 + 20 * 2)


def test_without_questions_work_is_in_pairs() -> None:
    assert expected_work({}, total=60, settled=30, attempts=4) == (30, 30)
