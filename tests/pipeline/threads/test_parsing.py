from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pytest

from pipeline.reading.values import Row, UnreadableError
from pipeline.threads.filters import Filters
from pipeline.threads.parsing import (
    parse_rated,
)
from schemas.base import UsageError
from schemas.config import MiningConfig
from schemas.loader import validate
from tests.pipeline.threads.rows import (
    SPACE,
    TEXT,
    comment,
    completion,
    helpsteer2_row,
    pku_saferlhf_row,
    read,
    submission,
    thread,
    ultrafeedback_row,
)

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
        (
            {"id": "a", "post": "x", "replies": []},
            "no 'responses'; found: id, post, replies; set mining.source",
        ),
        ({"id": "a", "body": "x", "responses": [TEXT]}, "no 'post', 'title' or 'text'; found: id, body, responses"),
        (thread(responses="A text."), "'responses' is not a list"),
        (thread(responses={"text": TEXT}), "'responses' is not a list"),
        (thread(topics=5), "'topics' is not a list"),
        (thread(TEXT, post=5), "'post' is not a text: 5"),
        (thread(id=[1]), "'id' is neither a text nor an integer"),
        (thread(id=1.5), "'id' is neither a text nor an integer: 1.5"),
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
    missing = r"no 'text'; found: body; set mining\.source\.columns\.response_text"
    assert re.match(f"response 2: (neither a text nor an object with a 'text'|{missing})", why)


def test_response_without_text_is_empty() -> None:
    assert read("threads", thread({"text": None}, "", {"text": " "}, "\u3164\u200b")).counts["responses/empty"] == 4


def test_post_or_title_and_text_are_the_post() -> None:
    rows: list[dict[str, Any]] = [
        {"id": "a", "post": "What now?", "responses": []},
        {"id": "b", "title": "T", "text": "Text.", "responses": []},
        {"id": "c", "title": "T", "responses": [], "post": None},
        {"id": 7, "title": "T", "post": "Post.", "responses": [], "topics": ["Music", "Sci Fi"]},
    ]

    assert [item[:4] for item in read("threads", *rows).items] == [
        ("a", "", "What now?", []),
        ("b", "T", "Text.", []),
        ("c", "T", "", []),
        ("7", "T", "Post.", ["music", "sci_fi"]),
    ]


def test_responses_are_texts_or_objects() -> None:
    row = thread(TEXT, {"text": f"{TEXT} Two", "id": "x", "author": "jo"}, {"text": f"{TEXT} Three", "id": None})

    assert [item[:4] for item in read("threads", row).responses] == [
        ("t", "00000", "", TEXT),
        ("t", "x", "jo", f"{TEXT} Two"),
        ("t", "00002", "", f"{TEXT} Three"),
    ]


def test_responses_as_lists_of_their_fields_are_responses() -> None:
    entries = {"a_id": ["x", 2], "text": [TEXT, f"{TEXT} Two"], "score": [3, None]}
    columns = {"responses": "answers", "response_id": "a_id"}

    found = read("threads", {"title": "Why?", "answers": entries}, columns=columns)

    assert [(item.id, item.text) for item in found.responses] == [("x", TEXT), ("2", f"{TEXT} Two")]


def test_columns_of_threads_are_mapped() -> None:
    row = {
        "key": 5,
        "Headline": "T",
        "body": "B",
        "tags": "music",
        "by": "op",
        "replies": [{"said": TEXT, "who": "jo"}],
    }
    columns = {"id": "key", "title": "headline", "post": "body", "topics": "tags", "author": "by"}
    inner = {"responses": "replies", "response_text": "said", "response_author": "who"}

    found = read("threads", row, columns=columns | inner)

    (post,), (response,) = found.posts, found.responses
    assert post[:5] == ("5", "T", "B", ["music"], "op")
    assert (response.post, response.author, response.text) == ("5", "jo", TEXT)


def test_mapped_column_that_is_not_there_is_named() -> None:
    found = read("threads", thread(TEXT), columns={"post": "body"})

    _, why = found.first_unreadable["posts"]
    assert "no column 'body' (mining.source.columns.post); found: id, post, responses" in why


def test_zero_is_an_id() -> None:
    responses = [{"text": f"{TEXT} {k}", "id": k} for k in range(2)]
    rows = [thread(*responses, id=k) for k in range(2)]

    found = read("threads", *rows)

    assert [post.id for post in found.posts] == ["0", "1"]
    assert [response.id for response in found.responses] == ["0", "1", "0", "1"]


def test_missing_ids_of_threads_depend_on_the_post_alone() -> None:
    rows: list[dict[str, Any]] = [{"title": "T", "post": name, "responses": [TEXT]} for name in ("x", "y")]
    here = read("threads", *rows)
    there = read("threads", *(row | {"id": ""} for row in rows[::-1]))

    posts = [post.id for post in here.posts]
    assert len(set(posts)) == 2
    assert sorted(here.items) == sorted(there.items)
    assert [response.post for response in here.responses] == posts


@pytest.mark.parametrize(
    ("levels", "expected"),
    [
        ([1, 0, -1], [1, 0, -1]),
        ([1.0, 0.0, -1.0], [1, 0, -1]),
        ({"gender": -1, "neuroticism": 1}, [0, -1, 1]),
        ({"gender": None, "age_group": 1}, [1, 0, 0]),
        ({}, [0, 0, 0]),
        ([], None),
        (None, None),
    ],
)
def test_levels_are_a_list_or_a_map_of_slugs(levels: Any, expected: list[int] | None) -> None:
    item = read("threads", thread({"text": TEXT, "levels": levels})).responses[0]

    assert (item.levels, item.positive, item.negative) == (expected, None, None)
    assert all(type(level) is int for level in item.levels or ())


def test_probabilities_come_along_with_levels() -> None:
    given = {"text": TEXT, "levels": [1, 0, -1], "positive": [0.75, 0.25, 0], "negative": [0, 0.25, 1]}

    item = read("threads", thread(given)).responses[0]

    assert (item.positive, item.negative) == ([0.75, 0.25, 0.0], [0.0, 0.25, 1.0])


@pytest.mark.parametrize("empty", [{}, {"positive": None, "negative": None}, {"positive": [], "negative": []}])
def test_probabilities_may_be_left_out(empty: Mapping[str, Any]) -> None:
    given = {"text": TEXT, "levels": [1, 0, -1], **empty}

    item = read("threads", thread(given)).responses[0]

    assert (item.levels, item.positive, item.negative) == ([1, 0, -1], None, None)


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
        list(parse_rated(iter([]), filters, SPACE, "helpsteer2"))
