from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.driver.prepare import with_threads
from pipeline.threads import gather
from pipeline.threads.gather import pending_parts, pending_slices
from pipeline.threads.index import build_index, read_index, read_threads
from schemas.base import UsageError, UserError
from tests.pipeline.helpers import MATCHED_SPLITS, mining, write_jsonl
from tests.pipeline.threads.forum import (
    Gathered,
    Row,
    busy_dump,
    check_funnel,
    cut_small,
    gather_rows,
    gathered,
    pair,
    plan_of,
    response,
    shuffle_and_join,
    thread,
)


def test_posts_with_the_same_text_are_one_thread_across_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", 300)
    rows = [pair(f"t{k}", post=("Why, oh why?", "why oh WHY", " Why -- oh\n\nwhy!")[k % 3]) for k in range(12)]
    rows += [pair(f"u{k}") for k in range(3)]

    found = gather_rows(tmp_path, *rows)

    assert sum(size > 0 for size in found.index.parts) > 5
    assert len([post for post in found.posts if post.startswith("t")]) == 1
    assert sorted(post for post in found.posts if post.startswith("u")) == ["u0", "u1", "u2"]
    assert found.counts("posts") == {"duplicate": 11}
    check_funnel(found)


def test_first_of_equal_posts_in_the_order_is_kept(tmp_path: Path) -> None:
    names = [f"t{k}" for k in range(6)]
    order = gather_rows(tmp_path, *(pair(name) for name in names)).posts
    (tmp_path / "equal").mkdir()

    found = gather_rows(tmp_path / "equal", *(pair(name, post="All the same.") for name in names))

    assert found.posts == order[:1]


def test_title_and_text_together_are_what_makes_posts_equal(tmp_path: Path) -> None:
    rows = [
        pair("a", title="One two", post="three four"),
        pair("b", title="One two three", post="four"),
        pair("c", title="One two", post="something else"),
    ]

    found = gather_rows(tmp_path, *rows)

    assert len(found.posts) == 2
    assert "c" in found.posts


def test_limit_keeps_the_first_threads_of_the_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", 1000)
    rows = [pair(f"t{k}") for k in range(20)]
    whole = gather_rows(tmp_path, *rows)
    (tmp_path / "some").mkdir()

    some = gather_rows(tmp_path / "some", *rows, limit=6)

    assert some.posts == whole.posts[:6]
    assert some.counts("posts") == {"over_limit": 14}
    check_funnel(some)


def test_limit_counts_threads_after_duplicates(tmp_path: Path) -> None:
    rows = [pair(f"t{k}", post=f"Text {k // 2}") for k in range(20)]

    found = gather_rows(tmp_path, *rows, limit=6)

    assert len(found.posts) == 6
    assert found.counts("posts") == {"duplicate": 10, "over_limit": 4}
    check_funnel(found)


def mixture(folder: Path, seeds: Sequence[Row], rows: Sequence[Row], **keys: Any) -> Gathered:
    """Gather for a build with half of its pairs mined and half sampled."""
    path = write_jsonl(folder / "seeds.jsonl", seeds)
    section = mining(write_jsonl(folder / "threads.jsonl", rows), share=0.5, **keys)
    build = {"pairs": 20, "seeds": {"path": str(path)}, "history": {"ugc": 0, "pair": 0}}
    return gathered(folder / "out", section, **build)


def plain_seeds(count: int = 20) -> list[dict[str, Any]]:
    return [{"id": f"s{k}", "text": f"Seed number {k}, what now?"} for k in range(count)]


def test_thread_on_a_post_that_is_also_a_seed_is_left_out(tmp_path: Path) -> None:
    rows = [pair(f"t{k}") for k in range(20)]
    seeds = [{"id": f"x{k}", "text": rows[k]["post"].upper()} for k in range(8)]

    found = mixture(tmp_path, seeds + plain_seeds(), rows)

    assert found.index.counts["posts/duplicate"] == 8
    assert not set(found.posts) & {f"t{k}" for k in range(8)}
    assert len(found.posts) == 10
    check_funnel(found)


def test_thread_on_a_seed_is_found_where_scrubbing_changes_its_post(tmp_path: Path) -> None:
    rows = [pair(f"t{k}", post=f"Is https://example.org/{k} right about number {k}?") for k in range(12)]
    seeds = [{"id": "x", "text": rows[3]["post"]}]

    found = mixture(tmp_path, seeds + plain_seeds(), rows)

    assert found.index.counts.get("posts/duplicate") == 1
    assert "t3" not in found.posts


def test_seeds_do_not_count_where_all_pairs_are_mined(tmp_path: Path) -> None:
    found = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(12)), build={"pairs": 10})

    assert not (found.plan.output / "seeds").exists()
    assert found.index.splits == {"train": 6, "validation": 2, "test": 2}


@pytest.mark.parametrize(("pairs", "each", "needed"), [(10, 1, 10), (10, 3, 4), (9, 3, 3), (1, 8, 1), (24, 1, 24)])
def test_threads_used_are_as_many_as_the_pairs_need(tmp_path: Path, pairs: int, each: int, needed: int) -> None:
    rows = [pair(f"t{k}") for k in range(24)]
    everything = gather_rows(tmp_path, *rows)
    assert sum(everything.index.splits.values()) == 24
    (tmp_path / "some").mkdir()

    found = gather_rows(tmp_path / "some", *rows, build={"pairs": pairs}, pairs_per_post=each)

    assert found.posts == everything.posts[:needed]
    check_funnel(found)


def test_fewer_threads_than_pairs_need_is_refused(tmp_path: Path) -> None:
    plan = plan_of(
        tmp_path / "out",
        mining(write_jsonl(tmp_path / "x.jsonl", [pair(f"t{k}") for k in range(5)]), pairs_per_post=2),
        pairs=11,
    )
    shuffle_and_join(plan)

    with pytest.raises(UsageError, match=r"^mining: 5 threads .* 10 pairs .* 11 .*mining\.pairs_per_post[^\n]*$"):
        build_index(plan)
    assert read_index(plan) is None


def test_no_thread_left_is_refused_with_the_reasons(tmp_path: Path) -> None:
    rows = [thread(f"t{k}", response("a"), response("b", text="Too short.")) for k in range(3)]
    plan = plan_of(tmp_path / "out", mining(write_jsonl(tmp_path / "x.jsonl", rows)))
    shuffle_and_join(plan)

    with pytest.raises(UsageError) as caught:
        build_index(plan)

    message = str(caught.value)
    assert message.startswith("mining.source: no thread is left of 3 posts (")
    assert "responses/too_short 3" in message
    assert "\n" not in message


def test_empty_source_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", mining(write_jsonl(tmp_path / "x.jsonl", [])))
    shuffle_and_join(plan)

    with pytest.raises(UsageError, match=r"mining\.source: .* 0 posts \(nothing was read\)"):
        build_index(plan)


def test_reasons_for_no_thread_are_reasons(tmp_path: Path) -> None:
    rows = [pair(f"t{k}") for k in range(3)]
    seeds = [{"id": f"x{k}", "text": row["post"]} for k, row in enumerate(rows)]

    with pytest.raises(UsageError, match=r"mining\.source: .* 3 posts \(posts/duplicate 3\)$"):
        mixture(tmp_path, seeds + plain_seeds(), rows)


def test_splits_share_no_post_and_have_their_shares(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "_PART_BYTES", 1000)
    found = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(40)), build={"history": {"ugc": 1, "pair": 1}})
    plan = with_threads(found.plan, found.index)

    by_split = {
        split: [post.id for post in read_threads(plan, plan.first_thread(split), found.index.splits[split]).posts]
        for split in MATCHED_SPLITS
    }

    assert {split: len(posts) for split, posts in by_split.items()} == {"train": 24, "validation": 8, "test": 8}
    assert [post for split in MATCHED_SPLITS for post in by_split[split]] == found.posts
    assert Counter(found.posts) == Counter(f"t{k}" for k in range(40))


def test_index_stays_and_the_spills_go(tmp_path: Path) -> None:
    found = gather_rows(tmp_path, *(pair(f"t{k}") for k in range(5)))

    assert read_index(found.plan) == found.index
    left = {path.name for path in (found.plan.output / "threads").iterdir()}
    assert left == {"index.json", "kept.npy", "part-00000.parquet"}


def test_index_made_again_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The driver was killed after the last part.
    cut_small(monkeypatch)
    plan = plan_of(tmp_path / "out", busy_dump(tmp_path))
    shuffle_and_join(plan)

    assert build_index(plan) == build_index(plan)


def test_threads_of_another_build_are_gathered_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", mining(write_jsonl(tmp_path / "x.jsonl", [pair(f"t{k}") for k in range(5)])))
    shuffle_and_join(plan)
    build_index(plan)
    other = dataclasses.replace(plan, fingerprint="f" * 64)

    assert (len(pending_slices(other)), len(pending_parts(other)), read_index(other)) == (1, 1, None)


def test_threads_are_asked_for_before_they_are_gathered(tmp_path: Path) -> None:
    plan = plan_of(tmp_path / "out", mining(write_jsonl(tmp_path / "x.jsonl", [pair("t")])))

    assert read_index(plan) is None
    with pytest.raises(UserError, match=r"index\.json is missing"):
        read_threads(plan, 0, 1)
