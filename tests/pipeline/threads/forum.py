"""Threads out of files, without Beam: partition every slice, join every part, then index."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from pipeline.plan import BuildPlan
from pipeline.threads import gather, sources
from pipeline.threads.batch import ThreadBatch
from pipeline.threads.gather import delete_spills, join, partition, pending_parts, pending_slices
from pipeline.threads.index import Index, build_index, read_threads
from tests.pipeline.helpers import mining, prepared, tiny, write_jsonl
from tests.pipeline.threads import rows
from tests.pipeline.threads.rows import submission
from tests.stub import good_text

GERMAN = "Ich habe das auch lange nicht verstanden, aber nach einer Weile wird es wirklich besser, und zwar jeden Tag"

DIMENSIONS = 90
Row = Mapping[str, Any]


class Response(NamedTuple):
    """A response of a gathered thread."""

    id: str
    text: str
    levels: list[int] | None


@dataclass(frozen=True)
class Gathered:
    """Everything that was gathered: the index, and the threads that are used, in their order."""

    plan: BuildPlan
    index: Index
    threads: ThreadBatch

    @property
    def posts(self) -> list[str]:
        return [post.id for post in self.threads.posts]

    def responses(self, post: str) -> list[Response]:
        block = self.threads
        return [
            Response(block.ids[r], block.texts[r], block.levels[r].tolist() if block.annotated[r] else None)
            for r in block.rows(self.posts.index(post))
        ]

    def ids(self, post: str) -> list[str]:
        return [response.id for response in self.responses(post)]

    def content(self) -> list[tuple[Any, ...]]:
        """Return posts and responses, to compare."""
        return [(post, self.responses(post.id)) for post in self.threads.posts]

    def counts(self, kind: str) -> dict[str, int]:
        """Return the counts of `posts` or `responses`, except the number read."""
        names = [name for name in self.index.counts if name.startswith(f"{kind}/") and name != f"{kind}/read"]
        return {name.removeprefix(f"{kind}/"): self.index.counts[name] for name in names}


def plan_of(output: Path, section: Row, **keys: Any) -> BuildPlan:
    return prepared(output, tiny(**{"pairs": None, "mining": section} | keys))


def shuffle_and_join(plan: BuildPlan) -> None:
    """Partition and join what is pending, before `build_index`."""
    for input_slice in pending_slices(plan):
        partition(input_slice, plan)
    for part in pending_parts(plan):
        join(part, plan)


def result_of(plan: BuildPlan) -> Gathered:
    found = build_index(plan)
    delete_spills(plan)
    return Gathered(plan, found, read_threads(plan, 0, sum(found.splits.values())))


def gathered(output: Path, section: Row, **keys: Any) -> Gathered:
    plan = plan_of(output, section, **keys)
    shuffle_and_join(plan)
    return result_of(plan)


def gather_rows(folder: Path, *rows: Row, build: Row | None = None, **keys: Any) -> Gathered:
    """Gather rows of kind `threads`; `keys` belong to the section `mining`."""
    path = write_jsonl(folder / "threads.jsonl", rows)
    return gathered(folder / "out", mining(path, **keys), **(build or {}))


def text(number: int) -> str:
    """Return a distinct text of 27 English words for every number."""
    return good_text({"number": number})


def response(identity: str, **fields: Any) -> dict[str, Any]:
    return {"id": identity, "author": f"by {identity}", "text": text(hash_of(identity))} | fields


def hash_of(identity: str) -> int:
    return int.from_bytes(identity.encode(), "big")


def thread(identity: str, *responses: Row | str, **fields: Any) -> dict[str, Any]:
    return rows.thread(*responses, **{"id": identity, "post": f"The post {identity}, and what about it?"} | fields)


def comment(identity: str, post: str, **fields: Any) -> dict[str, Any]:
    return rows.comment(identity, post, **{"body": text(hash_of(identity))} | fields)


def pair(identity: str, **fields: Any) -> dict[str, Any]:
    """Return a good thread of two responses."""
    return thread(identity, response(f"{identity}a"), response(f"{identity}b"), **fields)


def dump(submissions: Sequence[Path], comments: Sequence[Path], **keys: Any) -> dict[str, Any]:
    paths = {"submissions": [str(path) for path in submissions], "comments": [str(path) for path in comments]}
    return {"source": {"kind": "dump"} | paths} | keys


BUSY = {"max_responses": 5, "max_post_words": 50, "max_words": 60}

ENGLISH = {"rules": {"language": "en"}}


def busy_forum(repeated: bool = True) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return submissions and comments in random order, with every kind of bad row; with repeated ids too, or not."""
    rng = random.Random(7)
    posts = [
        submission(f"p{k}", title=f"Größe {k}?", selftext=f"Text\u2028of {k}.\r\nWhat now?", subreddit=f"Sub {k % 4}")
        for k in range(60)
    ]
    posts += [
        submission("gone", selftext="[deleted]"),
        submission("none", title=""),
        submission("long", selftext="x " * 60),
    ]
    posts += [submission(f"twin{k}", title=posts[k]["title"].upper(), selftext=posts[k]["selftext"]) for k in range(8)]
    comments = []
    for post in (row["id"] for row in posts):
        for k in range(rng.randrange(12) if post != "p0" else 12):
            fields: dict[str, Any] = rng.choice(
                [{}] * 9
                + [
                    {"author": "[deleted]"},
                    {"distinguished": "moderator"},
                    {"author": "some_bot"},
                    {"body": "Too short."},
                    {"body": "too long " * 40},
                    {"parent_id": "t1_other"},
                    {"link_id": "t3_elsewhere", "parent_id": "t3_elsewhere"},
                    {"body": f"The same\x85text \u2028 for {post} from several people, twice."},
                    {"author": f"twice in {post}"},
                    {"body": f"{GERMAN}, Nummer {post} {k}."},
                ]
            )
            comments.append(comment(f"{post}c{k}", post, **fields))
    rng.shuffle(posts)
    rng.shuffle(comments)
    if repeated:
        posts += [submission("p1", title="Another post of the same name"), posts[0]]
        comments += [comments[5] | {"author": "someone else"}, comments[9]]
    return posts, comments


def split_into(folder: Path, name: str, rows: Sequence[Row], files: int) -> list[Path]:
    return [write_jsonl(folder / f"{name}{k}.jsonl", rows[k::files]) for k in range(files)]


def busy_dump(folder: Path) -> dict[str, Any]:
    posts, comments = busy_forum()
    return dump(split_into(folder, "RS", posts, 1), split_into(folder, "RC", comments, 1), **BUSY)


def check_funnel(found: Gathered) -> None:
    """Check that every item read was dropped for exactly one reason or is in a thread."""
    counts = found.index.counts
    dropped = found.counts("responses")
    assert counts["responses/read"] == counts["responses"] + sum(dropped.values())
    after = ("duplicate", "over_limit")
    posts = found.counts("posts")
    joined = sum(number for name, number in posts.items() if name not in after)
    assert counts["posts/read"] == joined + counts["threads"]
    assert counts["threads"] == sum(found.index.parts)
    usable = counts["threads"] - sum(posts.get(name, 0) for name in after)
    assert counts["threads/used"] == sum(found.index.splits.values()) <= usable
    if found.plan.config.pairs is None:
        assert counts["threads/used"] == usable
    if not any(posts.get(name) for name in after) and counts["threads/used"] == usable:
        assert counts["responses"] == len(found.threads.texts)


def cut_small(
    monkeypatch: pytest.MonkeyPatch, part_bytes: int = 2000, slice_bytes: int = 3000, flushed_at: int = 700
) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", part_bytes)
    monkeypatch.setattr(sources, "SLICE_BYTES", slice_bytes)
    monkeypatch.setattr(gather, "_SPILL_BYTES", flushed_at)
