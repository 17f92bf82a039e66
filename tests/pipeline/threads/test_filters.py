from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pytest

from pipeline.threads.parsing import Post, Response
from tests.pipeline.threads.rows import TEXT, comment, read, submission, thread


def ids(items: Iterable[Post | Response]) -> list[str]:
    return [item.id for item in items]


@pytest.mark.parametrize(
    ("replies", "kept", "dropped"),
    [("top_level", ["a", "c"], {"responses/nested": 2}), ("all", ["a", "b", "c"], {"responses/deleted_account": 1})],
)
def test_top_level_replies_are_those_to_the_post_itself(replies: str, kept: list[str], dropped: dict[str, int]) -> None:
    rows = [
        comment("a"),
        comment("b", parent_id="t1_a"),
        comment("c", parent_id=None),
        comment("d", parent_id="t1_zzz", author="[deleted]"),
    ]

    found = read("comments", *rows, replies=replies)

    assert ids(found.responses) == kept
    assert found.counts == {"responses/read": 4} | dropped


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"author": "[deleted]"}, "deleted_account"),
        ({"author": "[removed]"}, "deleted_account"),
        ({"body": "[deleted]"}, "deleted"),
        ({"body": " [Removed]\n"}, "deleted"),
        ({"body": "[ Removed by Reddit ]"}, "deleted"),
        ({"distinguished": "moderator"}, "moderator"),
        ({"distinguished": "admin"}, "moderator"),
        ({"stickied": True}, "moderator"),
        ({"author": "AutoModerator"}, "bot"),
        ({"author": "RemindMeBot"}, "bot"),
        ({"author": "sneaky_BOT"}, "bot"),
        ({"body": "Four words are few."}, "too_short"),
        ({"body": ""}, "empty"),
        ({"body": None}, "empty"),
        ({"body": "word " * 21}, "too_long"),
        ({"parent_id": "t1_x"}, "nested"),
        ({"parent_id": "t1_x", "author": "AutoModerator", "body": "[removed]"}, "nested"),
        ({"author": "AutoModerator", "stickied": True, "body": "Read the rules."}, "moderator"),
    ],
)
def test_comment_that_is_dropped_is_counted_under_one_name(fields: Mapping[str, Any], reason: str) -> None:
    found = read("comments", comment("a"), comment("b", **fields), max_words=20)

    assert ids(found.responses) == ["a"]
    assert found.counts == {"responses/read": 2, f"responses/{reason}": 1}


@pytest.mark.parametrize(
    "fields",
    [
        {"author": "robotics_fan"},
        {"author": "AutoModeratorFan"},
        {"author": ""},
        {"author": None},
        {"body": "What [deleted] said is no good."},
        {"body": "Five words are not few."},
        {"body": "word " * 20},
        {"distinguished": None, "stickied": False},
    ],
)
def test_comment_at_the_border_is_kept(fields: Mapping[str, Any]) -> None:
    assert ids(read("comments", comment("a", **fields), max_words=20).responses) == ["a"]


@pytest.mark.parametrize(
    ("bots", "kept"),
    [
        ([], ["a", "b", "c"]),
        (["^helper"], ["b", "c"]),
        (["helper", "^tool$"], ["b"]),
        (["(?i)TOOL"], ["a", "b"]),
        (["x", "(?i)TOOL"], ["a", "b"]),
        ([r"(l)\1", r"(o)\1"], ["a", "b"]),
    ],
)
def test_bots_are_those_that_any_of_the_patterns_finds(bots: list[str], kept: list[str]) -> None:
    rows = [comment("a", author="Helper9"), comment("b", author="somebot"), comment("c", author="tool")]

    assert ids(read("comments", *rows, bots=bots).responses) == kept


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"selftext": "[removed]"}, "deleted"),
        ({"title": "[deleted by user]"}, "deleted"),
        ({"title": " ", "selftext": ""}, "empty"),
        ({"title": None, "selftext": None}, "empty"),
        ({"title": "one two three", "selftext": "four five six"}, "too_long"),
    ],
)
def test_post_that_is_dropped_is_counted_under_one_name(fields: Mapping[str, Any], reason: str) -> None:
    posts = [submission("p", title="Two words"), submission("q", **fields)]

    found = read("submissions", *posts, max_post_words=5)

    assert ids(found.posts) == ["p"]
    assert found.counts == {"posts/read": 2, f"posts/{reason}": 1}


def test_filters_apply_to_threads_and_count() -> None:
    rows = [
        thread(TEXT, "Too short.", "[removed]", {"text": TEXT, "author": "x_bot"}, "word " * 301, id="a"),
        thread(TEXT, TEXT, id="b", post="[deleted]"),
        thread(TEXT, id="c", post=" "),
    ]

    found = read("threads", *rows)

    assert ids(found.posts) == ["a"]
    assert ids(found.responses) == ["00000"]
    assert found.counts == {
        "posts/read": 3,
        "posts/deleted": 1,
        "posts/empty": 1,
        "responses/read": 5,
        "responses/too_short": 1,
        "responses/deleted": 1,
        "responses/bot": 1,
        "responses/too_long": 1,
    }
