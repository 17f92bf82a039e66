"""Which parts of a persona are used: counter-based and uniform for training, the first ones for evaluation."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from everyuser_train.config import PersonaConfig
from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.personas import NO_PERSONA, Persona, draw_persona, evaluation_persona
from schemas.base import UsageError
from tests.spaces import TWO

ICA = PersonaConfig(method="ica")


def _levels(*levels: int) -> Any:
    return np.array(levels, dtype=np.int8)


def _example(number: int = 0, ugc: int = 4, pair: int = 4, **fields: Any) -> Example:
    example = Example(
        number=number,
        id=str(number),
        post="p",
        prompt="post",
        chosen="a",
        rejected="b",
        direction=_levels(1, 0),
        profile=None,
        portrait="A student.",
        ugc=tuple(UgcItem(f"u{k}", "c", _levels(1, -1)) for k in range(ugc)),
        pair=tuple(PairItem(f"q{k}", "a", "b", _levels(0, -1)) for k in range(pair)),
    )
    return replace(example, **fields)


def _names(persona: Persona) -> list[str]:
    return [item.prompt for item in persona.ugc] + [item.prompt for item in persona.pair]


def test_a_draw_depends_on_seed_epoch_and_number_alone() -> None:
    cases = [(seed, epoch, number) for seed in (0, 1) for epoch in (0, 1) for number in range(50)]
    drawn = {case: _names(draw_persona(_example(case[2]), ICA, TWO, case[0], case[1])) for case in cases}
    random.Random(0).shuffle(cases)
    assert all(_names(draw_persona(_example(c[2]), ICA, TWO, c[0], c[1])) == drawn[c] for c in cases)
    runs: list[list[list[str]]] = [
        [drawn[seed, epoch, n] for n in range(50)] for seed, epoch in ((0, 0), (0, 1), (1, 0))
    ]
    assert runs[0] != runs[1]
    assert runs[0] != runs[2]
    assert len({tuple(names) for names in runs[0]}) > 30


def test_draws_are_the_same_in_every_version() -> None:
    # A resumed run must see the same personas after an upgrade of numpy.
    assert [_names(draw_persona(_example(number), ICA, TWO, 3, 1)) for number in (0, 1, 10**12)] == [
        ["u2", "u0", "q3", "q2"],
        ["u2", "u0", "u3", "u1"],
        ["u2", "u0", "u1", "q2", "q1", "q0"],
    ]


def test_a_kind_is_drawn_alike_with_and_without_the_other() -> None:
    alone = PersonaConfig(method="ica", parts=("pair",))
    for number in range(20):
        both = draw_persona(_example(number), ICA, TWO, 0, 0)
        assert _names(draw_persona(_example(number), alone, TWO, 0, 0)) == _names(both._replace(ugc=()))


def test_counts_items_and_places_are_uniform_and_without_repeats() -> None:
    personas = [draw_persona(_example(number), ICA, TWO, 0, 0) for number in range(5000)]
    counts = Counter(len(persona.ugc) for persona in personas)
    assert sorted(counts) == [0, 1, 2, 3, 4]
    assert all(abs(count - 1000) < 130 for count in counts.values())  # 4.6 standard deviations
    firsts = Counter(persona.ugc[0].prompt for persona in personas if persona.ugc)
    assert all(abs(count - 1000) < 130 for count in firsts.values())
    assert all(len(set(_names(persona))) == len(_names(persona)) for persona in personas)
    both = np.corrcoef([len(persona.ugc) for persona in personas], [len(persona.pair) for persona in personas])
    assert abs(both[0, 1]) < 0.07


@pytest.mark.parametrize(
    ("low", "high", "there", "seen"),
    [(0, 4, 2, {0, 1, 2}), (2, 3, 4, {2, 3}), (3, 4, 2, {2}), (0, 0, 4, {0}), (1, 4, 0, {0})],
)
def test_bounds_are_at_most_what_is_there(low: int, high: int, there: int, seen: set[int]) -> None:
    config = PersonaConfig(method="ica", items_min=low, items_max=high)
    assert {len(draw_persona(_example(number, ugc=there), config, TWO, 0, 0).ugc) for number in range(60)} == seen


@pytest.mark.parametrize("parts", [("ugc",), ("pair",), ("demo",), ("ugc", "demo")])
def test_parts_that_are_not_asked_for_are_empty(parts: Sequence[Any]) -> None:
    drawn = draw_persona(_example(), PersonaConfig(method="ica", parts=tuple(parts), items_min=1), TWO, 0, 0)
    taken = evaluation_persona(_example(), parts, 2, "ica", "target", TWO)
    for persona in (drawn, taken):
        assert bool(persona.ugc) == ("ugc" in parts)
        assert bool(persona.pair) == ("pair" in parts)
        assert bool(persona.portrait) == ("demo" in parts)


def test_evaluation_takes_the_first_items() -> None:
    assert _names(evaluation_persona(_example(), ("ugc", "pair"), 2, "ica", "target", TWO)) == [
        "u0",
        "u1",
        "q0",
        "q1",
    ]
    assert len(_names(evaluation_persona(_example(), ("ugc", "pair"), 16, "ica", "target", TWO))) == 8
    assert evaluation_persona(_example(), (), 4, "ica", "target", TWO) == NO_PERSONA


def test_ica_needs_no_space_and_no_direction() -> None:
    assert evaluation_persona(_example(direction=None), ("demo",), 0, "ica", "history", None).portrait == "A student."


def test_target_profile_is_the_example_s_own_words_or_its_direction_s() -> None:
    assert evaluation_persona(_example(profile="Prefers tea"), (), 0, "pba", "target", None).profile == "Prefers tea"
    assert evaluation_persona(_example(), (), 0, "pba", "target", TWO).profile == "Young"
    assert draw_persona(_example(), PersonaConfig(method="pba"), TWO, 0, 0).profile == "Young"


@pytest.mark.parametrize(
    ("parts", "items", "profile"),
    [
        (("ugc",), 2, "Young, Serious"),
        (("pair",), 2, "Serious"),
        (("demo",), 0, "Young"),
        (("ugc", "pair"), 1, "Young, Serious"),
        (("pair", "demo"), 1, "Young, Serious"),
        (("pair", "demo"), 4, "Serious"),
        (("ugc", "pair"), 0, ""),
        ((), 4, ""),
    ],
)
def test_history_profile_is_what_the_used_parts_say_together(parts: Sequence[Any], items: int, profile: str) -> None:
    assert evaluation_persona(_example(), parts, items, "pba", "history", TWO).profile == profile


def test_the_example_s_direction_counts_only_with_a_portrait() -> None:
    assert evaluation_persona(_example(portrait=""), ("demo",), 0, "pba", "history", TWO).profile == ""
    persona = evaluation_persona(_example(portrait="", ugc=1), ("ugc", "demo"), 1, "pba", "history", TWO)
    assert persona.profile == "Young, Serious"


def test_parts_without_a_direction_leave_the_word_to_the_others() -> None:
    example = _example(direction=None, pair=0, ugc=1)
    example = replace(example, ugc=(*example.ugc, UgcItem("u", "c")))
    assert evaluation_persona(example, ("ugc", "demo"), 2, "pba", "history", TWO).profile == "Young, Serious"


def test_profiles_need_a_direction_and_a_space() -> None:
    nothing = _example(direction=None, ugc=0, pair=1)
    nothing = replace(nothing, pair=(PairItem("q", "a", "b"),))
    with pytest.raises(UsageError, match="neither a direction nor a profile"):
        evaluation_persona(nothing, (), 0, "pba", "target", TWO)
    with pytest.raises(UsageError, match="no part of the persona"):
        evaluation_persona(nothing, ("pair",), 1, "pba", "history", TWO)
    with pytest.raises(UsageError, match="no preference space"):
        evaluation_persona(_example(), (), 0, "pba", "target", None)
    with pytest.raises(UsageError, match="no preference space"):
        draw_persona(_example(), PersonaConfig(method="pba", direction="history", items_min=1), None, 0, 0)


def test_flipped_examples_say_the_opposite() -> None:
    flipped = _example(direction=_levels(1, -1), profile="Young, Serious").flipped()
    assert evaluation_persona(flipped, ("demo",), 0, "pba", "target", TWO).profile == "Older, Likes humor"
    assert evaluation_persona(flipped, ("ugc", "pair", "demo"), 4, "pba", "history", TWO).profile == "Likes humor"


@pytest.mark.parametrize(("items", "ugc", "pair"), [(0, 0, 0), (1, 0, 1), (2, 1, 1), (5, 2, 3), (8, 4, 4), (99, 4, 4)])
def test_known_items_are_the_first_that_the_pipeline_dealt(items: int, ugc: int, pair: int) -> None:
    persona = evaluation_persona(_example(), ("ugc", "pair"), items, "ica", "target", TWO, together=True)

    assert _names(persona) == [f"u{k}" for k in range(ugc)] + [f"q{k}" for k in range(pair)]
    assert not persona.portrait
    assert len(_names(evaluation_persona(_example(), ("ugc",), items, "ica", "target", TWO, together=True))) == min(
        items, 4
    )


def test_the_user_s_direction_is_all_that_is_true_of_it() -> None:
    example = _example(user_direction=_levels(1, -1), profile="Young")

    assert evaluation_persona(example, (), 0, "pba", "user", TWO).profile == "Young, Serious"
    assert draw_persona(example, PersonaConfig(method="pba", direction="user"), TWO, 0, 0).profile == "Young, Serious"
    assert evaluation_persona(example.flipped(), (), 0, "pba", "user", TWO).profile == "Older, Likes humor"
    with pytest.raises(UsageError, match="has no user_direction"):
        evaluation_persona(_example(), (), 0, "pba", "user", TWO)
