"""Builds from threads with a known truth: planted kinds of people, whose levels come with their responses."""

from __future__ import annotations

from collections import Counter
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson
import pyarrow as pa
import pytest

from pipeline.build import build
from pipeline.io.shards import read_shard
from pipeline.mining.pairing import cluster_seed
from pipeline.plan import BuildPlan
from preference_space.direction import Direction, from_released
from preference_space.philox import stream_key, uniforms
from schemas.config import BuildConfig
from schemas.loader import validate
from schemas.manifest import Manifest
from tests.pipeline.helpers import MATCHED_SPLITS
from tests.pipeline.mining.reference import Entry, Slot, mine, partition, people, seen

Numbers = npt.NDArray[np.int64]

SIZE = 90
WORDS = [a + b + c for a, b, c in product("bdfgklmnprst", "aeiou", ("l", "m", "n", "r", "st", "x"))]


class Planted(NamedTuple):
    """Threads: of responses 0, 1, ... each `each` ones belong to a post."""

    posts: list[str]
    texts: list[str]
    levels: Direction
    kinds: Numbers
    each: int

    def response(self, post: int, text: str) -> int:
        """Return the response with a text. Raise `ValueError` where the post has none."""
        return self.texts.index(text, post * self.each, (post + 1) * self.each)


def plant(posts: int, each: int, kinds: int, seed: int = 0) -> Planted:
    """Return responses by people of some kinds, each of 3 to 8 dimensions; noise changes up to two levels of each.

    One response in fifty has a text that others use too, but never on the same post.
    """
    numbers = np.random.default_rng(seed)
    rows = posts * each
    people = np.zeros((kinds, SIZE), dtype=np.int8)
    for person in people:
        active = numbers.choice(SIZE, numbers.integers(3, 9), replace=False)
        person[active] = numbers.choice([-1, 1], len(active))
    of_kind = numbers.integers(0, kinds, rows)
    levels = people[of_kind]
    for _ in range(2):
        levels[np.arange(rows), numbers.integers(0, SIZE, rows)] = numbers.choice([-1, 0, 0, 1], rows)
    words = np.array(WORDS)

    def text() -> str:
        return " ".join(words[numbers.integers(0, len(words), numbers.integers(5, 36))])

    stock = [[text() for _ in range(20)] for _ in range(each)]
    is_stock, which = numbers.random(rows) < 0.02, numbers.integers(0, 20, rows)
    return Planted(
        [f"Question {k}: {text()}?" for k in range(posts)],
        [stock[row % each][which[row]] if is_stock[row] else text() for row in range(rows)],
        levels,
        of_kind,
        each,
    )


def write_threads(planted: Planted, path: Path) -> Path:
    with path.open("wb") as file:
        for k, post in enumerate(planted.posts):
            rows = range(k * planted.each, (k + 1) * planted.each)
            responses = [
                {
                    "id": f"r{row}",
                    "author": f"a{row}",
                    "text": planted.texts[row],
                    "levels": planted.levels[row].tolist(),
                }
                for row in rows
            ]
            file.write(orjson.dumps({"id": f"p{k}", "post": post, "responses": responses}) + b"\n")
    return path


def config_of(path: Path, mining: dict[str, Any] | None = None, **keys: Any) -> BuildConfig:
    source = {"source": {"kind": "threads", "path": [str(path)]}, "annotation": {"mode": "given"}}
    return validate(BuildConfig, {"mining": source | (mining or {})} | keys, "planted")


def read_all(folder: Path, split: str = "*") -> pa.Table:
    return pa.concat_tables([read_shard(path) for path in sorted(folder.glob(f"{split}-*.parquet"))]).combine_chunks()


def directions_of(lists: pa.Array | pa.ChunkedArray) -> Direction:
    """Return lists of levels, or of released numbers, as rows."""
    flat = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    values = flat.flatten().to_numpy(zero_copy_only=False).reshape(-1, SIZE)
    return values if values.dtype == np.int8 else from_released(values)


class Pairs(NamedTuple):
    """The pool: planted posts and responses, and what the pairs say of them."""

    ids: list[str]
    post_ids: list[str]
    posts: Numbers
    chosen: Numbers
    rejected: Numbers
    directions: Direction
    chosen_levels: Direction
    rejected_levels: Direction


class Rows(NamedTuple):
    """The finished rows of a split: planted posts and responses of the row, (N,), and of its history, (N, items)."""

    ids: list[str]
    posts: Numbers
    chosen: Numbers
    rejected: Numbers
    directions: Direction
    support: npt.NDArray[np.float64]
    is_mirrored: npt.NDArray[np.bool_]
    ugc_posts: Numbers
    ugc: Numbers
    ugc_directions: Direction
    pair_posts: Numbers
    pair_chosen: Numbers
    pair_rejected: Numbers
    pair_directions: Direction

    def all_posts(self) -> Numbers:
        return np.concatenate([self.posts[:, None], self.ugc_posts, self.pair_posts], axis=1)

    def all_replies(self) -> Numbers:
        replies = (self.chosen[:, None], self.rejected[:, None], self.ugc, self.pair_chosen, self.pair_rejected)
        return np.concatenate(replies, axis=1)


def locate(planted: Planted, prompts: list[str], texts: list[str], numbers: dict[str, int]) -> Numbers:
    found = [planted.response(numbers[prompt], text) for prompt, text in zip(prompts, texts, strict=True)]
    return np.array(found, dtype=np.int64)


def read_pairs(output: Path, planted: Planted, split: str = "*") -> Pairs:
    table = read_all(output / "pool", split)
    numbers = {post: k for k, post in enumerate(planted.posts)}
    prompts = table["prompt"].to_pylist()
    return Pairs(
        table["pair_id"].to_pylist(),
        table["post_id"].to_pylist(),
        np.array([numbers[prompt] for prompt in prompts]),
        locate(planted, prompts, table["chosen"].to_pylist(), numbers),
        locate(planted, prompts, table["rejected"].to_pylist(), numbers),
        *(directions_of(table[name]) for name in ("direction", "chosen_levels", "rejected_levels")),
    )


def read_rows(output: Path, planted: Planted, split: str = "*") -> Rows:
    table = read_all(output / "data", split)
    ugc, pair = (
        table[name].combine_chunks().flatten() for name in ("User-Generated Content", "Pair-wise Comparative Feedback")
    )
    rows, numbers = table.num_rows, {post: k for k, post in enumerate(planted.posts)}

    def posts(source: Any) -> Numbers:
        found = [numbers[prompt] for prompt in field(source, "prompt").to_pylist()]
        return np.array(found, dtype=np.int64)

    def replies(source: Any, name: str) -> Numbers:
        return locate(planted, field(source, "prompt").to_pylist(), field(source, name).to_pylist(), numbers)

    return Rows(
        table["id"].to_pylist(),
        posts(table),
        replies(table, "chosen"),
        replies(table, "rejected"),
        directions_of(table["Preference Direction"]),
        table["history_support"].to_numpy(),
        table["mirrored"].to_numpy(),
        posts(ugc).reshape(rows, -1),
        replies(ugc, "comment").reshape(rows, -1),
        directions_of(field(ugc, "Preference Direction")).reshape(rows, -1, SIZE),
        posts(pair).reshape(rows, -1),
        replies(pair, "chosen").reshape(rows, -1),
        replies(pair, "rejected").reshape(rows, -1),
        directions_of(field(pair, "Preference Direction")).reshape(rows, -1, SIZE),
    )


def field(source: Any, name: str) -> Any:
    """Return a column of a table, or a field of structures."""
    return source.column(name) if isinstance(source, pa.Table) else source.field(name)


MIN_SIMILARITY, MIN_SUPPORT = 0.87, 0.6
"""More than 78.3 of 90 levels must be equal: those of two kinds of people often are not."""


class Built(NamedTuple):
    """A finished build of the planted threads."""

    planted: Planted
    config: BuildConfig
    output: Path
    manifest: Manifest
    pairs: Pairs
    rows: Rows


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("planted")
    planted = plant(5000, 4, kinds=40)
    config = config_of(
        write_threads(planted, folder / "threads.jsonl"),
        splits={"train": 0.8, "validation": 0.1, "test": 0.1},
        history={"min_similarity": MIN_SIMILARITY, "min_support": MIN_SUPPORT},
        limits={"max_lost_share": 1},
    )
    output = folder / "out"
    manifest = build(config, output)
    return Built(planted, config, output, manifest, read_pairs(output, planted), read_rows(output, planted))


def difference(levels: Direction, chosen: Numbers, rejected: Numbers) -> Direction:
    signs: Direction = np.sign(levels[chosen].astype(np.int64) - levels[rejected]).astype(np.int8)
    return signs


def similarity(levels: Direction, a: Numbers, b: Numbers) -> npt.NDArray[np.float64]:
    """Return the share of equal levels, which is the cosine of the one-hot vectors (`test_levels` proves that)."""
    shares: npt.NDArray[np.float64] = (levels[a] == levels[b]).mean(axis=-1)
    return shares


def test_every_direction_is_the_sign_of_the_difference_of_the_planted_levels(built: Built) -> None:
    levels, pairs, rows = built.planted.levels, built.pairs, built.rows

    assert len(pairs.ids) > 4900
    assert np.array_equal(pairs.directions, difference(levels, pairs.chosen, pairs.rejected))
    assert np.array_equal(pairs.chosen_levels, levels[pairs.chosen])
    assert np.array_equal(pairs.rejected_levels, levels[pairs.rejected])
    assert np.array_equal(rows.directions, difference(levels, rows.chosen, rows.rejected))
    assert rows.directions.any(axis=1).all()


def test_both_replies_of_a_pair_are_of_its_own_thread(built: Built) -> None:
    each, pairs = built.planted.each, built.pairs

    assert np.array_equal(pairs.chosen // each, pairs.posts)
    assert np.array_equal(pairs.rejected // each, pairs.posts)
    assert pairs.post_ids == [f"p{post}" for post in pairs.posts]
    assert (pairs.chosen != pairs.rejected).all()


def test_every_thread_has_at_most_one_pair(built: Built) -> None:
    assert len(set(built.pairs.post_ids)) == len(built.pairs.post_ids)


def test_replies_of_a_pair_are_of_different_clusters(built: Built) -> None:
    planted, pairs = built.planted, built.pairs

    for k in range(0, len(pairs.ids), 25):
        first = pairs.posts[k] * planted.each
        levels = [tuple(row) for row in planted.levels[first : first + planted.each].tolist()]
        labels = partition(levels, 3, cluster_seed(0, pairs.post_ids[k]))
        assert labels[pairs.chosen[k] - first] != labels[pairs.rejected[k] - first]


def test_every_reply_is_as_likely_to_be_chosen_as_to_be_rejected(built: Built) -> None:
    """A thread's four responses are drawn alike, wherever they stand."""
    for replies in (built.pairs.chosen, built.pairs.rejected):
        assert np.bincount(replies % 4) / len(replies) == pytest.approx(0.25, abs=0.03)


def test_items_show_the_planted_levels_of_their_replies(built: Built) -> None:
    levels, rows = built.planted.levels, built.rows

    assert np.array_equal(rows.ugc_directions, levels[rows.ugc])
    assert np.array_equal(rows.pair_directions, difference(levels, rows.pair_chosen, rows.pair_rejected))
    assert rows.ugc.shape == rows.pair_chosen.shape == (len(rows.ids), 4)


def test_no_item_contradicts_its_row(built: Built) -> None:
    rows = built.rows

    assert not (rows.directions[:, None] * rows.ugc_directions < 0).any()
    assert not (rows.directions[:, None] * rows.pair_directions < 0).any()


def test_items_are_similar_to_the_replies_of_their_row(built: Built) -> None:
    levels, rows = built.planted.levels, built.rows
    chosen, rejected = rows.chosen[:, None], rows.rejected[:, None]

    least = [
        similarity(levels, chosen, rows.ugc).min(),
        similarity(levels, chosen, rows.pair_chosen).min(),
        similarity(levels, rejected, rows.pair_rejected).min(),
    ]

    assert min(least) > MIN_SIMILARITY
    # The rule is at work: two responses at random are often less similar than that.
    random = similarity(levels, rows.chosen, np.roll(rows.chosen, 1))
    assert (random <= MIN_SIMILARITY).mean() > 0.3


def test_no_post_and_no_reply_is_repeated_in_a_row(built: Built) -> None:
    posts, texts = built.rows.all_posts(), np.unique(built.planted.texts, return_inverse=True)[1]
    replies = texts[built.rows.all_replies()]

    for values in (posts, replies):
        in_order = np.sort(values, axis=1)
        assert (in_order[:, 1:] != in_order[:, :-1]).all()


def test_support_is_what_the_items_show(built: Built) -> None:
    rows = built.rows
    active = rows.directions != 0

    agreeing = (rows.directions[:, None] * np.concatenate([rows.ugc_directions, rows.pair_directions], axis=1)) > 0
    support = (agreeing.any(axis=1) & active).sum(axis=1) / active.sum(axis=1)

    assert rows.support == pytest.approx(support)
    assert rows.support.min() >= MIN_SUPPORT


def test_every_row_has_its_mirrored_twin(built: Built) -> None:
    rows, at = built.rows, {identity: k for k, identity in enumerate(built.rows.ids)}
    one = np.array([k for identity, k in at.items() if identity.endswith("-a")])
    other = np.array([at[rows.ids[k][:-1] + "b"] for k in one])

    assert len(one) * 2 == len(at) == len(rows.ids)
    assert not rows.is_mirrored[one].any()
    assert rows.is_mirrored[other].all()
    assert np.array_equal(rows.posts[one], rows.posts[other])
    assert np.array_equal(rows.chosen[one], rows.rejected[other])
    assert np.array_equal(rows.rejected[one], rows.chosen[other])
    assert np.array_equal(rows.directions[one], -rows.directions[other])
    assert np.array_equal(rows.pair_chosen[one], rows.pair_rejected[other])
    assert np.array_equal(rows.pair_rejected[one], rows.pair_chosen[other])
    # What the two wrote is of different people.
    assert (rows.ugc[one] != rows.ugc[other]).all(axis=1).mean() > 0.9


def test_rows_are_those_of_the_pool(built: Built) -> None:
    pool = {identity: k for k, identity in enumerate(built.pairs.ids)}
    rows = built.rows
    of = np.array([pool[identity[:-2]] for identity in rows.ids])

    assert np.array_equal(np.where(rows.is_mirrored, built.pairs.rejected[of], built.pairs.chosen[of]), rows.chosen)
    assert np.array_equal(np.where(rows.is_mirrored, built.pairs.chosen[of], built.pairs.rejected[of]), rows.rejected)


def test_items_are_pairs_of_the_pool_of_the_same_split(built: Built) -> None:
    for split in MATCHED_SPLITS:
        pairs = read_pairs(built.output, built.planted, split)
        rows = read_rows(built.output, built.planted, split)
        known = {frozenset(pair) for pair in zip(pairs.chosen.tolist(), pairs.rejected.tolist(), strict=True)}
        replies = {reply for pair in known for reply in pair}
        found = zip(rows.pair_chosen.ravel().tolist(), rows.pair_rejected.ravel().tolist(), strict=True)
        assert {frozenset(pair) for pair in found} <= known
        assert set(rows.ugc.ravel().tolist()) <= replies


def test_splits_share_no_post_and_no_reply(built: Built) -> None:
    texts = np.unique(built.planted.texts, return_inverse=True)[1]
    posts, replies = [], []
    for split in MATCHED_SPLITS:
        rows = read_rows(built.output, built.planted, split)
        assert len(rows.ids) > 100
        posts.append({*rows.all_posts().ravel().tolist()})
        replies.append({*texts[rows.all_replies()].ravel().tolist()})

    for values in (posts, replies):
        assert len(set().union(*values)) == sum(map(len, values))
    assert built.manifest.counts.rejected["assemble/reply_in_another_split"] > 10


def test_history_is_of_people_like_the_person(built: Built) -> None:
    """Chance would give a fortieth of P_UGC to the person's own kind, and less than a thousandth of P_PAIR."""
    rows, kinds = built.rows, built.planted.kinds

    assert (kinds[rows.ugc] == kinds[rows.chosen][:, None]).mean() > 0.9
    both = (kinds[rows.pair_chosen] == kinds[rows.chosen][:, None]) & (
        kinds[rows.pair_rejected] == kinds[rows.rejected][:, None]
    )
    assert both.mean() > 0.4


def test_counts_add_up(built: Built) -> None:
    counts, posts, responses = built.manifest.counts, len(built.planted.posts), len(built.planted.texts)
    rejections = [
        row for phase in ("pairs", "examples") for row in read_all(built.output / "rejected" / phase).to_pylist()
    ]
    final = [row for row in rejections if row["final"]]

    assert (counts.pairs_asked, counts.threads["posts/read"], counts.threads["threads/used"]) == (posts,) * 3
    assert counts.threads["responses/read"] == counts.threads["responses"] == responses
    assert counts.rejected == Counter(f"{row['stage']}/{row['reason']}" for row in rejections)
    assert counts.pairs_accepted == len(built.pairs.ids)
    assert counts.pairs_lost == len(final) == len({row["record_id"] for row in final})
    assert counts.examples == len(built.rows.ids) == 2 * (posts - counts.pairs_lost)
    kept, lost = {identity[:-2] for identity in built.rows.ids}, {row["record_id"] for row in final}
    assert not kept & lost
    assert len(kept) + len(lost) == posts
    assert counts.prompt_tokens == counts.completion_tokens == 0
    assert counts.rejected.keys() >= {"mine/length_ratio", "assemble/history_too_short"}


def test_manifest_lists_every_row(built: Built) -> None:
    rows = dict.fromkeys(MATCHED_SPLITS, 0)
    for entry in built.manifest.files:
        if entry.path.startswith("data/"):
            rows[Path(entry.path).name.split("-")[0]] += entry.rows

    assert rows == {split: read_all(built.output / "data", split).num_rows for split in MATCHED_SPLITS}


# A few threads, against the reference.


@pytest.mark.parametrize(
    ("history", "mining", "mirror"),
    [
        ({"min_similarity": 0.85, "min_support": 0.7, "ugc": 3, "pair": 2}, {"pairs_per_post": 2}, True),
        ({"min_similarity": 0.8, "consistency": "paper", "ugc": 2, "pair": 2}, {"clusters": 2}, False),
        ({"min_similarity": 0.8, "consistency": "paper", "ugc": 1, "pair": 1}, {}, True),
    ],
)
def test_small_build_is_that_of_the_reference(
    history: dict[str, Any], mining: dict[str, Any], mirror: bool, tmp_path: Path
) -> None:
    planted, seed = plant(60, 5, kinds=12, seed=3), 11
    config = config_of(
        write_threads(planted, tmp_path / "threads.jsonl"),
        mining,
        splits={"train": 1, "validation": 0, "test": 0},
        history=history,
        limits={"max_lost_share": 1},
        mirror=mirror,
        seed=seed,
    )

    manifest = build(config, tmp_path / "out")

    entries = expected_entries(planted, config, tmp_path / "out", manifest.fingerprint)
    pool = read_all(tmp_path / "out" / "pool").to_pylist()
    assert {row["pair_id"]: entry_of(row) for row in pool} == entries
    assert [tuple(row["direction"]) for row in pool] == [entry.direction for entry in entries.values()]

    rows = {row["id"]: row for row in read_all(tmp_path / "out" / "data").to_pylist()}
    lost = {row["record_id"]: row["reason"] for row in read_all(tmp_path / "out" / "rejected" / "examples").to_pylist()}
    order = uniforms(seed, stream_key("order", "train"), np.array([0]), len(entries))[0].tolist()
    shift = uniforms(seed, stream_key("shift", "train"), np.arange(len(entries)), 1)[:, 0].tolist()
    sides, candidates = (1, -1) if mirror else (1,), [*entries.values()]
    outcomes: Counter[str] = Counter()
    for target, identity in enumerate(entries):
        expected = people(candidates, target, config.history, sides, order, shift[target])
        if isinstance(expected, str):
            outcomes[expected] += 1
            assert lost.pop(identity) == expected
            continue
        for letter, person in zip("ab", expected, strict=False):
            outcomes["history"] += 1
            row = rows.pop(f"{identity}-{letter}")
            wrote = [seen(candidates, view) for view in person.ugc]
            preferred = [seen(candidates, view) for view in person.pair]
            wanted = candidates[target] if letter == "a" else candidates[target].mirrored()
            assert as_levels(row["Preference Direction"]) == wanted.direction
            assert (row["prompt"], row["chosen"], row["rejected"]) == (wanted.post, wanted.chosen, wanted.rejected)
            assert [
                (item["prompt"], item["comment"], as_levels(item["Preference Direction"]))
                for item in row["User-Generated Content"]
            ] == [(item.post, item.chosen, item.chosen_levels) for item in wrote]
            assert [
                (item["prompt"], item["chosen"], item["rejected"], as_levels(item["Preference Direction"]))
                for item in row["Pair-wise Comparative Feedback"]
            ] == [(item.post, item.chosen, item.rejected, item.direction) for item in preferred]
            assert row["history_support"] == pytest.approx(person.support)
    assert not rows
    assert not lost
    assert outcomes["history"] > 20, outcomes
    assert len(outcomes) > 1, outcomes


def expected_entries(planted: Planted, config: BuildConfig, output: Path, fingerprint: str) -> dict[str, Entry]:
    """Return the pairs of the reference by id; threads and responses are in the order of the build."""
    assert config.mining is not None
    each, attempts = config.mining.pairs_per_post, config.attempts
    threads = read_all(output / "annotated").to_pylist()
    (spec,) = BuildPlan(output, fingerprint, config, {"train": len(threads)}).shards()
    indices = np.arange(spec.count)
    numbers = [
        uniforms(config.seed, stream_key("mine", "train", attempt), indices, 4).tolist() for attempt in range(attempts)
    ]
    entries = {}
    for k, thread in enumerate(threads):
        post = int(thread["id"][1:])
        rows = [int(response["id"][1:]) for response in thread["responses"]]
        assert sorted(rows) == [*range(post * planted.each, (post + 1) * planted.each)]
        levels = [tuple(planted.levels[row].tolist()) for row in rows]
        texts = [planted.texts[row] for row in rows]
        slots: list[Slot] = mine(
            texts,
            levels,
            [[(float(level > 0), float(level < 0)) for level in row] for row in levels],
            [[drawn[index] for drawn in numbers] for index in range(k * each, (k + 1) * each)],
            cluster_seed(config.seed, thread["id"]),
            config.mining,
            config.rules,
        )
        for index, slot in enumerate(slots, k * each):
            if slot.pair:
                chosen, rejected = slot.pair
                entries[spec.record_id(fingerprint, index)] = Entry(
                    planted.posts[post], texts[chosen], texts[rejected], levels[chosen], levels[rejected]
                )
    return entries


def entry_of(row: dict[str, Any]) -> Entry:
    """Return a row of the pool."""
    levels = (tuple(row["chosen_levels"]), tuple(row["rejected_levels"]))
    return Entry(row["prompt"], row["chosen"], row["rejected"], *levels)


def as_levels(released: list[float]) -> tuple[int, ...]:
    return tuple(from_released(released).tolist())


def test_split_of_which_every_pair_is_lost_has_no_rows(tmp_path: Path) -> None:
    keys: dict[str, Any] = {
        "splits": {"train": 0.5, "validation": 0, "test": 0.5},
        "history": {"ugc": 1, "pair": 1, "min_similarity": 0.5, "min_support": 0},
        "limits": {"max_lost_share": 1},
    }
    planted = plant(24, 3, kinds=4)
    build(config_of(write_threads(planted, tmp_path / "good.jsonl"), **keys), tmp_path / "good")
    # Splits are cut by ids, so that these are its posts whatever their responses say.
    for identity in read_all(tmp_path / "good" / "annotated", "test")["id"].to_pylist():
        first = int(identity[1:]) * planted.each
        planted.levels[first : first + planted.each] = planted.levels[first]

    manifest = build(config_of(write_threads(planted, tmp_path / "bad.jsonl"), **keys), tmp_path / "bad")

    assert manifest.counts.rejected["mine/one_cluster"] == 12
    assert read_all(tmp_path / "bad" / "data", "test").num_rows == 0
    assert read_all(tmp_path / "bad" / "data", "train").num_rows == manifest.counts.examples > 0


@pytest.mark.parametrize("consistency", ["strict", "paper"])
def test_build_without_histories_keeps_every_pair(consistency: str, tmp_path: Path) -> None:
    """As for sampled pairs, `min_support` asks nothing of a history that is to have no items."""
    path = write_threads(plant(12, 3, kinds=4), tmp_path / "threads.jsonl")
    keys: dict[str, Any] = {
        "splits": {"train": 1, "validation": 0, "test": 0},
        "history": {"ugc": 0, "pair": 0, "consistency": consistency},
    }

    manifest = build(config_of(path, **keys), tmp_path / "out")

    assert manifest.counts.examples == 24
