"""Sampled pairs, as pure functions of a shard: load posts, sample points, render prompts, validate, store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from pydantic import ValidationError

from pipeline.generation.completions import Completion, Failure, Outcome, Request, count_tokens, make_request
from pipeline.plan import BuildPlan, ShardSpec
from pipeline.quality.cleaning import NOTHING, Cleaned, clean
from pipeline.quality.rules import Violation, check_pair, check_reply, schema_violation
from pipeline.runtime.inputs import impersonal, seed_paths
from pipeline.runtime.resources import resources, sampler
from pipeline.runtime.results import NO_TOKENS, Tokens, store_pool
from pipeline.sampling.assignment import Posts, assign_posts, users_of_shard
from pipeline.sampling.points import draw_points
from pipeline.sampling.posts import take_posts
from preference_space.direction import Direction
from schemas.records import Kind, Pair, Rejection, SeedPost


@dataclass(frozen=True, slots=True, eq=False)
class User:
    """The user of a pair."""

    id: str
    direction: Direction


@dataclass(frozen=True, slots=True)
class Draft:
    """A pair before validation. `requests` and `outcomes` are (chosen, rejected), or empty.

    `traits` are those of the person. `direction` has the traits in which the two replies are to differ.
    """

    index: int
    pair_id: str
    post: SeedPost
    attempt: int
    direction: Direction
    traits: Direction
    kind: Kind = "opposite"
    user: User | None = None
    requests: tuple[Request, ...] = ()
    outcomes: tuple[Outcome, ...] = ()

    @property
    def written_for(self) -> dict[str, Direction]:
        """Return the traits that each reply is written for: a person, none, or one who differs in the direction."""
        if self.kind == "restraint":
            return {"chosen": np.zeros_like(self.traits), "rejected": self.traits}
        return {"chosen": self.traits, "rejected": self.traits - 2 * self.direction}


@dataclass(frozen=True, slots=True)
class PairShard:
    """The element of phase one for sampled pairs.

    `drafts` are open, `pairs` accepted, `rejections` failed attempts. `unverified` are pairs that wait for the judge,
    with their drafts. `tokens` are of all attempts, and so are `cleaned`, the number of replies that each step of
    cleaning changed, and `verification`, what the judge found by kind of pair.
    """

    spec: ShardSpec
    drafts: Sequence[Draft]
    unverified: Sequence[tuple[Draft, Pair]] = ()
    pairs: Sequence[Pair] = ()
    rejections: Sequence[Rejection] = ()
    tokens: Tokens = NO_TOKENS
    cleaned: Mapping[str, int] = field(default_factory=dict)
    verification: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @property
    def journal(self) -> str:
        """Return the name of the journal with this shard's completions."""
        return f"pairs-{self.spec.name}"

    def requests(self) -> list[Request]:
        """Return the requests of all drafts, in order."""
        return [request for draft in self.drafts for request in draft.requests]

    def with_outcomes(self, outcomes: Sequence[Outcome]) -> PairShard:
        """Return the shard with the outcomes of `requests()`, in their order."""
        answered, position = [], 0
        for draft in self.drafts:
            end = position + len(draft.requests)
            answered.append(replace(draft, outcomes=tuple(outcomes[position:end])))
            position = end
        return replace(self, drafts=answered)


def load_drafts(spec: ShardSpec, plan: BuildPlan) -> PairShard:
    """Return a shard with a draft for each post, all neutral."""
    neutral = np.zeros(len(resources(plan).space), dtype=np.int8)

    def posts_in(name: str) -> Posts:
        return lambda numbers: take_posts(seed_paths(plan)[name], numbers)

    found = users_of_shard(plan.config, sampler(plan), spec)
    posts = assign_posts(
        spec, plan.config, sampler(plan), found, posts_in(spec.split), posts_in(impersonal(spec.split))
    )
    users: list[User | None] = [None] * spec.count
    if found is not None:
        ids = map(plan.user_id, found.numbers.tolist())
        users = [User(*user) for user in zip(ids, found.directions, strict=True)]
    drafts = [
        Draft(index, spec.record_id(plan.fingerprint, index), post, 0, neutral, neutral, user=user)
        for index, (post, user) in enumerate(zip(posts, users, strict=True), spec.start)
    ]
    return PairShard(spec, drafts)


def sample_directions(shard: PairShard, plan: BuildPlan, attempt: int) -> PairShard:
    """Draw what every draft is written for. Reject drafts whose post admits no dimension.

    Args:
        shard: Shard with open drafts.
        plan: Plan of the build.
        attempt: Number of the attempt, from 0; each draws different points.
    """
    if not shard.drafts:
        return shard
    records = np.array([draft.index for draft in shard.drafts])
    topics = [draft.post.topics for draft in shard.drafts]
    directions = [draft.user.direction for draft in shard.drafts if draft.user is not None]
    users = np.array(directions) if directions else None
    points = draw_points(plan.config, sampler(plan), shard.spec.split, attempt, records, topics, users)
    drafts = [
        replace(draft, attempt=attempt, kind=kind, traits=traits, direction=direction)
        for draft, kind, traits, direction in zip(shard.drafts, *points, strict=True)
    ]
    neutral = [draft for draft in drafts if not draft.direction.any()]
    cause = Violation("no_dimension", "no dimension fits the post")
    return replace(
        shard,
        drafts=[draft for draft in drafts if draft.direction.any()],
        rejections=[*shard.rejections, *(_rejection(draft, "sample", cause, True) for draft in neutral)],
    )


def render_prompts(shard: PairShard, plan: BuildPlan) -> PairShard:
    """Render the two requests of every draft, each for the traits that its reply is written for."""
    return replace(shard, drafts=[_rendered(draft, shard.spec, plan) for draft in shard.drafts])


def validate_pairs(shard: PairShard, plan: BuildPlan, last: bool) -> PairShard:
    """Turn answered drafts into pairs or rejections. Pairs are accepted unless a judge is to verify them.

    Args:
        shard: Shard whose drafts have outcomes.
        plan: Plan of the build.
        last: Whether this is the last attempt. If not, rejected drafts remain for the next one.
    """
    pairs, rejections, retries = [], [*shard.rejections], []
    steps = Counter(shard.cleaned)
    for draft in shard.drafts:
        replies = [_clean(outcome, plan) for outcome in draft.outcomes]
        steps.update(step for reply in replies for step in reply.steps)
        pair = _make_pair(draft, replies, plan)
        if isinstance(pair, Pair):
            pairs.append((draft, pair))
            continue
        stage = "generate" if isinstance(pair, Failure) else "validate"
        rejections.append(_rejection(draft, stage, pair, last, [reply.text for reply in replies]))
        if not last:
            retries.append(replace(draft, requests=(), outcomes=()))
    tokens = count_tokens(outcome for draft in shard.drafts for outcome in draft.outcomes)
    validated = replace(shard, drafts=retries, rejections=rejections, tokens=shard.tokens + tokens, cleaned=dict(steps))
    if plan.config.verification.is_on:
        return replace(validated, unverified=pairs)
    return replace(validated, pairs=[*shard.pairs, *(pair for _, pair in pairs)])


def settle_pairs(
    shard: PairShard,
    verdicts: Sequence[tuple[Pair, Violation | Failure | None]],
    tokens: Tokens,
    counts: Mapping[str, Mapping[str, int]],
    last: bool,
) -> PairShard:
    """Accept or reject the unverified pairs.

    Args:
        shard: Shard with unverified pairs.
        verdicts: A verdict on each: the pair as the judge found it, and the cause of its rejection, if any.
        tokens: Tokens of the judge's questions and answers.
        counts: What the judge found, by kind of pair and name.
        last: Whether this is the last attempt. If not, the drafts of rejected pairs remain for the next one.
    """
    pairs, rejections, retries = [*shard.pairs], [*shard.rejections], [*shard.drafts]
    for (draft, _), (pair, cause) in zip(shard.unverified, verdicts, strict=True):
        if cause is None:
            pairs.append(pair)
            continue
        rejection = _rejection(draft, "verify", cause, last, (pair.chosen, pair.rejected))
        rejections.append(rejection.model_copy(update={"direction_margin": pair.direction_margin}))
        if not last:
            retries.append(replace(draft, requests=(), outcomes=()))
    return replace(
        shard,
        drafts=retries,
        unverified=(),
        pairs=pairs,
        rejections=rejections,
        tokens=shard.tokens + tokens,
        verification={
            **shard.verification,
            **{kind: Counter(found) + Counter(shard.verification.get(kind, {})) for kind, found in counts.items()},
        },
    )


def store_pairs(shard: PairShard, plan: BuildPlan) -> dict[str, Any]:
    """Write the shard's rejections, then its pairs; return its footer."""
    return store_pool(
        shard.spec,
        plan,
        shard.pairs,
        shard.rejections,
        shard.tokens,
        cleaned=shard.cleaned,
        verification=shard.verification,
    )


def _rendered(draft: Draft, spec: ShardSpec, plan: BuildPlan) -> Draft:
    parts = resources(plan)
    post = draft.post.plain
    requests = []
    for role, traits in draft.written_for.items():
        messages = parts.styled("reply").render(post=post, traits=parts.space.traits(traits))
        counter = (plan.config.seed, spec.split, draft.index, draft.attempt, role)
        requests.append(make_request(plan.config.generation, messages, counter))
    return replace(draft, requests=tuple(requests))


def _clean(outcome: Outcome, plan: BuildPlan) -> Cleaned:
    if isinstance(outcome, Failure):
        return NOTHING
    return clean(outcome.text, plan.config.cleaning_of(outcome.reasoning_tokens), outcome.finish_reason)


def _make_pair(draft: Draft, replies: Sequence[Cleaned], plan: BuildPlan) -> Pair | Violation | Failure:
    rules = plan.config.rules
    for request, outcome, reply in zip(draft.requests, draft.outcomes, replies, strict=True):
        if isinstance(outcome, Failure):
            return outcome
        if violation := check_reply(reply.text, reply.finish_reason, request.texts, rules):
            return violation
    chosen, rejected = (reply.text for reply in replies)
    if violation := check_pair(chosen, rejected, rules, draft.kind):
        return violation
    tokens = count_tokens(draft.outcomes)
    user = draft.user
    try:
        return Pair(
            pair_id=draft.pair_id,
            post_id=draft.post.id,
            prompt=draft.post.prompt,
            chosen=chosen,
            rejected=rejected,
            direction=tuple(draft.direction.tolist()),
            topics=draft.post.topics,
            source="sampled",
            model=plan.config.generation.model,
            attempt=draft.attempt,
            prompt_tokens=tokens.prompt,
            completion_tokens=tokens.completion,
            kind=draft.kind,
            traits=tuple(draft.traits.tolist()) if draft.kind == "near" else (),
            user_id=user.id if user else "",
            user_direction=tuple(user.direction.tolist()) if user else (),
        )
    except ValidationError as error:
        return schema_violation(error)


def _rejection(
    draft: Draft, stage: Any, cause: Violation | Failure, final: bool, cleaned: Sequence[str] = ()
) -> Rejection:
    return Rejection(
        record_id=draft.pair_id,
        stage=stage,
        reason=cause.reason,
        detail=cause.detail,
        attempt=draft.attempt,
        final=final,
        post_id=draft.post.id,
        prompt=draft.post.prompt,
        direction=tuple(draft.direction.tolist()),
        texts=tuple(o.text if isinstance(o, Completion) else "" for o in draft.outcomes),
        cleaned=tuple(cleaned),
        kind=draft.kind,
        may_pass=cause.may_pass,
    )
