from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import cache
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.assembly.history import History, Pool
from pipeline.assembly.matching import choose_mined_histories, parts_of, ranked, shares_a_sign
from schemas.config import HistoryConfig
from tests.pipeline.mining.reference import (
    Entry,
    Levels,
    View,
    cosine,
    meets_criterion,
    people,
    seen,
    vote,
)

Floats = npt.NDArray[np.float64]
Consistency = Literal["strict", "paper"]

BOTH, ONE = (1, -1), (1,)
SIZES = [(ugc, pair) for ugc in range(5) for pair in range(5) if ugc + pair]
THRESHOLDS = [0.0, 0.3, 0.5, 0.6, 0.75, 0.9, 0.95]
DIMENSIONS = [1, 2, 3, 5, 8, 20, 90]
REASONS = {"history_too_short", "history_without_support", "history_inconsistent"}


def config(
    ugc: int, pair: int, min_similarity: float = 0.6, consistency: Consistency = "strict", min_support: float = 0.0
) -> HistoryConfig:
    return HistoryConfig(
        ugc=ugc, pair=pair, min_similarity=min_similarity, consistency=consistency, min_support=min_support
    )


def pool_of(entries: Sequence[Entry]) -> Pool:
    """The entries as the arrays that the pipeline works on."""
    numbers: dict[str, int] = {}
    posts, chosen, rejected = (
        np.array([numbers.setdefault(text, len(numbers)) for text in texts])
        for texts in zip(*((entry.post, entry.chosen, entry.rejected) for entry in entries), strict=True)
    )
    levels = [entry.chosen_levels for entry in entries] + [entry.rejected_levels for entry in entries]
    directions = [entry.direction for entry in entries]
    pairs = np.array(directions, dtype=np.int8), np.array(levels, dtype=np.int8), posts, chosen, rejected
    every = np.ones(len(directions), dtype=bool)
    return Pool(*pairs, has_mirror=every, has_comments=every)


def entry(chosen: Sequence[int], rejected: Sequence[int], name: str, post: str | None = None) -> Entry:
    """A pair with texts of its own."""
    return Entry(post or f"post {name}", f"{name} chosen", f"{name} rejected", tuple(chosen), tuple(rejected))


def random_entries(seed: int, rows: int, size: int) -> list[Entry]:
    """Pairs of replies by a few kinds of people, with noise. Some posts and replies repeat."""
    numbers = np.random.default_rng(seed)
    kinds = numbers.choice([-1, 0, 0, 1], size=(int(numbers.integers(2, 6)), size))
    noise = float(numbers.choice([0.0, 0.05, 0.2, 0.5]))
    levels = kinds[numbers.integers(0, len(kinds), (rows, 2))]
    levels = np.where(numbers.random(levels.shape) < noise, numbers.integers(-1, 2, levels.shape), levels)
    for row, d in enumerate(numbers.integers(0, size, rows).tolist()):
        # Two replies of different clusters differ somewhere.
        if (levels[row, 0] == levels[row, 1]).all():
            levels[row, 0, d], levels[row, 1, d] = (1, int(numbers.choice([-1, 0])))[:: int(numbers.choice([1, -1]))]
    posts = np.where(numbers.random(rows) < 0.8, np.arange(rows), numbers.integers(0, rows, rows))
    own = np.arange(2 * rows).reshape(rows, 2)
    replies = np.where(numbers.random((rows, 2)) < 0.9, own, numbers.integers(0, 2 * rows, (rows, 2)))
    return [
        Entry(f"post {post}", f"reply {first}", f"reply {second}", tuple(chosen), tuple(rejected))
        for post, (first, second), (chosen, rejected) in zip(
            posts.tolist(), replies.tolist(), levels.tolist(), strict=True
        )
    ]


class Case(NamedTuple):
    """A target of a random pool, and the histories that were chosen for it."""

    entries: list[Entry]
    target: int
    rules: HistoryConfig
    sides: tuple[int, ...]
    order: Floats
    shift: float
    found: tuple[History, ...] | str


@cache
def cases() -> list[Case]:
    """Every row of many random pools; the largest are for the steps in which targets and candidates are taken."""
    result = []
    for seed in range(280):
        numbers = np.random.default_rng([1, seed])
        rows, size = int(numbers.integers(1, 36)), DIMENSIONS[seed % len(DIMENSIONS)]
        if seed % 40 == 0:
            rows, size = 140, 5
        ugc, pair = SIZES[int(numbers.integers(len(SIZES)))]
        rules = config(
            ugc,
            pair,
            float(numbers.choice(THRESHOLDS)),
            "paper" if numbers.random() < 0.4 else "strict",
            float(numbers.choice([0.0, 0.3, 0.5, 1.0])),
        )
        entries, sides = random_entries(seed, rows, size), BOTH if numbers.random() < 0.6 else ONE
        order, shift = numbers.random(rows), numbers.random(rows)
        chosen = choose_mined_histories(pool_of(entries), rows, rules, sides, order, shift)
        result += [
            Case(entries, target, rules, sides, order, float(shift[target]), found)
            for target, found in enumerate(chosen)
        ]
    return result


class Chosen(NamedTuple):
    """A history that was chosen, with its person and its items as entries."""

    rules: HistoryConfig
    person: Entry
    ugc: list[Entry]
    pair: list[Entry]
    history: History


def accepted(consistency: Consistency | None = None) -> list[Chosen]:
    """All histories of all sides."""
    result = []
    for case in cases():
        if isinstance(case.found, str) or consistency not in (None, case.rules.consistency):
            continue
        for side, history in zip(case.sides, case.found, strict=True):
            person = seen(case.entries, View(case.target, side < 0))
            ugc, pair = (
                [seen(case.entries, view) for view in views_of(numbers, len(case.entries))]
                for numbers in (history.ugc, history.pair)
            )
            result.append(Chosen(case.rules, person, ugc, pair, history))
    assert len(result) > 100
    return result


def views_of(numbers: npt.NDArray[np.int64], rows: int) -> list[View]:
    return [View(number % rows, number >= rows) for number in numbers.tolist()]


def numbers_of(views: Sequence[View], rows: int) -> list[int]:
    return [view.row + rows * view.is_mirrored for view in views]


def contradicts(person: Entry, shown: Levels) -> bool:
    return any(level * other < 0 for level, other in zip(person.direction, shown, strict=True))


def supported(person: Entry, shown: Levels) -> set[int]:
    return {d for d, (a, b) in enumerate(zip(person.direction, shown, strict=True)) if a and a == b}


def histories_of(
    entries: Sequence[Entry], rules: HistoryConfig, sides: tuple[int, ...] = BOTH, shift: float = 0.0
) -> tuple[History, ...] | str:
    """What is chosen for the first entry."""
    rows = len(entries)
    order = np.linspace(0.01, 0.99, rows)
    return next(choose_mined_histories(pool_of(entries), 1, rules, sides, order, np.full(rows, shift)))


def first_of(entries: Sequence[Entry], rules: HistoryConfig) -> History:
    """The history of the person who prefers the first entry's chosen reply."""
    found = histories_of(entries, rules, ONE)
    assert isinstance(found, tuple), found
    return found[0]


def test_histories_are_those_of_the_reference() -> None:
    outcomes: Counter[tuple[str, str]] = Counter()

    for case in cases():
        expected = people(case.entries, case.target, case.rules, case.sides, case.order.tolist(), case.shift)
        outcomes[case.rules.consistency, expected if isinstance(expected, str) else "history"] += 1
        if isinstance(expected, str) or isinstance(case.found, str):
            assert case.found == expected, (case.target, case.rules)
            continue
        for found, person in zip(case.found, expected, strict=True):
            assert found.ugc.tolist() == numbers_of(person.ugc, len(case.entries)), (case.target, case.rules)
            assert found.pair.tolist() == numbers_of(person.pair, len(case.entries)), (case.target, case.rules)
            assert found.support == pytest.approx(person.support)

    assert set(outcomes) == {
        ("strict", "history"),
        ("strict", "history_too_short"),
        ("strict", "history_without_support"),
        ("paper", "history"),
        ("paper", "history_too_short"),
        ("paper", "history_inconsistent"),
    }
    assert min(outcomes.values()) > 30, outcomes


def test_every_target_gets_a_history_for_each_side_or_a_reason() -> None:
    for case in cases():
        if isinstance(case.found, str):
            assert case.found in REASONS
        else:
            assert len(case.found) == len(case.sides)


def test_history_has_exactly_the_asked_number_of_each_kind() -> None:
    for rules, _, ugc, pair, _ in accepted():
        assert (len(ugc), len(pair)) == (rules.ugc, rules.pair)


def test_replies_of_p_ugc_are_similar_to_the_one_that_the_person_prefers() -> None:
    for rules, person, ugc, _, _ in accepted():
        for item in ugc:
            assert cosine(person.chosen_levels, item.chosen_levels) > rules.min_similarity + 1e-9


def test_both_replies_of_p_pair_are_similar_to_the_targets() -> None:
    for rules, person, _, pair, _ in accepted():
        for item in pair:
            assert cosine(person.chosen_levels, item.chosen_levels) > rules.min_similarity + 1e-9
            assert cosine(person.rejected_levels, item.rejected_levels) > rules.min_similarity + 1e-9


def test_no_item_of_a_strict_history_contradicts_the_person() -> None:
    for _, person, ugc, pair, _ in accepted("strict"):
        assert not any(contradicts(person, item.chosen_levels) for item in ugc)
        assert not any(contradicts(person, item.direction) for item in pair)


def test_no_post_and_no_reply_is_repeated_nor_equals_the_targets() -> None:
    for _, person, ugc, pair, _ in accepted():
        taken = [person, *ugc, *pair]
        posts = [item.post for item in taken]
        replies = [reply for item in taken for reply in {item.chosen, item.rejected}]
        assert len(set(posts)) == len(posts)
        assert len(set(replies)) == len(replies)


def test_support_is_the_share_of_target_dimensions_that_an_item_supports() -> None:
    for rules, person, ugc, pair, history in accepted():
        shown = [item.chosen_levels for item in ugc] + [item.direction for item in pair]
        covered = set[int]().union(*(supported(person, levels) for levels in shown))
        assert history.support == pytest.approx(len(covered) / sum(map(abs, person.direction)))
        assert rules.consistency == "paper" or history.support >= rules.min_support


def test_paper_histories_share_a_sign_between_target_and_the_votes_of_both_parts() -> None:
    for _, person, ugc, pair, _ in accepted("paper"):
        parts = [[item.chosen_levels for item in ugc], [item.direction for item in pair]]
        assert meets_criterion([person.direction, *(vote(part) for part in parts if part)])


def test_paper_histories_are_in_the_order_of_similarity() -> None:
    for _, person, ugc, pair, _ in accepted("paper"):
        of_ugc = [cosine(person.chosen_levels, item.chosen_levels) for item in ugc]
        of_pair = [
            min(cosine(person.chosen_levels, i.chosen_levels), cosine(person.rejected_levels, i.rejected_levels))
            for i in pair
        ]
        assert of_ugc == sorted(of_ugc, reverse=True)
        assert of_pair == sorted(of_pair, reverse=True)


def test_opposite_person_has_the_same_pairs_turned_round() -> None:
    for case in cases():
        if isinstance(case.found, tuple) and len(case.found) == 2:
            one, other = case.found
            rows = len(case.entries)
            mirrored = [view.mirrored() for view in views_of(one.pair, rows)]
            assert other.pair.tolist() == numbers_of(mirrored, rows)


def test_history_of_one_side_does_not_depend_on_whether_the_other_is_asked_for() -> None:
    for case in cases()[::7]:
        if isinstance(case.found, tuple) and len(case.found) == 2:
            pool, shift = pool_of(case.entries), np.full(len(case.entries), case.shift)
            alone = [*choose_mined_histories(pool, case.target + 1, case.rules, ONE, case.order, shift)][case.target]
            assert isinstance(alone, tuple)
            assert alone[0].ugc.tolist() == case.found[0].ugc.tolist()
            assert alone[0].pair.tolist() == case.found[0].pair.tolist()


def test_history_does_not_depend_on_how_many_targets_are_asked_for() -> None:
    entries = random_entries(3, 150, 8)
    pool, rules = pool_of(entries), config(2, 2, 0.5)
    order, shift = np.random.default_rng(0).random((2, 150))

    every = [*choose_mined_histories(pool, 150, rules, BOTH, order, shift)]
    some = [*choose_mined_histories(pool, 70, rules, BOTH, order, shift)]

    assert len(every) == 150
    assert [str(found) for found in some] == [str(found) for found in every[:70]]


@pytest.mark.parametrize(("level", "expected"), [(0, "history_too_short"), (1, None)])
def test_similarity_must_be_above_the_threshold_not_at_it(level: int, expected: str | None) -> None:
    target = entry([1, 1, 1, 1, 1], [-1, 1, 1, 1, 1], "a")
    # Three equal levels of five are a cosine of 0.6, four are 0.8.
    other = entry([1, 1, 1, level, 0], [-1, 0, 0, 0, 0], "b")

    found = histories_of([target, other], config(1, 0, 0.6), ONE)

    assert found == expected if expected else isinstance(found, tuple)


@pytest.mark.parametrize("threshold", [0.07, 0.14, 0.28, 0.29, 0.55, 0.56, 0.57, 0.58])
def test_threshold_of_whole_matches_is_exact_whatever_floats_make_of_it(threshold: float) -> None:
    matches = round(threshold * 100)
    target = entry([1] * 100, [-1] + [1] * 99, "a")

    def is_similar(equal: int) -> bool:
        other = entry([1] * equal + [0] * (100 - equal), [-1] * 100, "b")
        return isinstance(histories_of([target, other], config(1, 0, threshold), ONE), tuple)

    assert not is_similar(matches)
    assert is_similar(matches + 1)


def test_zero_threshold_still_asks_for_one_equal_level() -> None:
    target = entry([1, 1], [-1, 1], "a")
    unlike, alike = entry([0, 0], [0, -1], "b"), entry([0, 0], [0, 1], "c")

    assert histories_of([target, unlike], config(1, 0, 0.0), ONE) == "history_too_short"
    assert first_of([target, unlike, alike], config(1, 0, 0.0)).ugc.tolist() == [5]


def test_pair_of_which_one_reply_alone_is_similar_is_no_item_of_p_pair() -> None:
    target = entry([1, 1, 1, 1], [-1, 1, 1, 1], "a")
    other = entry([1, 1, 1, 1], [0, 0, 0, 0], "b")

    assert histories_of([target, other], config(0, 1, 0.5), ONE) == "history_too_short"
    assert first_of([target, other], config(1, 0, 0.5)).ugc.tolist() == [1]


def test_pair_is_mirrored_round_where_that_makes_it_similar() -> None:
    target, other = entry([1, 1, 0], [0, 1, 0], "a"), entry([0, 1, 0], [1, 1, 0], "b")

    history = first_of([target, other], config(0, 1, 0.9))

    assert history.pair.tolist() == [3]
    assert history.support == 1


def test_rejected_reply_of_another_pair_may_be_an_item_of_p_ugc() -> None:
    target, other = entry([1, 1, 0], [0, 0, 0], "a"), entry([0, 0, 0], [1, 1, 0], "b")

    assert first_of([target, other], config(1, 0, 0.9)).ugc.tolist() == [3]


def test_opposite_person_wrote_what_is_similar_to_the_rejected_reply() -> None:
    target = entry([1, 1, 0, 0], [0, 0, -1, -1], "a")
    like_chosen, like_rejected = entry([1, 1, 0, 0], [1, -1, 1, 1], "b"), entry([0, 0, -1, -1], [-1, 1, 1, 0], "c")

    found = histories_of([target, like_chosen, like_rejected], config(1, 0, 0.9))

    assert isinstance(found, tuple)
    assert [history.ugc.tolist() for history in found] == [[1], [2]]


def test_pair_is_lost_where_the_opposite_person_has_no_history() -> None:
    target = entry([1, 1, 0, 0], [0, 0, -1, -1], "a")
    like_chosen = entry([1, 1, 0, 0], [1, -1, 1, 1], "b")

    assert isinstance(histories_of([target, like_chosen], config(1, 0, 0.9), ONE), tuple)
    assert histories_of([target, like_chosen], config(1, 0, 0.9), BOTH) == "history_too_short"


def test_reply_that_contradicts_one_dimension_is_out_however_similar_it_is() -> None:
    target = entry([1] * 10, [-1] + [1] * 9, "a")
    contradicting, neutral = entry([-1] + [1] * 9, [0] * 10, "b"), entry([0] + [1] * 7 + [0] * 2, [0] * 10, "c")

    assert first_of([target, contradicting, neutral], config(1, 0, 0.5)).ugc.tolist() == [2]


def test_dimension_on_which_the_target_is_neutral_cannot_be_contradicted() -> None:
    target, other = entry([1, 1, 1, 1], [0, 1, 1, 1], "a"), entry([1, -1, 1, 1], [0, 0, 0, 0], "b")

    assert first_of([target, other], config(1, 0, 0.5)).ugc.tolist() == [1]


def test_uncovered_dimensions_are_served_before_more_support_and_similarity() -> None:
    target = entry([1, 1, 1, 0, 0, 0], [0, 0, 0, 0, 0, 0], "a")
    broad = entry([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1], "b")
    same = entry([1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, -1], "c")
    new = entry([0, 0, 1, 1, 0, 0], [0, 0, 0, -1, -1, 1], "d")

    history = first_of([target, broad, same, new], config(2, 0, 0.4))

    assert history.ugc[0] in (1, 2)
    assert history.ugc[1] == 3
    assert history.support == 1


def test_of_equal_support_the_more_similar_reply_comes_first() -> None:
    target = entry([1, 0, 0, 0, 0], [0, 0, 0, 0, 0], "a")
    far, near = entry([1, 1, 1, 0, 0], [-1, -1, -1, -1, -1], "b"), entry([1, 1, 0, 0, 0], [-1, -1, -1, -1, -1], "c")

    for entries, expected in (([target, far, near], [2, 1]), ([target, near, far], [1, 2])):
        assert first_of(entries, config(2, 0, 0.4)).ugc.tolist() == expected


def test_pairs_come_first_and_replies_then_cover_what_they_left() -> None:
    target = entry([1, 1, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], "a")
    pair = entry([1, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0], "b")
    again, other = (
        entry([1, 0, 0, 0, 0, 0], [1, 1, 1, 1, 1, 1], "c"),
        entry([0, 1, 0, 0, 0, 1], [1, 0, 1, 1, 1, 1], "d"),
    )

    history = first_of([target, pair, again, other], config(1, 1, 0.6))

    assert history.pair.tolist() == [1]
    assert history.ugc.tolist() == [3]


def test_paper_takes_the_most_similar_reply_although_it_contradicts() -> None:
    target = entry([1, 1, 1, 1, 1], [-1, -1, 1, 1, 1], "a")
    contradicting, consistent = entry([-1, 1, 1, 1, 1], [0] * 5, "b"), entry([1, 1, 1, 0, 0], [0] * 5, "c")
    entries = [target, contradicting, consistent]

    assert first_of(entries, config(1, 0, 0.5, "paper")).ugc.tolist() == [1]
    assert first_of(entries, config(1, 0, 0.5)).ugc.tolist() == [2]


def test_paper_needs_a_dimension_with_the_same_sign_in_both_parts() -> None:
    target = entry([1, 1, 0, 0], [0, 0, 0, 0], "a")
    of_pair, of_ugc = entry([1, 0, 0, 0], [0, 0, 0, 0], "b"), entry([0, 1, 0, 0], [-1, -1, -1, -1], "c")

    for rules, expected in (
        (config(1, 1, 0.6, "paper"), "history_inconsistent"),
        (config(1, 1, 0.6, "paper", min_support=1.0), "history_inconsistent"),
        (config(1, 1, 0.6, "strict", min_support=1.0), 1.0),
    ):
        found = histories_of([target, of_pair, of_ugc], rules, ONE)
        assert (found if isinstance(found, str) else found[0].support) == expected


def test_paper_asks_for_no_support() -> None:
    target, other = entry([1, 1, 0, 0], [0, 0, 0, 0], "a"), entry([1, 0, 0, 0], [-1, -1, -1, -1], "b")

    assert first_of([target, other], config(1, 0, 0.6, "paper", min_support=1.0)).support == 0.5
    assert histories_of([target, other], config(1, 0, 0.6, min_support=1.0), ONE) == "history_without_support"


@pytest.mark.parametrize("consistency", ["strict", "paper"])
def test_candidates_beyond_the_shortlist_are_looked_at_where_it_does_not_suffice(consistency: Consistency) -> None:
    target = entry([1, 1, 1, 1], [0, 1, 1, 1], "a")
    # All of the nearest are about one post.
    near = [entry([1, 1, 1, 1], [0, 0, 0, 0], f"near {k}", post="one") for k in range(100)]
    far = [entry([1, 1, 1, 0], [0, 0, 0, 0], f"far {k}") for k in range(3)]

    history = first_of([target, *near, *far], config(4, 0, 0.5, consistency))

    assert history.ugc[0] in range(1, 101)
    assert sorted(history.ugc[1:].tolist()) == [101, 102, 103]


@pytest.mark.parametrize("consistency", ["strict", "paper"])
@pytest.mark.parametrize("repeated", ["post of the target", "reply of the target", "post", "reply"])
def test_repetition_is_no_item(consistency: Consistency, repeated: str) -> None:
    target, one, two = (entry([1, 1], [0, 1], name) for name in ("a", "b", "c"))
    alike = {
        "post of the target": [target, one, Entry(target.post, "x", "y", (1, 1), (0, 1))],
        "reply of the target": [target, one, Entry("p", "x", target.chosen, (1, 1), (0, 1))],
        "post": [target, one, Entry(one.post, "x", "y", (1, 1), (0, 1))],
        "reply": [target, one, Entry("p", one.rejected, "y", (1, 1), (0, 1))],
    }[repeated]

    for sizes in ((2, 0), (0, 2), (1, 1)):
        assert histories_of(alike, config(*sizes, 0.6, consistency), BOTH) == "history_too_short"
        assert isinstance(histories_of([target, one, two], config(*sizes, 0.4, consistency), ONE), tuple)


@pytest.mark.parametrize("consistency", ["strict", "paper"])
@pytest.mark.parametrize("min_support", [0.0, 0.5, 1.0])
def test_history_without_items_is_empty(consistency: Consistency, min_support: float) -> None:
    found = histories_of([entry([1], [0], "a")], config(0, 0, 0.6, consistency, min_support))

    assert isinstance(found, tuple)
    assert [(len(history.ugc), len(history.pair), history.support) for history in found] == [(0, 0, 0.0)] * 2


def test_empty_pool_gives_nothing() -> None:
    nothing, numbers = np.empty((0, 3), dtype=np.int8), np.empty(0, dtype=np.int64)
    pool = Pool(nothing, nothing, numbers, numbers, numbers, numbers >= 0, numbers >= 0)

    assert [*choose_mined_histories(pool, 0, config(1, 1), BOTH, np.empty(0), np.empty(0))] == []


def test_only_the_first_rows_are_targets() -> None:
    entries = random_entries(1, 10, 5)
    order, shift = np.random.default_rng(0).random((2, 10))

    assert len([*choose_mined_histories(pool_of(entries), 4, config(1, 0, 0.0), BOTH, order, shift)]) == 4


@pytest.mark.parametrize("sizes", [(1, 0), (0, 1)])
def test_ties_are_broken_differently_for_different_targets(sizes: tuple[int, int]) -> None:
    entries = [entry([1, 1], [0, 1], str(k)) for k in range(60)]
    order, shift = np.random.default_rng(0).random((2, 60))

    found = [*choose_mined_histories(pool_of(entries), 60, config(*sizes), ONE, order, shift)]

    items = {view for one in found if isinstance(one, tuple) for view in (*one[0].ugc, *one[0].pair)}
    assert len(items) > 12


def test_space_of_many_dimensions_overflows_nothing() -> None:
    target, same = entry([1] * 300, [-1] * 300, "a"), entry([1] * 300, [-1] * 300, "b")
    clashing = entry([1] * 172 + [-1] * 128, [0] * 300, "c")

    assert first_of([target, same, clashing], config(0, 1, 0.9)).pair.tolist() == [1]
    assert histories_of([target, clashing], config(1, 0, 0.5), ONE) == "history_too_short"


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([[1, 0]], True),
        ([[0, 0]], False),
        ([[1, -1], [1, 1]], True),
        ([[1, -1], [-1, -1]], True),
        ([[1, -1], [-1, 1]], False),
        ([[1, 1], [1, 0], [0, 1]], False),
        ([[1, 1], [0, 1], [-1, 1]], True),
        ([[1, 0], [1, 0], [0, 0]], False),
    ],
)
def test_shares_a_sign(parts: list[list[int]], expected: bool) -> None:
    assert shares_a_sign([np.array(part, dtype=np.int8) for part in parts]) is expected


def test_shares_a_sign_is_the_plain_criterion() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(300):
        parts = numbers.integers(-1, 2, size=(int(numbers.integers(1, 4)), int(numbers.integers(1, 5)))).astype(np.int8)
        assert shares_a_sign([*parts]) == meets_criterion([tuple(part) for part in parts.tolist()])


def test_parts_are_votes_on_levels_and_on_directions() -> None:
    entries = [
        entry([1, 0], [0, 0], "a"),
        entry([1, 1], [-1, 1], "b"),
        entry([0, -1], [1, -1], "c"),
        entry([1, 1], [0, 0], "d"),
    ]
    pool = pool_of(entries)

    # Replies: b's chosen, c's rejected, d's chosen; pairs: b as stored, c mirrored, d as stored.
    found = parts_of(History(np.array([1, 6, 3]), np.array([1, 6, 3]), 0.0), pool)

    assert [part.tolist() for part in found] == [[1, 1], [1, 0]]
    assert parts_of(History(np.array([1]), np.array([], dtype=np.int64), 0.0), pool)[0].tolist() == [1, 1]


def test_scores_of_the_largest_blocks_stay_in_order() -> None:
    dimensions, views = 2000, 2 * 65_536 * 9
    matches = np.full((1, views), dimensions - 1, dtype=np.float32)
    matches[0, -3:] = dimensions
    ties = np.arange(views)[None, ::-1].copy()
    out = np.zeros((1, views), dtype=bool)
    out[0, 0] = True

    scores = ranked(matches, ties, out)

    assert scores[0, 0] == 0
    assert scores[0, 1:].min() > 0
    assert scores.max() == dimensions * views + 2
    assert (np.argsort(-scores[0])[:5] == [views - 3, views - 2, views - 1, 1, 2]).all()
