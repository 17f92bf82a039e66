"""Parses rows into posts and responses, and counts what it drops.

An *item* is a post or a response to one; items come in any order. Posts and responses of a dump meet by the site's ids.
Ids of other sources may start over in each file, so there a response meets the post of its id *and* content.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.reading.columns import Columns
from pipeline.reading.text import clean_text, to_slug
from pipeline.reading.values import (
    Row,
    Rows,
    UnreadableError,
    is_missing,
    missing_column,
    parse_id,
    parse_list,
    parse_post,
    parse_text,
    parse_topics,
    short_repr,
)
from pipeline.threads.adapters import ADAPTERS, SLUGS
from pipeline.threads.filters import Filters
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import DumpSource, ThreadField

_ROUNDING = 1e-3
"""How far the sum of given probabilities may exceed 1."""
_MOST_DIGITS = 19
"""Longest decimal number that is read as an id in base 36."""


class Post(NamedTuple):
    """A post. `content_hash` is '' where the id alone identifies it, else a hash of the content of its row."""

    id: str
    title: str
    text: str
    topics: list[str]
    author: str = ""
    content_hash: str = ""


class Response(NamedTuple):
    """A response to the post with id `post` and the same `content_hash`.

    `levels`, the probabilities `positive` and `negative` of their poles, and `ratings` by slug are None if not given.
    """

    post: str
    id: str
    author: str
    text: str
    levels: list[int] | None = None
    positive: list[float] | None = None
    negative: list[float] | None = None
    ratings: dict[str, float] | None = None
    content_hash: str = ""


Item = Post | Response


def parse_submissions(rows: Rows, filters: Filters) -> Iterator[Item]:
    """Yield the usable posts of a dump."""
    for number, row in rows:
        try:
            found = _readable(row)
            identity = _required(found, "id").removeprefix("t3_")
            title, text = (
                clean_text(parse_text(found.get(name), name), escaped=True) for name in ("title", "selftext")
            )
            author, subreddit = parse_id(found.get("author"), "author"), parse_text(found.get("subreddit"), "subreddit")
        except UnreadableError as error:
            filters.count_unreadable("posts", number, error)
            continue
        if filters.accepts_post(title, text, author, bool(found.get("distinguished"))):
            yield Post(identity, title, text, [to_slug(subreddit)] if subreddit else [], author)


def parse_comments(rows: Rows, filters: Filters, source: DumpSource) -> Iterator[Item]:
    """Yield the usable responses of a dump."""
    for number, row in rows:
        try:
            found = _readable(row)
            link = _required(found, "link_id").removeprefix("t3_")
            identity = _required(found, "id").removeprefix("t1_")
            parent = parse_id(found.get("parent_id"), "parent_id")
            author, text = parse_id(found.get("author"), "author"), parse_text(found.get("body"), "body")
        except UnreadableError as error:
            filters.count_unreadable("responses", number, error)
            continue
        if source.replies == "top_level" and not _is_top_level(parent, link):
            filters.count("responses/read")
            filters.count("responses/nested")
            continue
        text = clean_text(text, escaped=True)
        if filters.accepts_response(author, text, bool(found.get("distinguished") or found.get("stickied"))):
            yield Response(link, identity, author, text)


def parse_threads(
    rows: Rows, filters: Filters, space: PreferenceSpace, columns: Mapping[ThreadField, str]
) -> Iterator[Item]:
    """Yield the usable posts and responses of joined threads.

    Args:
        rows: Rows with their numbers.
        filters: Drops and counts.
        space: Space whose dimensions given levels refer to.
        columns: Name of each field's column, where it differs from the field's.
    """
    key, prefix = "mining.source.columns.", "response_"
    of_thread = Columns(columns, key)
    renamed = {field.removeprefix(prefix): name for field, name in columns.items() if field.startswith(prefix)}
    of_response = Columns(renamed, key + prefix)
    for number, row in rows:
        try:
            post, entries = _parse_thread(_readable(row), of_thread)
        except UnreadableError as error:
            filters.count_unreadable("posts", number, error)
            continue
        if not filters.accepts_post(post.title, post.text, post.author):
            continue
        yield post
        for position, entry in enumerate(entries):
            try:
                response = _parse_response(post, position, entry, space, of_response)
            except UnreadableError as error:
                filters.count_unreadable("responses", number, UnreadableError(f"response {position + 1}: {error}"))
                continue
            if filters.accepts_response(response.author, response.text):
                yield response


def parse_rated(rows: Rows, filters: Filters, space: PreferenceSpace, kind: str) -> Iterator[Item]:
    """Yield the usable posts and rated responses of the published dataset `kind`.

    The join turns ratings into levels, as it takes all ratings of a thread.

    Args:
        rows: Rows with their numbers.
        filters: Drops and counts.
        space: Space that has the dimensions of the dataset.
        kind: A key of `ADAPTERS`.

    Raises:
        UsageError: The space lacks a dimension of the dataset.
    """
    missing = [slug for slug in SLUGS[kind] if slug not in space.index]
    if missing:
        raise UsageError(f"mining.source.kind: {kind}: the space '{space.name}' has no dimension '{missing[0]}'")
    for number, row in rows:
        try:
            found = ADAPTERS[kind](_readable(row))
            text = clean_text(found.post, escaped=False)
        except UnreadableError as error:
            filters.count_unreadable("posts", number, error)
            continue
        if not filters.accepts_post("", text):
            continue
        # Ratings of two rows are comparable only where the dataset rates them on one scale.
        content = [found.group] if found.group else [text, *(repr(response) for response in found.responses)]
        identity = hash_content(*content)
        yield Post(identity, "", text, [], "", identity)
        for name, value, ratings in found.responses:
            try:
                reply = clean_text(parse_text(value, "response"), escaped=False)
            except UnreadableError as error:
                filters.count_unreadable("responses", number, error)
                continue
            if filters.accepts_response("", reply):
                response_id = name or f"response_{hash_content(reply)}"
                yield Response(identity, response_id, "", reply, ratings=ratings, content_hash=identity)


def _parse_thread(row: Mapping[str, Any], columns: Columns) -> tuple[Post, list[Any]]:
    """Return the post of a row, and its responses unparsed."""
    if not columns.has(row, "responses"):
        raise missing_column("'responses'", row, "mining.source.columns")
    if not any(columns.has(row, field) for field in ("post", "title", "text")):
        raise missing_column("'post', 'title' or 'text'", row, "mining.source.columns")
    body = parse_post(columns.value(row, "post"), "post") or parse_post(columns.value(row, "text"), "text")
    title, text = clean_text(parse_text(columns.value(row, "title"), "title")), clean_text(body)
    entries = parse_list(columns.value(row, "responses"), "responses")
    topics = parse_topics(columns.value(row, "topics"), "topics")
    content_hash = hash_content(title, text)
    # Rows with the same post are one thread, unless they have levels, which compare the responses of one row.
    is_rated = any(isinstance(entry, Mapping) and entry.get("levels") for entry in entries)
    fallback_id = hash_content(title, text, *map(repr, entries)) if is_rated else content_hash
    identity = parse_id(columns.value(row, "id"), "id") or fallback_id
    return Post(identity, title, text, topics, parse_id(columns.value(row, "author"), "author"), content_hash), entries


def _parse_response(post: Post, position: int, entry: Any, space: PreferenceSpace, columns: Columns) -> Response:
    fallback_id = f"{position:05d}"
    if isinstance(entry, str):
        return Response(post.id, fallback_id, "", clean_text(parse_text(entry, "text")), content_hash=post.content_hash)
    if not isinstance(entry, Mapping):
        raise UnreadableError(f"neither a text nor an object with a 'text': {short_repr(entry)}")
    if not columns.has(entry, "text"):
        raise missing_column("'text'", entry, "mining.source.columns.response_text")
    return Response(
        post.id,
        parse_id(columns.value(entry, "id"), "id") or fallback_id,
        parse_id(columns.value(entry, "author"), "author"),
        clean_text(parse_text(columns.value(entry, "text"), "text")),
        *_parse_levels(entry, space),
        content_hash=post.content_hash,
    )


def _parse_levels(
    response: Mapping[str, Any], space: PreferenceSpace
) -> tuple[list[int] | None, list[float] | None, list[float] | None]:
    """Return the given levels, by position or by slug, and the probabilities of both poles; None where not given."""
    levels = response.get("levels")
    if is_missing(levels) or levels in ([], ()):
        return None, None, None
    if isinstance(levels, Mapping):
        unknown = [name for name in levels if name not in space.index]
        if unknown:
            raise UnreadableError(f"the space '{space.name}' has no dimension '{unknown[0]}'")
        listed = [0] * len(space)
        for name, level in levels.items():
            # Parquet gives each row the keys of all rows, with nulls.
            listed[space.index[name]] = 0 if is_missing(level) else level
        levels = listed
    if not isinstance(levels, (list, tuple)) or len(levels) != len(space) or any(v not in (-1, 0, 1) for v in levels):
        raise UnreadableError(f"'levels' must be {len(space)} numbers of -1, 0 and 1")
    given = [response.get(name) for name in ("positive", "negative")]
    if all(is_missing(values) or values in ([], ()) for values in given):
        return [int(level) for level in levels], None, None
    try:
        poles = np.array(given, dtype=np.float64)
    except (TypeError, ValueError):
        poles = np.empty(0)
    if poles.shape != (2, len(space)) or not ((poles >= 0).all() and (poles.sum(axis=0) <= 1 + _ROUNDING).all()):
        raise UnreadableError(f"'positive' and 'negative' must be {len(space)} probabilities")
    return [int(level) for level in levels], poles[0].tolist(), poles[1].tolist()


def _readable(row: Row) -> Mapping[str, Any]:
    if isinstance(row, UnreadableError):
        raise row
    return row


def _required(row: Mapping[str, Any], field: str) -> str:
    identity = parse_id(row.get(field), field)
    if not identity:
        raise missing_column(f"'{field}'", row)
    return identity


def _is_top_level(parent: str, link: str) -> bool:
    """Return whether a comment answers the post. The parent of a nested comment is a comment, `t1_...`.

    Some dumps write the parent as a decimal number, without its kind; ids are in base 36.
    """
    if not parent or parent.removeprefix("t3_") == link:
        return True
    is_number = parent.isascii() and parent.isdigit() and len(parent) <= _MOST_DIGITS
    return is_number and np.base_repr(int(parent), 36).lower() == link


def hash_content(*texts: str) -> str:
    """Return a hash of the content of a row, 16 hexadecimal digits."""
    return hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).hexdigest()
