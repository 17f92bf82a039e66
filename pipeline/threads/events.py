"""Turns rows into posts and responses: texts as people wrote them, ids that tell rows apart, what is dropped counted.

An *event* is a post or a response to one, in any order. Posts and responses of dumps meet by the site's ids. Ids of
other threads may begin anew in each file, so there a response goes with the post of its id *and* content.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from pipeline.reading.columns import Columns
from pipeline.reading.text import as_written, count_words, is_blank, is_placeholder, slug
from pipeline.reading.values import Row, UnreadableError, as_id, as_list, as_post, as_text, as_topics, is_missing, named
from pipeline.threads.adapters import ADAPTERS, SLUGS
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.config import DumpSource, MiningConfig, ThreadField

Rows = Iterable[tuple[int, Row]]
_ROUNDING = 1e-3
"""By how much given probabilities may exceed one."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_MOST_DIGITS = 19
"""Digits of the longest number that may be an id in base 36."""


class PostEvent(NamedTuple):
    """A post. `mark` is '' where the id alone says which, and else stands for the content that it had in its row."""

    id: str
    title: str
    text: str
    topics: list[str]
    author: str = ""
    mark: str = ""


class ResponseEvent(NamedTuple):
    """A response to the post of id `post` and the same `mark`.

    Levels and their probabilities, or ratings by slug, are None where it brings none.
    """

    post: str
    id: str
    author: str
    text: str
    levels: list[int] | None = None
    positive: list[float] | None = None
    negative: list[float] | None = None
    ratings: dict[str, float] | None = None
    mark: str = ""


Event = PostEvent | ResponseEvent


class Filters:
    """What makes a row or a text unusable, counted under the names that the manifest shows.

    `first` holds, for `posts` and for `responses`, the number of the first row that could not be read, and why.
    """

    def __init__(self, config: MiningConfig, counts: Counter[str]) -> None:
        self.first: dict[str, tuple[int, str]] = {}
        self._config = config
        self._counts = counts
        # Each by itself: joined, their flags and groups would get in each other's way.
        self._bots = [re.compile(pattern, re.IGNORECASE) for pattern in config.bots]

    def count(self, name: str) -> None:
        """Count one more."""
        self._counts[name] += 1

    def unreadable(self, kind: str, number: int, error: UnreadableError) -> None:
        """Count a row that cannot be used, or a response in it."""
        self.count(f"{kind}/read")
        self.count(f"{kind}/unreadable")
        self.first.setdefault(kind, (number, str(error)))

    def post(self, title: str, text: str, author: str = "", is_moderator: bool = False) -> bool:
        """Count a post, and return whether it is used."""
        self.count("posts/read")
        if is_placeholder(text) or is_placeholder(title):
            return self._drop("posts/deleted")
        if is_blank(title) and is_blank(text):
            return self._drop("posts/empty")
        if is_moderator:
            return self._drop("posts/moderator")
        if self._is_bot(author):
            return self._drop("posts/bot")
        if count_words(f"{title} {text}") > self._config.max_post_words:
            return self._drop("posts/too_long")
        return True

    def response(self, author: str, text: str, is_moderator: bool = False) -> bool:
        """Count a response, and return whether it is used."""
        self.count("responses/read")
        if is_placeholder(text):
            return self._drop("responses/deleted")
        if is_placeholder(author):
            return self._drop("responses/deleted_account")
        if is_blank(text):
            return self._drop("responses/empty")
        if is_moderator:
            return self._drop("responses/moderator")
        if self._is_bot(author):
            return self._drop("responses/bot")
        words = count_words(text)
        if words < self._config.min_words:
            return self._drop("responses/too_short")
        if words > self._config.max_words:
            return self._drop("responses/too_long")
        return True

    def _drop(self, reason: str) -> bool:
        self.count(reason)
        return False

    def _is_bot(self, author: str) -> bool:
        return bool(author) and any(bot.search(author) for bot in self._bots)


def submissions(rows: Rows, filters: Filters) -> Iterator[Event]:
    """Yield the usable posts of a dump."""
    for number, row in rows:
        try:
            found = _readable(row)
            identity = _required(found, "id").removeprefix("t3_")
            title, text = (as_written(as_text(found.get(name), name), escaped=True) for name in ("title", "selftext"))
            author, subreddit = as_id(found.get("author"), "author"), as_text(found.get("subreddit"), "subreddit")
        except UnreadableError as error:
            filters.unreadable("posts", number, error)
            continue
        if filters.post(title, text, author, bool(found.get("distinguished"))):
            yield PostEvent(identity, title, text, [slug(subreddit)] if subreddit else [], author)


def comments(rows: Rows, filters: Filters, source: DumpSource) -> Iterator[Event]:
    """Yield the usable responses of a dump."""
    for number, row in rows:
        try:
            found = _readable(row)
            link = _required(found, "link_id").removeprefix("t3_")
            identity = _required(found, "id").removeprefix("t1_")
            parent = as_id(found.get("parent_id"), "parent_id")
            author, text = as_id(found.get("author"), "author"), as_text(found.get("body"), "body")
        except UnreadableError as error:
            filters.unreadable("responses", number, error)
            continue
        if source.replies == "top_level" and not _is_top_level(parent, link):
            filters.count("responses/read")
            filters.count("responses/nested")
            continue
        text = as_written(text, escaped=True)
        if filters.response(author, text, bool(found.get("distinguished") or found.get("stickied"))):
            yield ResponseEvent(link, identity, author, text)


def threads(rows: Rows, filters: Filters, space: PreferenceSpace, given: Mapping[ThreadField, str]) -> Iterator[Event]:
    """Yield the usable posts and responses of joined threads; `given` maps fields to columns of other names."""
    key, inner = "mining.source.columns.", "response_"
    columns = Columns(given, key)
    of_response = {field.removeprefix(inner): name for field, name in given.items() if field.startswith(inner)}
    inner_columns = Columns(of_response, key + inner)
    for number, row in rows:
        try:
            post, entries = _thread(_readable(row), columns)
        except UnreadableError as error:
            filters.unreadable("posts", number, error)
            continue
        if not filters.post(post.title, post.text, post.author):
            continue
        yield post
        for place, entry in enumerate(entries):
            try:
                response = _response(post, place, entry, space, inner_columns)
            except UnreadableError as error:
                filters.unreadable("responses", number, UnreadableError(f"response {place + 1}: {error}"))
                continue
            if filters.response(response.author, response.text):
                yield response


def rated(rows: Rows, filters: Filters, space: PreferenceSpace, kind: str) -> Iterator[Event]:
    """Yield the posts and responses of a published dataset, with ratings that become levels when they are joined.

    Raises `UsageError` for a space that lacks a dimension of the dataset.
    """
    lacking = [name for name in SLUGS[kind] if name not in space.index]
    if lacking:
        raise UsageError(f"mining.source.kind: {kind}: the space '{space.name}' has no dimension '{lacking[0]}'")
    for number, row in rows:
        try:
            found = ADAPTERS[kind](_readable(row))
            text = as_written(found.post, escaped=False)
        except UnreadableError as error:
            filters.unreadable("posts", number, error)
            continue
        if not filters.post("", text):
            continue
        # Ratings of one row say nothing about those of another, but where rows of one prompt were rated alike.
        content = [found.shared] if found.shared else [text, *(repr(response) for response in found.responses)]
        identity = content_mark(*content)
        yield PostEvent(identity, "", text, [], "", identity)
        for name, value, ratings in found.responses:
            try:
                said = as_written(as_text(value, "response"), escaped=False)
            except UnreadableError as error:
                filters.unreadable("responses", number, error)
                continue
            if filters.response("", said):
                named_by = name or f"response_{content_mark(said)}"
                yield ResponseEvent(identity, named_by, "", said, ratings=ratings, mark=identity)


def _thread(row: Mapping[str, Any], columns: Columns) -> tuple[PostEvent, list[Any]]:
    """The post of a row, and its responses as they are."""
    if not columns.has(row, "responses"):
        raise UnreadableError(f"no 'responses'; it has {named(row)}; mining.source.columns maps them")
    if not any(columns.has(row, field) for field in ("post", "title", "text")):
        raise UnreadableError(f"no 'post', 'title' or 'text'; it has {named(row)}; mining.source.columns maps them")
    body = as_post(columns.value(row, "post"), "post") or as_post(columns.value(row, "text"), "text")
    title, text = as_written(as_text(columns.value(row, "title"), "title")), as_written(body)
    entries = as_list(columns.value(row, "responses"), "responses")
    topics = as_topics(columns.value(row, "topics"), "topics")
    mark = content_mark(title, text)
    # Rows of one post are one thread, unless levels say how its responses compare with each other.
    is_rated = any(isinstance(entry, Mapping) and entry.get("levels") for entry in entries)
    made_up = content_mark(title, text, *map(repr, entries)) if is_rated else mark
    identity = as_id(columns.value(row, "id"), "id") or made_up
    return PostEvent(identity, title, text, topics, as_id(columns.value(row, "author"), "author"), mark), entries


def _response(post: PostEvent, place: int, entry: Any, space: PreferenceSpace, columns: Columns) -> ResponseEvent:
    made_up = f"{place:05d}"
    if isinstance(entry, str):
        return ResponseEvent(post.id, made_up, "", as_written(as_text(entry, "text")), mark=post.mark)
    if not isinstance(entry, Mapping):
        raise UnreadableError("neither a text nor an object with a 'text'")
    if not columns.has(entry, "text"):
        raise UnreadableError(f"no 'text'; it has {named(entry)}; mining.source.columns.response_text maps it")
    return ResponseEvent(
        post.id,
        as_id(columns.value(entry, "id"), "id") or made_up,
        as_id(columns.value(entry, "author"), "author"),
        as_written(as_text(columns.value(entry, "text"), "text")),
        *_given(entry, space),
        mark=post.mark,
    )


def _given(
    response: Mapping[str, Any], space: PreferenceSpace
) -> tuple[list[int] | None, list[float] | None, list[float] | None]:
    """The levels that a response brings, by position or by slug, and their probabilities."""
    levels = response.get("levels")
    if is_missing(levels) or levels in ([], ()):
        return None, None, None
    if isinstance(levels, Mapping):
        unknown = [name for name in levels if name not in space.index]
        if unknown:
            raise UnreadableError(f"the space '{space.name}' has no dimension '{unknown[0]}'")
        listed = [0] * len(space)
        for name, level in levels.items():
            # Parquet fills up the keys that other rows have.
            listed[space.index[name]] = 0 if is_missing(level) else level
        levels = listed
    if not isinstance(levels, (list, tuple)) or len(levels) != len(space) or any(v not in (-1, 0, 1) for v in levels):
        raise UnreadableError(f"'levels' must be {len(space)} numbers of -1, 0 and 1")
    shares = [response.get(name) for name in ("positive", "negative")]
    if all(is_missing(share) or share in ([], ()) for share in shares):
        return [int(level) for level in levels], None, None
    try:
        both = np.array(shares, dtype=np.float64)
    except (TypeError, ValueError):
        both = np.empty(0)
    if both.shape != (2, len(space)) or not ((both >= 0).all() and (both.sum(axis=0) <= 1 + _ROUNDING).all()):
        raise UnreadableError(f"'positive' and 'negative' must be {len(space)} probabilities")
    return [int(level) for level in levels], both[0].tolist(), both[1].tolist()


def _readable(row: Row) -> Mapping[str, Any]:
    if isinstance(row, UnreadableError):
        raise row
    return row


def _required(row: Mapping[str, Any], field: str) -> str:
    identity = as_id(row.get(field), field)
    if not identity:
        raise UnreadableError(f"no '{field}'; it has {named(row)}")
    return identity


def _is_top_level(parent: str, link: str) -> bool:
    """Whether a comment answers the post: a comment on a comment has that one's `t1_` name as its parent.

    Some dumps write a parent as a number, which is its id in base 36 without the kind.
    """
    if not parent or parent.removeprefix("t3_") == link:
        return True
    return parent.isascii() and parent.isdigit() and len(parent) <= _MOST_DIGITS and _in_base_36(int(parent)) == link


def _in_base_36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = _DIGITS[digit] + digits
    return digits


def content_mark(*texts: str) -> str:
    """Return what stands for the content of a row: 16 characters."""
    return hashlib.blake2b("\x1f".join(texts).encode(), digest_size=8).hexdigest()
