"""Cleans threads: drops responses that break a rule, removes personal data, and turns ratings into levels."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from statistics import median

from pipeline.plan import BuildPlan
from pipeline.quality.rules import check_control_tokens, detect_language
from pipeline.reading.text import count_words, normalise
from pipeline.runtime.resources import resources
from pipeline.threads.parsing import Post, Response, hash_content
from pipeline.threads.scrub import scrub
from preference_space.space import PreferenceSpace
from schemas.records import SeedPost

CleanThread = tuple[SeedPost, list[Response]]


def clean_thread(post: Post, responses: Sequence[Response], plan: BuildPlan, counts: Counter[str]) -> CleanThread:
    """Clean a thread.

    Args:
        post: The post.
        responses: All its responses, in any order.
        plan: Plan of the build, with the rules.
        counts: Gets the number of dropped responses, by reason.

    Returns:
        The post, and its usable responses with levels, sorted by id. The seed picks among equals.
    """
    mining, rules = plan.mining, plan.config.rules
    ordered = sorted(
        responses,
        key=lambda response: (
            hashlib.blake2b(f"{plan.config.seed}\x1f{response.id}".encode()).digest(),
            response.id,
            response.text,
        ),
    )
    authors, texts, ids = set[str](), set[str](), set[str]()
    names = {author for author in (post.author, *(response.author for response in responses)) if author}
    kept: list[Response] = []
    for response in ordered:
        if len(response.text) > rules.max_characters:
            counts["responses/too_long"] += 1
            continue
        text = scrub(response.text, names).strip() if mining.scrub else response.text.strip()
        plain = normalise(text)
        if count_words(text) < mining.min_words:
            # Counted again, as scrubbing turns a link of many words into one.
            counts["responses/too_short"] += 1
        elif mining.annotator is None and response.levels is None and response.ratings is None:
            counts["responses/without_levels"] += 1
        elif check_control_tokens(text, rules):
            counts["responses/control_token"] += 1
        elif plain in texts or (response.id in ids and not response.content_hash):
            counts["responses/duplicate"] += 1
        elif mining.one_per_author and response.author in authors:
            counts["responses/same_author"] += 1
        elif rules.language is not None and detect_language(text) != rules.language:
            counts["responses/language"] += 1
        elif len(kept) == mining.max_responses:
            counts["responses/over_limit"] += 1
        else:
            # Ids of responses may also start over in each row.
            identity = f"{response.id}~{hash_content(plain)}" if response.id in ids else response.id
            kept.append(response._replace(id=identity, text=text))
            ids.add(identity)
            texts.add(plain)
            if response.author:
                authors.add(response.author)
    clean = (scrub(text, names) if mining.scrub else text for text in (post.title, post.text))
    title, text = (part.strip() for part in clean)
    return (
        SeedPost(id=post.id, title=title, text=text, topics=tuple(post.topics)),
        sorted(_with_levels(kept, resources(plan).space), key=lambda response: response.id),
    )


def _with_levels(responses: Sequence[Response], space: PreferenceSpace) -> Iterator[Response]:
    """Yield the responses, with levels for ratings: the sign of each rating minus the median of the thread's."""
    slugs = {slug for response in responses for slug in response.ratings or ()}
    medians = {slug: median(r.ratings[slug] for r in responses if r.ratings and slug in r.ratings) for slug in slugs}
    for response in responses:
        if response.ratings is None:
            yield response
            continue
        levels = [0] * len(space)
        for slug, rating in response.ratings.items():
            levels[space.index[slug]] = (rating > medians[slug]) - (rating < medians[slug])
        yield response._replace(levels=levels)
