from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest

from pipeline.reading.values import Row, UnreadableError
from pipeline.threads.filters import Filters
from pipeline.threads.parsing import (
    Item,
    Post,
    Response,
    parse_comments,
    parse_rated,
    parse_submissions,
    parse_threads,
)
from preference_space.space import PreferenceSpace, load_space
from schemas.base import UsageError
from schemas.config import DumpSource, MiningConfig
from schemas.loader import validate
from tests.pipeline.threads.test_adapters import completion, helpsteer2_row, pku_saferlhf_row, ultrafeedback_row

SPACE = PreferenceSpace(name="three", dimensions=load_space("alignx").dimensions[:3])
"""`age_group`, `gender` and `neuroticism`."""
TEXT = "A reply of exactly six words."


@dataclass
class Read:
    """Items of some rows, counts, and the first row of each kind that could not be read."""

    items: list[Item]
    counts: dict[str, int]
    first_unreadable: dict[str, tuple[int, str]]

    @property
    def posts(self) -> list[Post]:
        return [item for item in self.items if isinstance(item, Post)]

    @property
    def responses(self) -> list[Response]:
        return [item for item in self.items if isinstance(item, Response)]


def read(
    kind: str, *rows: Row, space: PreferenceSpace = SPACE, replies: str = "top_level", columns: Any = None
) -> Read:
    source: dict[str, Any] = {"kind": "dump", "submissions": ["x"], "comments": ["y"], "replies": replies}
    config = validate(MiningConfig, {"source": source}, "test")
    counts = Counter[str]()
    filters = Filters(config, counts)
    numbered = list(enumerate(rows, 1))
    assert isinstance(config.source, DumpSource)
    found: Iterable[Item]
    if kind == "submissions":
        found = parse_submissions(numbered, filters)
    elif kind == "comments":
        found = parse_comments(numbered, filters, config.source)
    elif kind == "threads":
        found = parse_threads(numbered, filters, space, columns or {})
    else:
        found = parse_rated(numbered, filters, load_space("alignx"), kind)
    return Read(list(found), dict(counts), filters.first_unreadable)


def submission(**fields: Any) -> dict[str, Any]:
    return {"id": "p", "subreddit": "AskForum", "author": "op", "title": "What now?", "selftext": ""} | fields


def comment(**fields: Any) -> dict[str, Any]:
    return {"id": "c", "link_id": "t3_p", "parent_id": "t3_p", "author": "jo", "body": TEXT} | fields


def thread(*responses: Any, **fields: Any) -> dict[str, Any]:
    return {"id": "t", "post": "What now?", "responses": list(responses)} | fields


# Dumps


def test_texts_of_a_dump_are_as_they_were_written() -> None:
    post = read("submissions", submission(title="Q&amp;A", selftext="&gt; so\n\n&amp;#x200B;\n\n&lt;3\x00")).posts[0]
    response = read("comments", comment(body="&gt; a &amp; b\n\nI do not\x1b[0m like\x08 it &lt;here&gt;")).responses[0]

    assert (post.title, post.text) == ("Q&A", "> so\n\n\n\n<3")
    assert response.text == "> a & b\n\nI do not like it <here>"


def test_prefixes_of_ids_are_not_part_of_them() -> None:
    assert read("submissions", submission(id="t3_p")).posts[0].id == "p"
    assert [(r.id, r.post) for r in read("comments", comment(id="t1_c")).responses] == [("c", "p")]


@pytest.mark.parametrize(
    ("parent", "is_kept"),
    [
        ("t3_1abc", True),
        ("1abc", True),
        (60024, True),
        (60024.0, True),
        ("60024", True),
        (None, True),
        (float("nan"), True),
        ("t1_1abc", False),
        (60025, False),
        (0, False),
    ],
)
def test_parent_may_be_a_number(parent: Any, is_kept: bool) -> None:
    assert int("1abc", 36) == 60024
    found = read("comments", comment(link_id="t3_1abc", parent_id=parent))

    assert [r.post for r in found.responses] == ["1abc"] * is_kept
    assert found.counts.get("responses/nested", 0) == (not is_kept)


def test_parent_is_the_post_where_ids_are_numbers() -> None:
    assert len(read("comments", comment(link_id=17, parent_id=17)).responses) == 1
    assert read("comments", comment(link_id=17, parent_id=18)).counts["responses/nested"] == 1


GONE = ["[deleted]", "[ Removed by Reddit on account of violating the [content policy](/help/contentpolicy). ]"]


@pytest.mark.parametrize("text", [*GONE, "[removed by reddit]", "[deleted by user]", "[unavailable]"])
def test_placeholders_are_dropped_in_dumps_and_threads(text: str) -> None:
    assert read("submissions", submission(selftext=text)).counts == {"posts/read": 1, "posts/deleted": 1}
    assert read("comments", comment(body=text)).counts == {"responses/read": 1, "responses/deleted": 1}
    assert read("threads", thread(post=text)).counts == {"posts/read": 1, "posts/deleted": 1}
    assert read("threads", thread(text)).counts["responses/deleted"] == 1


def test_replies_of_deleted_accounts_have_a_reason_of_their_own() -> None:
    found = read("comments", comment(author="[deleted]"))

    assert found.counts == {"responses/read": 1, "responses/deleted_account": 1}


@pytest.mark.parametrize("value", [None, "", "absent", 1.5, True, {"a": 1}])
@pytest.mark.parametrize("field", ["id", "link_id"])
def test_comment_without_a_needed_column_is_counted_and_the_next_follows(field: str, value: Any) -> None:
    wrong = comment()
    del wrong[field]
    if value != "absent":
        wrong[field] = value

    found = read("comments", comment(id="a"), wrong, comment(id="b"))

    assert [r.id for r in found.responses] == ["a", "b"]
    assert found.counts == {"responses/read": 3, "responses/unreadable": 1}
    number, why = found.first_unreadable["responses"]
    assert number == 2
    assert f"'{field}'" in why


@pytest.mark.parametrize(
    "wrong", [UnreadableError("not JSON"), {"name": "t3_p", "title": "T"}, submission(selftext=["a", "b"])]
)
def test_submission_that_cannot_be_read_is_counted_and_the_next_follows(wrong: Row) -> None:
    found = read("submissions", wrong, wrong, submission())

    assert [post.id for post in found.posts] == ["p"]
    assert found.counts == {"posts/read": 3, "posts/unreadable": 2}
    assert found.first_unreadable["posts"][0] == 1


def test_value_of_another_kind_is_never_made_a_text() -> None:
    for wrong in (["a"], {"b": 1}, 5, True):
        assert read("comments", comment(body=wrong)).counts["responses/unreadable"] == 1
        assert read("threads", thread(post=wrong)).counts["posts/unreadable"] == 1
    assert read("comments", comment(body=float("nan"))).counts["responses/empty"] == 1


@pytest.mark.parametrize(("author", "found"), [(7, "7"), (7.0, "7"), (None, ""), (float("nan"), ""), (" jo ", "jo")])
def test_author_may_be_a_number(author: Any, found: str) -> None:
    assert read("comments", comment(author=author)).responses[0].author == found
    assert read("submissions", submission(author=author)).posts[0].author == found
    assert read("threads", thread({"text": TEXT, "author": author})).responses[0].author == found


# Threads


def test_post_may_be_a_chat() -> None:
    chat = [{"role": "system", "content": "Be nice."}, {"role": "user", "content": "What now?"}]

    assert read("threads", thread(TEXT, post=chat)).posts[0].text == "What now?"


@pytest.mark.parametrize("value", [None, float("nan"), [], " "])
def test_thread_without_responses_is_a_post(value: Any) -> None:
    found = read("threads", thread(responses=value))

    assert len(found.posts) == 1
    assert found.counts == {"posts/read": 1}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "a", "post": "x", "replies": []}, "no 'responses'; found: id, post, replies"),
        ({"id": "a", "body": "x", "responses": [TEXT]}, "no 'post', 'title' or 'text'; found: id, body, responses"),
        (thread(responses="A text."), "'responses' is not a list"),
        (thread(topics=5), "'topics' is not a list"),
        (thread(id=[1]), "'id' is neither a text nor an integer"),
    ],
)
def test_wrong_thread_is_counted_and_the_next_follows(row: Mapping[str, Any], message: str) -> None:
    found = read("threads", thread(TEXT, id="a"), row, thread(TEXT, id="b"))

    assert [post.id for post in found.posts] == ["a", "b"]
    assert found.counts == {"posts/read": 3, "posts/unreadable": 1, "responses/read": 2}
    assert found.first_unreadable["posts"][0] == 2
    assert message in found.first_unreadable["posts"][1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"levels": [1, 0]}, "'levels' must be 3 numbers of -1, 0 and 1"),
        ({"levels": [1, 0, 2]}, "'levels' must be 3 numbers"),
        ({"levels": [1, 0, 0.5]}, "'levels' must be 3 numbers"),
        ({"levels": [1, 0, None]}, "'levels' must be 3 numbers"),
        ({"levels": [[1], [0], [0]]}, "'levels' must be 3 numbers"),
        ({"levels": "1,0,-1"}, "'levels' must be 3 numbers"),
        ({"levels": 1}, "'levels' must be 3 numbers"),
        ({"levels": {"gender": "positive"}}, "'levels' must be 3 numbers"),
        ({"levels": {"gender": 2}}, "'levels' must be 3 numbers"),
        ({"levels": {"gendre": 1}}, "the space 'three' has no dimension 'gendre'"),
        ({"positive": [0.5, 0.5], "negative": [0, 0, 0]}, "'positive' and 'negative' must be 3 probabilities"),
        ({"positive": [0, 0, 0], "negative": [0, 0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": [-0.1, 0, 0], "negative": [0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": [0, 0, 0], "negative": [0, 0, 1.1]}, "must be 3 probabilities"),
        ({"positive": [0.7, 0, 0], "negative": [0.7, 0, 0]}, "must be 3 probabilities"),
        ({"positive": [0, 0, None], "negative": [0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": [0, 0, float("nan")], "negative": [0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": ["high", 0, 0], "negative": [0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": [[0], [0], [0]], "negative": [0, 0, 0]}, "must be 3 probabilities"),
        ({"positive": 0.5, "negative": 0.5}, "must be 3 probabilities"),
        ({"positive": {"gender": 0.5}, "negative": {"gender": 0.5}}, "must be 3 probabilities"),
        ({"text": 5}, "'text' is not a text"),
        ({"text": ["a"]}, "'text' is not a text"),
        ({"id": {"a": 1}}, "'id' is neither a text nor an integer"),
    ],
)
def test_wrong_response_is_counted_and_costs_no_other(fields: Mapping[str, Any], message: str) -> None:
    wrong = {"text": TEXT, "levels": [1, 0, -1], **fields}

    found = read("threads", thread(TEXT, wrong, f"{TEXT} More."))

    assert [r.text for r in found.responses] == [TEXT, f"{TEXT} More."]
    assert found.counts == {"posts/read": 1, "responses/read": 3, "responses/unreadable": 1}
    number, why = found.first_unreadable["responses"]
    assert number == 1
    assert why.startswith("response 2: ")
    assert message in why


@pytest.mark.parametrize("entry", [5, {"body": TEXT}, None, [TEXT]])
def test_response_of_another_shape_is_counted(entry: Any) -> None:
    found = read("threads", thread(TEXT, entry))

    assert len(found.responses) == 1
    number, why = found.first_unreadable["responses"]
    assert number == 1
    assert re.match("response 2: (neither a text nor an object with a 'text'|no 'text'; found: body)", why)


def test_response_without_text_is_empty() -> None:
    assert read("threads", thread({"text": None}, "", {"text": " "}, "\u3164\u200b")).counts["responses/empty"] == 4


def test_responses_may_be_an_object_of_lists() -> None:
    found = read("threads", thread(responses={"text": [TEXT, f"{TEXT} Two"], "score": [3, None], "id": [1, 2]}))

    assert [(r.id, r.text) for r in found.responses] == [("1", TEXT), ("2", f"{TEXT} Two")]


def test_entities_of_threads_are_undone_where_the_text_is_escaped() -> None:
    found = read("threads", thread("I say &gt; so &amp; mean it.", "In HTML write &lt; for a < sign."))

    assert [r.text for r in found.responses] == ["I say > so & mean it.", "In HTML write &lt; for a < sign."]


def test_posts_of_one_id_with_different_contents_have_different_marks() -> None:
    found = read("threads", thread(TEXT), thread(TEXT), thread(TEXT, post="Another one?"))

    marks = [post.content_hash for post in found.posts]
    assert [post.id for post in found.posts] == ["t"] * 3
    assert marks[0] == marks[1] != marks[2]
    assert [response.content_hash for response in found.responses] == marks


# Published datasets


def test_rows_of_one_prompt_that_were_compared_apart_are_apart() -> None:
    other = {"response_0": f"{TEXT} Three", "response_1": f"{TEXT} Four"}
    row = pku_saferlhf_row(better=0, safer=1, response_0=TEXT, response_1=f"{TEXT} Two")

    found = read("pku_saferlhf", row, row | other, row)

    ids = [post.id for post in found.posts]
    assert ids[0] == ids[2] != ids[1]
    assert [response.post for response in found.responses] == [ids[0]] * 2 + [ids[1]] * 2 + [ids[0]] * 2


def test_rows_of_helpsteer2_after_different_answers_are_apart() -> None:
    prompts = [f"Stove?\n<extra_id_1>Assistant\n{said}\n<extra_id_1>User\nWhy?" for said in ("Gas.", "Wood.")]

    found = read("helpsteer2", *(helpsteer2_row(prompt, TEXT, 1, 1, 1, 1, 1) for prompt in prompts))

    assert [post.text for post in found.posts] == ["Stove?\n\nWhy?"] * 2
    assert len({post.id for post in found.posts}) == 2


def test_rows_of_one_prompt_of_helpsteer2_are_together() -> None:
    rows = [helpsteer2_row("Stove?", f"{TEXT} {k}", k, 1, 1, 1, 1) for k in range(2)]

    found = read("helpsteer2", rows[0], helpsteer2_row("Tent?", TEXT, 1, 1, 1, 1, 1), rows[1])

    assert found.posts[0] == found.posts[2]
    assert len({response.id for response in found.responses}) == 3


@pytest.mark.parametrize(
    ("kind", "row", "counts"),
    [
        ("helpsteer2", helpsteer2_row(None, TEXT, 1, 1, 1, 1, 1), {"posts/empty": 1}),
        ("helpsteer2", helpsteer2_row("\ufeff\u200b", TEXT, 1, 1, 1, 1, 1), {"posts/empty": 1}),
        ("helpsteer2", helpsteer2_row(7, TEXT, 1, 1, 1, 1, 1), {"posts/unreadable": 1}),
        ("helpsteer2", helpsteer2_row("Tent?", None, 1, 1, 1, 1, 1), {"responses/read": 1, "responses/empty": 1}),
        (
            "helpsteer2",
            helpsteer2_row("Tent?", [TEXT], 1, 1, 1, 1, 1),
            {"responses/read": 1, "responses/unreadable": 1},
        ),
        ("helpsteer2", {"prompt": "Tent?"}, {"posts/unreadable": 1}),
        ("ultrafeedback", ultrafeedback_row() | {"completions": None}, {}),
        (
            "ultrafeedback",
            ultrafeedback_row(completion("a", TEXT, {}), completion("b", "No.", {})),
            {"responses/read": 2, "responses/too_short": 1},
        ),
        ("ultrafeedback", ultrafeedback_row() | {"completions": [5]}, {"posts/unreadable": 1}),
    ],
)
def test_every_row_of_a_published_dataset_is_counted(
    kind: str, row: Mapping[str, Any], counts: Mapping[str, int]
) -> None:
    assert read(kind, row).counts == {"posts/read": 1, **counts}


def test_texts_of_published_datasets_are_not_escaped() -> None:
    assert read("helpsteer2", helpsteer2_row("What is &lt; in HTML?", TEXT, 1, 1, 1, 1, 1)).posts[0].text == (
        "What is &lt; in HTML?"
    )


def test_space_must_have_what_a_dataset_rates() -> None:
    filters = Filters(validate(MiningConfig, {"source": {"kind": "helpsteer2", "path": ["x"]}}, "test"), Counter())

    with pytest.raises(UsageError, match=r"mining\.source\.kind: helpsteer2: .*'three'.*'truthfulness'"):
        list(parse_rated([], filters, SPACE, "helpsteer2"))
