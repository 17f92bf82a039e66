from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.generation.completions import Failure, Outcome, Request
from pipeline.io.shards import read_meta, read_shard
from pipeline.plan import BuildPlan
from pipeline.quality.rules import Violation
from pipeline.runtime.resources import resources, sampler
from pipeline.runtime.results import Tokens
from pipeline.sampling.pairs import (
    Draft,
    PairShard,
    load_drafts,
    render_prompts,
    sample_directions,
    settle_pairs,
    store_pairs,
    validate_pairs,
)
from pipeline.sampling.posts import take_posts
from tests.pipeline.helpers import (
    Reply,
    answered,
    asked,
    body_of,
    good_reply,
    of_users,
    prepared,
    reply,
    tiny,
    write_jsonl,
)

LAST, NOT_LAST = True, False
GOOD = "You should call your sister tonight and tell her everything."


def plan_at(folder: Path, **keys: Any) -> BuildPlan:
    return prepared(folder / "build", tiny(**keys))


def asked_first(plan: BuildPlan, attempt: int = 0) -> PairShard:
    return asked(plan.shards()[0], plan, attempt)


def failing(shard: PairShard, bad: dict[int, Outcome]) -> PairShard:
    """Return the shard with good replies, except for the requests at these positions."""
    outcomes = [bad.get(k, good_reply(request)) for k, request in enumerate(shard.requests())]
    return shard.with_outcomes(outcomes)


def stored(shard: PairShard, plan: BuildPlan) -> list[dict[str, Any]]:
    store_pairs(shard, plan)
    return rejections_of(shard, plan)


def rejections_of(shard: PairShard, plan: BuildPlan) -> list[dict[str, Any]]:
    return list(read_shard(plan.path("rejected/pairs", shard.spec)).to_pylist())


def hints(plan: BuildPlan, direction: Any) -> list[str]:
    return [trait["hint"] for trait in resources(plan).space.traits(direction)]


def user_text(request: Request) -> str:
    return str(body_of(request)["messages"][-1]["content"])


def directions(shard: PairShard) -> list[list[int]]:
    return [draft.direction.tolist() for draft in shard.drafts]


def test_opened_shard_has_its_posts_and_nothing_else(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    spec = plan.shards()[1]

    shard = load_drafts(spec, plan)

    assert [draft.index for draft in shard.drafts] == list(range(12, 24))
    stored = take_posts(plan.output / "seeds" / "train.parquet", np.arange(12, 24))
    assert [draft.post for draft in shard.drafts] == stored
    assert [draft.pair_id for draft in shard.drafts] == [f"{plan.fingerprint[:8]}-train-{k:07d}" for k in range(12, 24)]
    assert not any(draft.direction.any() or draft.requests or draft.outcomes for draft in shard.drafts)
    assert shard.journal == "pairs-train-00001-of-00003"


def test_sampled_points_have_the_configured_number_of_dimensions(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, sampling={"min_active": 3, "max_active": 4})

    shard = sample_directions(load_drafts(plan.shards()[0], plan), plan, 0)

    assert {int(np.abs(draft.direction).sum()) for draft in shard.drafts} == {3, 4}


def test_interests_are_active_only_where_the_post_is_about_them(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, sampling={"topical_weight": 1000})
    dimensions = resources(plan).space.dimensions

    shard = sample_directions(load_drafts(plan.shards()[0], plan), plan, 0)

    seen = [
        (dimensions[d].slug, draft.post.topics)
        for draft in shard.drafts
        for d in np.flatnonzero(draft.direction)
        if dimensions[d].topical
    ]
    assert seen
    assert all(slug in topics for slug, topics in seen)


def test_point_of_a_row_does_not_depend_on_the_rest_of_its_shard(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    opened = load_drafts(plan.shards()[0], plan)
    whole = sample_directions(opened, plan, 1)

    alone = sample_directions(replace(opened, drafts=opened.drafts[3:5]), plan, 1)

    assert directions(alone) == directions(whole)[3:5]


def test_every_attempt_and_every_split_draws_other_points(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    train, validation = plan.shards()[0], plan.shards()[3]
    drawn = [
        directions(sample_directions(load_drafts(spec, plan), plan, attempt))[0]
        for spec, attempt in ((train, 0), (train, 1), (validation, 0))
    ]

    assert len({tuple(point) for point in drawn}) == 3


def test_shard_with_nothing_left_to_draw_passes_through(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    done = PairShard(plan.shards()[0], [])

    assert sample_directions(done, plan, 1) is done
    assert render_prompts(done, plan).requests() == []


def test_post_that_no_dimension_fits_is_rejected_for_good(tmp_path: Path) -> None:
    posts = [{"id": f"p{k}", "text": f"post {k}", "topics": ["travel"] if k % 2 else []} for k in range(60)]
    seeds = {"path": str(write_jsonl(tmp_path / "posts.jsonl", posts))}
    plan = plan_at(tmp_path, seeds=seeds, sampling={"dimensions": ["interests"], "min_active": 1}, attempts=3)

    shard = sample_directions(load_drafts(plan.shards()[0], plan), plan, 0)

    assert shard.drafts
    assert all(draft.post.topics == ("travel",) for draft in shard.drafts)
    assert len(shard.drafts) + len(shard.rejections) == 12
    for rejection in shard.rejections:
        assert (rejection.stage, rejection.reason, rejection.final) == ("sample", "no_dimension", True)
        assert int(rejection.post_id.removeprefix("p")) % 2 == 0
        assert rejection.texts == ()


def test_chosen_prompt_has_the_persons_hints_and_rejected_prompt_the_opposite_ones(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    for draft in asked_first(plan).drafts:
        chosen, rejected = map(user_text, draft.requests)

        assert all(f"- {hint}" in chosen.splitlines() for hint in hints(plan, draft.direction))
        assert all(f"- {hint}" in rejected.splitlines() for hint in hints(plan, -draft.direction))
        assert not any(hint in chosen for hint in hints(plan, -draft.direction))
        assert not any(hint in rejected for hint in hints(plan, draft.direction))


def test_an_assistant_is_asked_to_serve_the_person_and_the_opposite_one(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, style="assistant")
    traits = resources(plan).space.traits

    for draft in asked_first(plan).drafts:
        for request, sign in zip(draft.requests, (1, -1), strict=True):
            text = user_text(request)
            asked_for = [line.removeprefix("- ") for line in text.splitlines() if line.startswith("- ")]
            assert asked_for == [trait["service"] for trait in traits(sign * draft.direction)]
            assert text.startswith(f"Message: {draft.post.title}")


def test_both_prompts_begin_with_the_same_post_and_end_with_the_persona(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    for draft in asked_first(plan).drafts:
        chosen, rejected = map(user_text, draft.requests)
        persona = chosen.index(hints(plan, draft.direction)[0])

        assert draft.post.title in chosen[:persona]
        assert draft.post.text.strip() in chosen[:persona]
        assert rejected.startswith(chosen[: persona - len("- ")])


def test_requests_carry_the_generation_settings(tmp_path: Path) -> None:
    generation = {"model": "stub", "temperature": 0.3, "top_p": 0.7, "max_tokens": 77, "stop": ["\n"]}
    plan = plan_at(tmp_path, generation=generation | {"extra": {"top_k": 5}})

    body = body_of(asked_first(plan).requests()[0])

    assert {key: body[key] for key in (*generation, "top_k")} == generation | {"top_k": 5}


def test_every_request_of_every_attempt_is_another_one_with_another_seed(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    requests = [request for k in range(3) for request in asked_first(plan, attempt=k).requests()]

    assert len({request.key for request in requests}) == len(requests) == 3 * 24
    assert len({body_of(request)["seed"] for request in requests}) == len(requests)


def test_requests_are_the_same_whenever_they_are_rendered(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    assert asked_first(plan).requests() == asked_first(plan).requests()


def test_outcomes_are_dealt_to_their_drafts_in_order(tmp_path: Path) -> None:
    shard = asked_first(plan_at(tmp_path))
    outcomes = [reply(f"text {k}") for k in range(24)]

    dealt = shard.with_outcomes(outcomes)

    assert [draft.outcomes for draft in dealt.drafts] == [(outcomes[2 * k], outcomes[2 * k + 1]) for k in range(12)]


def test_good_replies_make_pairs(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    asking = asked_first(plan)

    shard = validate_pairs(answered(asking), plan, NOT_LAST)

    assert (shard.drafts, list(shard.rejections)) == ([], [])
    for draft, pair in zip(asking.drafts, shard.pairs, strict=True):
        chosen, rejected = map(good_reply, draft.requests)
        assert (pair.chosen, pair.rejected) == (getattr(chosen, "text", ""), getattr(rejected, "text", ""))
        assert (pair.pair_id, pair.post_id, pair.prompt) == (draft.pair_id, draft.post.id, draft.post.prompt)
        assert (pair.direction, pair.topics) == (tuple(draft.direction.tolist()), draft.post.topics)
        assert (pair.source, pair.model, pair.attempt) == ("sampled", "stub", 0)
        assert (pair.prompt_tokens, pair.completion_tokens) == (200, 60)


def test_raw_texts_are_cleaned_and_the_steps_are_counted_in_the_footer(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    raw: dict[int, Outcome] = {
        0: reply(f"<think>Hm.</think>Reply: {GOOD}"),
        2: reply("Reply: no"),
        3: reply(f"{GOOD} And then", "length"),
    }

    shard = validate_pairs(failing(asked_first(plan), raw), plan, LAST)

    assert shard.pairs[0].chosen == GOOD
    (rejection,) = shard.rejections
    assert (rejection.texts, rejection.cleaned) == (("Reply: no", f"{GOOD} And then"), ("no", GOOD))
    assert store_pairs(shard, plan)["cleaned"] == {"reasoning": 1, "lead_in": 2, "cut_at_sentence": 1}


def test_a_step_that_is_switched_off_leaves_its_part_to_the_rules(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, cleaning={"lead_in": False})

    shard = validate_pairs(failing(asked_first(plan), {0: reply(f"Reply: {GOOD}")}), plan, LAST)

    assert [rejection.reason for rejection in shard.rejections] == ["markup"]


@pytest.mark.parametrize(("reasoning_tokens", "reason"), [(0, "unfinished"), (20, None)])
def test_what_is_cut_off_may_be_reasoning_without_a_mark(
    tmp_path: Path, reasoning_tokens: int, reason: str | None
) -> None:
    plan = plan_at(tmp_path, generation={"model": "stub", "reasoning": "keep out"})
    cut = replace(reply(f"{GOOD} And then", "length"), reasoning_tokens=reasoning_tokens)

    shard = validate_pairs(failing(asked_first(plan), {0: cut}), plan, LAST)

    assert [rejection.reason for rejection in shard.rejections] == ([reason] if reason else [])


BAD: list[tuple[str, str, tuple[Outcome, Outcome]]] = [
    ("generate", "http_400", (reply(GOOD), Failure("http_400", "HTTP 400: no", may_pass=False))),
    ("generate", "timeout", (Failure("timeout", "no reply", may_pass=True), reply("short"))),
    (
        "validate",
        "unfinished",
        (reply("You should call your sister tonight and tell", "length"), reply("Better wait until she calls you.")),
    ),
    ("validate", "empty", (reply(GOOD), reply(" "))),
    ("validate", "too_short", (reply("Call her."), reply(GOOD))),
    ("validate", "refusal_or_meta", (reply(GOOD), reply("As an AI I have no sister to call."))),
    ("validate", "markup", (reply(GOOD), reply("You should wait until she calls.\nUser: thanks"))),
    ("validate", "equal", (reply(GOOD), reply(f'"{GOOD}"'))),
    ("validate", "length_ratio", (reply(GOOD), reply("Better wait until she calls you. " * 9 + "Or do not wait?"))),
]


@pytest.mark.parametrize(("stage", "reason", "outcomes"), BAD)
def test_bad_row_is_rejected_with_its_reason_and_raw_texts(
    tmp_path: Path, stage: str, reason: str, outcomes: tuple[Outcome, Outcome]
) -> None:
    plan = plan_at(tmp_path, rules={"max_repeated_share": 1})
    asking = asked_first(plan)

    shard = validate_pairs(failing(asking, dict(enumerate(outcomes))), plan, LAST)

    assert [pair.pair_id for pair in shard.pairs] == [draft.pair_id for draft in asking.drafts[1:]]
    (rejection,) = shard.rejections
    assert (rejection.record_id, rejection.stage, rejection.reason) == (asking.drafts[0].pair_id, stage, reason)
    assert rejection.texts == tuple(getattr(outcome, "text", "") for outcome in outcomes)
    assert rejection.direction == tuple(asking.drafts[0].direction.tolist())
    assert (rejection.post_id, rejection.prompt) == (asking.drafts[0].post.id, asking.drafts[0].post.prompt)


def test_reply_that_copies_its_own_persona_is_rejected(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    asking = asked_first(plan)
    copy = reply("I think so. " + hints(plan, -asking.drafts[0].direction)[0])

    shard = validate_pairs(failing(asking, {1: copy}), plan, LAST)

    assert [rejection.reason for rejection in shard.rejections] == ["copied"]


def test_rejected_row_stays_a_draft_until_the_last_attempt(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, attempts=2)
    bad: Reply = lambda request: reply("no")  # noqa: E731

    first = validate_pairs(answered(asked_first(plan), bad), plan, NOT_LAST)
    second = render_prompts(sample_directions(first, plan, 1), plan)
    last = validate_pairs(answered(second, bad), plan, LAST)

    assert len(first.drafts) == 12
    assert all(draft.requests == () and draft.outcomes == () for draft in first.drafts)
    assert {(rejection.attempt, rejection.final) for rejection in first.rejections} == {(0, False)}
    assert last.drafts == []
    assert [(r.attempt, r.final) for r in last.rejections] == [(0, False)] * 12 + [(1, True)] * 12


def test_row_that_succeeds_later_keeps_its_failed_attempt_and_says_which_one_it_was(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, attempts=2)
    first = validate_pairs(failing(asked_first(plan), {5: reply("no")}), plan, NOT_LAST)

    shard = validate_pairs(answered(render_prompts(sample_directions(first, plan, 1), plan)), plan, LAST)
    meta = store_pairs(shard, plan)

    assert [draft.index for draft in first.drafts] == [2]
    assert [row["attempt"] for row in read_shard(plan.path("pool", shard.spec)).to_pylist()] == [0, 0, 1] + [0] * 9
    assert (meta["accepted"], meta["lost"], meta["rejected"]) == (12, 0, {"validate/too_short": 1})


def test_stored_shard_is_the_same_in_whatever_order_rows_arrived(tmp_path: Path) -> None:
    bad: dict[int, Outcome] = {5: reply("no"), 12: Failure("timeout", "", may_pass=True), 13: reply("no")}
    contents = []
    for name, order in (("forth", slice(None)), ("back", slice(None, None, -1))):
        plan = plan_at(tmp_path / name)
        shard = validate_pairs(failing(asked_first(plan), bad), plan, LAST)
        turned: Sequence[Any] = [*shard.pairs][order]
        store_pairs(replace(shard, pairs=turned, rejections=[*shard.rejections][order]), plan)
        contents.append([plan.path(folder, shard.spec).read_bytes() for folder in ("pool", "rejected/pairs")])

    assert contents[0] == contents[1]


def test_stored_shard_is_in_order_of_its_rows(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    shard = validate_pairs(failing(asked_first(plan), {5: reply("no"), 12: reply("no")}), plan, LAST)

    rejections = stored(shard, plan)

    pool = read_shard(plan.path("pool", shard.spec)).to_pylist()
    assert [int(row["pair_id"][-7:]) for row in pool] == [0, 1, 3, 4, 5, 7, 8, 9, 10, 11]
    assert [int(row["record_id"][-7:]) for row in rejections] == [2, 6]


def test_footers_count_the_shard(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    bad: dict[int, Outcome] = {0: Failure("http_400", "", may_pass=False), 4: reply("no"), 7: reply("no")}
    shard = validate_pairs(failing(asked_first(plan), bad), plan, LAST)

    meta = store_pairs(shard, plan)

    name = f"{shard.spec.name}.parquet"
    assert read_meta(plan.path("pool", shard.spec)) == meta | {"file": f"pool/{name}"}
    assert read_meta(plan.path("rejected/pairs", shard.spec)) == meta | {"file": f"pairs/{name}"}
    assert meta == {
        "fingerprint": plan.fingerprint,
        "asked": 12,
        "accepted": 9,
        "examples": 0,
        "lost": 3,
        "unanswered": 0,
        "open": 0,
        "rejected": {"generate/http_400": 1, "validate/too_short": 2},
        "prompt_tokens": 23 * 100,
        "completion_tokens": 23 * 30,
        "reasoning_tokens": 0,
        "cleaned": {},
        "kinds": {"opposite": 9},
        "verification_by_kind": {},
        "content": meta["content"],
    }


def test_footer_tells_pairs_that_circumstances_cost_from_those_at_fault_themselves(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    bad: dict[int, Outcome] = {0: Failure("timeout", "", may_pass=True), 4: reply("no")}
    shard = validate_pairs(failing(asked_first(plan), bad), plan, LAST)

    meta = store_pairs(shard, plan)

    assert (meta["lost"], meta["unanswered"], meta["open"]) == (2, 1, 1)
    assert [rejection.may_pass for rejection in shard.rejections] == [True, False]


def test_pair_is_unanswered_where_any_of_its_attempts_was(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, attempts=2)
    bad: dict[int, Outcome] = {0: Failure("timeout", "", may_pass=True), 4: Failure("timeout", "", may_pass=True)}
    first = validate_pairs(failing(asked_first(plan), bad), plan, NOT_LAST)
    second = render_prompts(sample_directions(first, plan, 1), plan)

    meta = store_pairs(validate_pairs(failing(second, {0: reply("no")}), plan, LAST), plan)

    # One failed again by itself; the other was answered.
    assert (meta["lost"], meta["unanswered"], meta["open"]) == (1, 1, 1)


def test_content_of_a_shard_is_that_of_its_pairs(tmp_path: Path) -> None:
    contents = []
    outcomes: dict[str, dict[int, Outcome]] = {"a": {}, "b": {}, "c": {4: reply("no")}}
    for name, bad in outcomes.items():
        plan = plan_at(tmp_path / name)
        shard = validate_pairs(failing(asked_first(plan), bad), plan, LAST)
        contents.append(store_pairs(shard, plan)["content"])

    assert contents[0] == contents[1] != contents[2]


def test_shard_without_a_single_pair_is_stored(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)
    shard = validate_pairs(answered(asked_first(plan), lambda request: reply("no")), plan, LAST)

    rejections = stored(shard, plan)

    assert read_shard(plan.path("pool", shard.spec)).num_rows == 0
    assert len(rejections) == 12


# Pairs that a judge is to verify


def test_pairs_that_obey_the_rules_wait_for_the_judge(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, verification={"mode": "record"})

    shard = validate_pairs(failing(asked_first(plan), {0: reply("no")}), plan, NOT_LAST)

    assert (len(shard.drafts), len(shard.unverified), len(shard.pairs)) == (1, 11, 0)
    assert all(pair.pair_id == draft.pair_id for draft, pair in shard.unverified)


@pytest.mark.parametrize("last", [LAST, NOT_LAST])
def test_a_pair_that_the_judge_refuses_is_rejected_and_drawn_again_while_attempts_are_left(
    tmp_path: Path, last: bool
) -> None:
    plan = plan_at(tmp_path, verification={"mode": "filter"})
    shard = validate_pairs(answered(asked_first(plan)), plan, last)
    draft, refused = shard.unverified[0]
    margins = (0.25,) + (None,) * (len(refused.direction) - 1)
    found = refused.model_copy(update={"direction_margin": margins})
    verdicts = [(found, Violation("drift", "by 0.9")), *((pair, None) for _, pair in shard.unverified[1:])]

    settled = settle_pairs(shard, verdicts, Tokens(100, 10), {"opposite": {"pairs": 12}}, last)

    assert settled.pairs == [pair for _, pair in shard.unverified[1:]]
    (rejection,) = settled.rejections
    assert (rejection.stage, rejection.reason, rejection.final) == ("verify", "drift", last)
    assert rejection.direction == tuple(draft.direction.tolist())
    assert rejection.direction_margin == margins
    assert rejection.cleaned == (refused.chosen, refused.rejected)
    assert [open_draft.pair_id for open_draft in settled.drafts] == ([] if last else [draft.pair_id])
    assert (settled.tokens.prompt, settled.unverified) == (shard.tokens.prompt + 100, ())


def test_what_the_judge_found_adds_up_over_attempts(tmp_path: Path) -> None:
    plan = plan_at(tmp_path, verification={"mode": "filter"})
    shard = PairShard(plan.shards()[0], [], verification={"opposite": {"pairs": 12, "asked": 40}})

    settled = settle_pairs(shard, [], Tokens(), {"opposite": {"pairs": 3, "asked": 10}, "near": {"pairs": 1}}, LAST)

    assert store_pairs(settled, plan)["verification_by_kind"] == {
        "opposite": {"pairs": 15, "asked": 50},
        "near": {"pairs": 1},
    }


def of_kinds(folder: Path, **keys: Any) -> BuildPlan:
    """A small build of users with pairs of every kind."""
    kinds = {"kinds": {"near": 0.4, "restraint": 0.3}}
    return prepared(
        folder / "build", of_users(count=24, splits={"train": 1, "validation": 0, "test": 0}, **kinds | keys)
    )


def all_drafts(plan: BuildPlan) -> list[Draft]:
    return [draft for spec in plan.shards() for draft in asked(spec, plan).drafts]


def test_replies_are_written_for_the_persons_of_their_kind(tmp_path: Path) -> None:
    plan = of_kinds(tmp_path)
    space = resources(plan).space

    drafts = all_drafts(plan)

    assert {draft.kind for draft in drafts} == {"opposite", "near", "restraint"}
    for draft in drafts:
        chosen, rejected = (
            {trait["hint"] for trait in (*space.traits(draft.traits), *space.traits(-draft.traits))}
            & {line.removeprefix("- ") for line in user_text(request).splitlines()}
            for request in draft.requests
        )
        flipped = draft.traits - 2 * draft.direction
        assert chosen == set(() if draft.kind == "restraint" else hints(plan, draft.traits))
        assert rejected == set(hints(plan, draft.traits if draft.kind == "restraint" else flipped))
        if draft.kind == "opposite":
            assert np.array_equal(flipped, -draft.traits)


def test_pairs_of_users_name_their_kind_and_their_user(tmp_path: Path) -> None:
    plan = of_kinds(tmp_path)
    shard = asked(plan.shards()[0], plan)

    pairs = validate_pairs(answered(shard), plan, LAST).pairs

    sampled = sampler(plan).users(np.arange(4), 8, 16)
    for draft, pair in zip(shard.drafts, pairs, strict=True):
        user = draft.index // 4
        assert pair.user_id == f"{plan.fingerprint[:8]}-u{user:07d}"
        assert pair.user_direction == tuple(sampled[user].tolist())
        assert pair.kind == draft.kind
        assert pair.traits == (tuple(draft.traits.tolist()) if pair.kind == "near" else ())
        assert all(level in (0, whole) for level, whole in zip(pair.direction, pair.user_direction, strict=True))


def test_pairs_of_a_matched_build_name_no_user(tmp_path: Path) -> None:
    plan = plan_at(tmp_path)

    pairs = validate_pairs(answered(asked_first(plan)), plan, LAST).pairs

    assert {(pair.kind, pair.traits, pair.user_id, pair.user_direction) for pair in pairs} == {("opposite", (), "", ())}


def test_rejected_draft_keeps_its_post_its_user_and_its_kind(tmp_path: Path) -> None:
    plan = of_kinds(tmp_path)
    first = asked(plan.shards()[0], plan)
    bad: dict[int, Outcome] = {2 * k: reply("") for k in range(len(first.drafts))}

    again = sample_directions(validate_pairs(failing(first, bad), plan, NOT_LAST), plan, 1)

    assert len(again.drafts) == len(first.drafts)
    for before, after in zip(first.drafts, again.drafts, strict=True):
        assert (before.post, before.user, before.kind) == (after.post, after.user, after.kind)
    assert directions(again) != directions(first)
