"""Properties that hold for any input, tried on a fixed set of drawn ones."""

from __future__ import annotations

import io
import json
import re
import tempfile
import unicodedata
from collections import Counter
from pathlib import Path

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st
from rich.text import Text

from pipeline.plan import cut_shards
from pipeline.reading.text import (
    clean_text,
    find_control_character,
    is_blank,
    is_placeholder,
    normalise,
    remove_controls,
    to_slug,
)
from pipeline.report.page import render_page
from pipeline.sampling.posts import read_posts, store_posts, take_posts
from pipeline.threads.scrub import scrub
from preference_space.direction import from_released, to_released
from preference_space.space import load_space
from schemas.config import SeedsConfig, apportion
from schemas.terminal import Terminal, safe
from tests.pipeline.helpers import MATCHED_SPLITS, tiny, write_jsonl
from tests.pipeline.report import fake

settings.register_profile("fixed", derandomize=True, deadline=None, max_examples=60, database=None)
settings.load_profile("fixed")

# Tables of Unicode differ in what they say of code points that are not assigned yet.
CHARACTERS = st.characters(codec="utf-8", exclude_categories=["Cn", "Cs"]) | st.sampled_from(
    "&;<>#@./:[]()*_-+0123456789 \n\t\x1b\u200d\u202e\ufeff"
)
PIECES = st.sampled_from(
    [
        *(
            "&amp;",
            "&lt;",
            "&#x1b;",
            "&nbsp;",
            "\x1b[31m",
            "\x1b]0;x\x07",
            "\x9b2J",
            "[deleted]",
            "[link]",
            "u/some_one",
        ),
        *("joe@example.org", "https://example.org/a(b)", "www.example.org", "[a](/b)", "+1 415 555 2671", "{{data}}"),
        *("@name@mastodon.example", "</script>", "<!--", "\u2028", "\U0001f468\u200d\U0001f469", "some_one"),
    ]
)
TEXTS = st.lists(st.text(CHARACTERS, max_size=12) | PIECES, max_size=8).map("".join)
ANY_TEXTS = TEXTS | st.text(st.characters(), max_size=30)
"""With lone surrogates, which no file holds but a terminal may be given."""
SPACE = load_space("alignx")


ADDRESSES = st.sampled_from(
    [
        *"@.-/()[]_:1x \n",
        *("u/", "r/", "](/", "www.", "https://", "jo", "com", "some_one", "+44", "2079460958", "650-253-0000"),
        *("[link]", "[user]", "[phone]", "/332-445-1234"),
    ]
)


@settings(max_examples=1000)
@given(
    TEXTS | st.lists(ADDRESSES, min_size=2, max_size=12).map("".join),
    st.sets(st.sampled_from(["some_one", "SomeOne", "name42", "joe"])),
)
def test_scrubbing_twice_is_scrubbing_once(text: str, names: set[str]) -> None:
    once = scrub(text, names)

    assert scrub(once, names) == once


@given(TEXTS)
@example("\u0645\u200d\u202e\u0645")  # a joiner beside what is shown by its number
@example("a\u200d\u200d\u0645")
def test_cleaning_twice_is_cleaning_once(text: str) -> None:
    for clean in (remove_controls, normalise, to_slug, safe):
        once = clean(text)
        assert clean(once) == once, clean.__name__


@given(ANY_TEXTS)
def test_no_control_character_is_left(text: str) -> None:
    assert find_control_character(remove_controls(text)) is None


@given(st.integers(0, 10**9), st.lists(st.integers(0, 1000), min_size=1, max_size=5).filter(any))
def test_apportioned_counts_add_up_and_differ_from_the_shares_by_less_than_one(total: int, weights: list[int]) -> None:
    shares = {str(key): weight / sum(weights) for key, weight in enumerate(weights)}

    counts = apportion(total, shares)

    assert sum(counts.values()) == total
    assert all(abs(counts[key] - total * share) < 1 + 1e-6 for key, share in shares.items())


@given(
    st.integers(2, 5000),
    st.integers(1, 300),
    st.sampled_from([(0.9, 0.05, 0.05), (1, 0, 0), (1 / 3, 1 / 3, 1 / 3), (0.7, 0.3, 0)]),
    st.dictionaries(st.sampled_from(MATCHED_SPLITS), st.integers(0, 500)),
    st.integers(1, 5),
)
def test_shards_hold_each_pair_once_and_none_is_too_large(
    pairs: int, shard_pairs: int, shares: tuple[float, float, float], threads: dict[str, int], each: int
) -> None:
    mining = {"source": {"kind": "threads", "path": ["packaged"]}, "pairs_per_post": each, "share": 0.5}
    config = tiny(
        pairs=pairs, shard_pairs=shard_pairs, splits=dict(zip(MATCHED_SPLITS, shares, strict=True)), mining=mining
    )

    shards = cut_shards(config, threads)

    assert sum(spec.count for spec in shards if spec.source == "sampled") == config.sampled_pairs
    for split in MATCHED_SPLITS:
        found = [spec for spec in shards if spec.split == split]
        assert [(spec.index, spec.of) for spec in found] == [(k, len(found)) for k in range(len(found))]
        for source in ("sampled", "mined"):
            stop = 0
            for spec in (spec for spec in found if spec.source == source):
                assert spec.start == stop
                assert 0 < spec.count <= max(shard_pairs, each)
                stop += spec.count
            assert source == "sampled" or stop == each * threads.get(split, 0)


@given(st.lists(st.sampled_from([-1, 0, 1]), min_size=len(SPACE), max_size=len(SPACE)))
def test_released_numbers_name_their_direction(levels: list[int]) -> None:
    direction = np.array(levels, dtype=np.int8)

    assert (from_released(to_released(direction)) == direction).all()


@settings(max_examples=20)
@given(st.lists(TEXTS, min_size=1, max_size=12))
def test_posts_come_back_from_their_files_as_they_were_read(texts: list[str]) -> None:
    rows = [{"id": f"p{k}", "title": "", "text": text} for k, text in enumerate(["always one", *texts])]
    with tempfile.TemporaryDirectory() as name:
        path = write_jsonl(Path(name) / "posts.jsonl", rows)
        posts = [*read_posts(SeedsConfig(path=str(path)), Counter(), 1)]
        store_posts(Path(name) / "train.parquet", posts, "fingerprint")
        stored = take_posts(Path(name) / "train.parquet", np.arange(len(posts)))

    assert stored == posts
    written = {row["id"]: clean_text(row["text"]) for row in rows}
    assert {post.id: post.text for post in posts}.items() <= written.items()
    kept = {normalise(post.text) for post in posts}
    assert all(is_blank(text) or is_placeholder(text) or normalise(text) in kept for text in written.values())


@settings(max_examples=20)
@given(TEXTS)
def test_a_text_comes_back_from_the_report(text: str) -> None:
    page = render_page(fake.empty().model_copy(update={"name": text}))

    data = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert len(data) == 1
    assert json.loads(data[0])["name"] == text


@given(ANY_TEXTS, st.booleans())
def test_a_terminal_is_sent_the_safe_form_of_a_text(text: str, is_terminal: bool) -> None:
    terminal = Terminal(file=io.StringIO(), width=10_000, force_terminal=is_terminal)

    terminal.print(Text(safe(text)), soft_wrap=True)

    assert isinstance(terminal.file, io.StringIO)
    printed = terminal.file.getvalue()
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in printed.replace("\n", ""))
    printed.encode()
