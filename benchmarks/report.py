"""The report of a large build: `python -m benchmarks.report`. Minutes, memory, and whether planted truths are found.

Synthetic rows: mirrored pairs with 4 + 4 history items, in shards, with pool and rejections, as a build leaves them;
texts of random words, as long as those of a real build. `--data DIR` keeps them, or uses those that are there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from benchmarks.machine import describe, measure
from pipeline.assembly.examples import EXAMPLE_SCHEMA
from pipeline.io.manifests import write_manifest
from pipeline.io.shards import write_shard
from pipeline.io.storage import write_text
from pipeline.plan import SPLITS
from pipeline.report.measure import measure as measure_build
from pipeline.report.page import write_page
from pipeline.report.settings import ReportSettings
from pipeline.runtime.results import PAIR_SCHEMA, REJECTION_SCHEMA
from preference_space.direction import Direction, to_released, verbalise
from preference_space.space import PreferenceSpace, load_space
from schemas import SCHEMA_VERSION
from schemas.arrow import to_table
from schemas.config import BuildConfig, apportion
from schemas.loader import validate
from schemas.manifest import Counts, FileEntry, Manifest, Run
from schemas.records import Rejection
from schemas.report import Report

_PAIRS = 1024
"""Pairs of a shard."""
_GROUP = 512
"""Rows of a row group."""
_REJECTED = 256
_ITEMS = 8
_VOCABULARY = 20_000
_PLANTED = 200
"""Replies that the first shards of two splits share; and as many near-duplicates of them in another shard."""
_CORRELATION = 0.6
_BIAS = 0.7
"""How often the longer reply is the chosen one where the first dimension is positive."""
_RECOVERY = 0.8
"""How often the margin of an asked dimension has the asked sign."""


class Shard(NamedTuple):
    """A shard to make, of so many pairs."""

    folder: Path
    split: str
    position: int
    of: int
    pairs: int

    @property
    def name(self) -> str:
        """Return the file name."""
        return f"{self.split}-{self.position:05d}-of-{self.of:05d}.parquet"


class Made(NamedTuple):
    """A shard's file, and in how many of its pairs the first two dimensions agree."""

    entry: FileEntry
    agreeing: int
    pairs: int


def main() -> None:
    """Make the rows, report on them, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--data", type=Path, help="folder that keeps the rows")
    parser.add_argument("--only", type=Path, help="report on a folder without output; this is what is measured")
    arguments = parser.parse_args()
    if arguments.only:
        write_page(measure_build(arguments.only, ReportSettings(), lambda what, done, of: None), arguments.only)
        return
    print(describe())
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.data or Path(scratch) / "build"
        if not (folder / "manifest.json").exists():
            make(folder, arguments.rows // 2)
        print(run(folder), flush=True)


def run(folder: Path) -> str:
    """Report on a build made here and return its figures. Raise `SystemExit` if a planted truth is missed."""
    before = processor_seconds()
    done = measure([sys.executable, "-m", "benchmarks.report", "--only", str(folder)])
    spent = processor_seconds() - before
    report = Report.model_validate_json((folder / "report.json").read_bytes())
    truth = json.loads((folder / "planted.json").read_text())
    check(report, truth)
    size = sum(path.stat().st_size for path in (folder / "data").iterdir())
    near = report.duplicates
    bias = report.dimensions[0].positive_length_auc
    return (
        f"{report.examples} rows, {size / 2**30:.2f} GiB in {len(list((folder / 'data').iterdir()))} shards: "
        f"{done.seconds / 60:.1f} min, {spent:.0f} s of processor time, "
        f"peak {done.peak_bytes / 2**20:.0f} MiB over all processes; "
        f"report.html {(folder / 'report.html').stat().st_size / 2**20:.1f} MiB\n"
        f"  planted and found: {truth['shared']} replies that two splits share; "
        f"correlation {truth['correlation']:.4f}; length AUC {bias:.3f} for {_BIAS}\n"
        f"  planted: {truth['near']} near-duplicates within a split, and as many across two; found {near.near_within} "
        f"and {near.near_across // 2} in a sample of {near.near_sampled} of {near.replies} replies"
    )


def processor_seconds() -> float:
    """Return processor seconds of all ended children."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def check(report: Report, truth: dict[str, Any]) -> None:
    """Compare the figures with what was planted."""
    first, second = (dimension.slug for dimension in report.dimensions[:2])
    found = {(pair.a, pair.b): pair.correlation for pair in report.correlation.strongest}
    bias, verified = report.dimensions[0].positive_length_auc, report.verification
    wrong = [
        name
        for name, is_right in (
            ("examples", report.examples == truth["examples"]),
            ("shared replies", report.duplicates.exact_across == truth["shared"]),
            ("correlation", abs(found.get((first, second), 0) - truth["correlation"]) < 1e-4),
            ("recovery", verified is not None and abs(verified.recovery.value - _RECOVERY) < 0.02),
            ("length bias", bias is not None and abs(bias - _BIAS) < 0.02),
        )
        if not is_right
    ]
    if wrong:
        sys.exit(f"planted truths were missed: {', '.join(wrong)}")


def make(folder: Path, pairs: int) -> None:
    """Write a build of so many pairs."""
    write_text(folder / "preference_space.yaml", load_space("alignx").to_yaml())
    shards = []
    for split, number in apportion(pairs, {"train": 0.9, "validation": 0.05, "test": 0.05}).items():
        of = -(-number // _PAIRS)
        shards += [
            Shard(folder, split, index, of, number * (index + 1) // of - number * index // of) for index in range(of)
        ]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("spawn")) as pool:
        made = list(pool.map(make_shard, shards))
    write_text(
        folder / "planted.json",
        json.dumps(
            {
                "examples": 2 * pairs,
                "shared": min(_PLANTED, *(shard.pairs for shard in shards)),
                "near": min(_PLANTED, shards[0].pairs),
                "correlation": 2 * sum(shard.agreeing for shard in made) / pairs - 1,
            }
        ),
    )
    config = validate(BuildConfig, {"name": "synthetic", "pairs": pairs}, "benchmark")
    rejected = _REJECTED * len(shards)
    manifest = Manifest(
        schema_version=SCHEMA_VERSION,
        status="complete",
        name="synthetic",
        fingerprint="0" * 64,
        parts={"space": load_cached().fingerprint, "templates": {}},
        config=config.model_dump(mode="json"),
        versions={},
        counts=Counts(
            pairs_asked=pairs,
            pairs_accepted=pairs,
            examples=2 * pairs,
            rejected={"validate/too_short": rejected // 2, "validate/unfinished": rejected // 2},
            prompt_tokens=600 * pairs,
            completion_tokens=200 * pairs,
        ),
        runs=(
            Run(
                started="2026-01-01T00:00:00+00:00",
                seconds=3600,
                status="complete",
                requests_sent=2 * pairs,
                requests_replayed=0,
                prompt_tokens=600 * pairs,
                completion_tokens=200 * pairs,
                server_restarts=0,
            ),
        ),
        files=tuple(shard.entry for shard in made),
    )
    write_manifest(folder, manifest)


def make_shard(shard: Shard) -> Made:
    """Write one shard's rows, pairs and rejections."""
    rng = np.random.default_rng([SPLITS.index(shard.split), shard.position])
    space, number = load_cached(), shard.pairs
    directions, agreeing = draw_directions(rng, number, len(space))
    prompts = draw_texts(rng, number, 75, 15)
    replies = draw_texts(rng, 2 * number, 55, 22)
    # The longer reply comes first where the bias wants it so.
    lengths = np.array([len(reply) for reply in replies]).reshape(2, number)
    wants_longer = rng.random(number) < np.where(directions[:, 0] > 0, _BIAS, 1 - _BIAS)
    swapped = (lengths[0] > lengths[1]) != wants_longer
    chosen, rejected = replies[:number], replies[number:]
    for row in np.flatnonzero(swapped):
        chosen[row], rejected[row] = rejected[row], chosen[row]
    plant(shard, rejected)

    ids = [f"00000000-{shard.split}-{shard.position * _PAIRS + row:07d}" for row in range(number)]
    column = {
        "pair_id": pa.array(ids),
        "post_id": pa.array([f"post-{pair_id}" for pair_id in ids]),
        "source": pa.array(["sampled"] * number),
        "topics": pa.array([[]] * number, PAIR_SCHEMA.field("topics").type),
        "model": pa.array(["synthetic"] * number),
        "judge": pa.array(["synthetic"] * number),
        "kind": pa.array(["opposite"] * number),
        "user_id": pa.array([""] * number),
        "prompt": pa.array(prompts),
        "chosen": pa.array(chosen),
        "rejected": pa.array(rejected),
    }
    meta = {"fingerprint": "0" * 64, "examples": 2 * number}
    store_rejections(shard, ids, prompts, chosen, directions, meta)
    integers = dict.fromkeys(("attempt", "prompt_tokens", "completion_tokens"), pa.array(np.zeros(number, np.int64)))
    lists = {name: as_lists(directions, PAIR_SCHEMA.field(name).type) for name in ("direction", "asked_direction")}
    margins = np.where(rng.random(directions.shape) < _RECOVERY, 1, -1) * directions * rng.random(directions.shape)
    found = {
        "direction_margin": as_margins(margins),
        "order_agreement": pa.array(np.full(number, 0.5)),
        "quality_chosen": pa.array(rng.random(number)),
        "quality_rejected": pa.array(rng.random(number)),
    }
    absent = ("chosen_levels", "rejected_levels", "traits", "user_direction")
    empty = {name: pa.array([[]] * number, PAIR_SCHEMA.field(name).type) for name in absent}
    pool = column | integers | lists | found | empty | {"margin": pa.array(np.zeros(number))}
    table = pa.Table.from_arrays([pool[name] for name in PAIR_SCHEMA.names], schema=PAIR_SCHEMA)
    write_shard(shard.folder / "pool" / shard.name, PAIR_SCHEMA, [table], meta)

    rows = assemble(column | found, directions, margins, rng, space)
    path = shard.folder / "data" / shard.name
    write_shard(path, EXAMPLE_SCHEMA, (rows.slice(k, _GROUP) for k in range(0, len(rows), _GROUP)), meta)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    entry = FileEntry(path=f"data/{shard.name}", rows=len(rows), bytes=path.stat().st_size, sha256=digest)
    return Made(entry, agreeing, number)


@lru_cache
def load_cached() -> PreferenceSpace:
    """Return the packaged space."""
    return load_space("alignx")


def draw_directions(rng: np.random.Generator, number: int, dimensions: int) -> tuple[Direction, int]:
    """Return directions (N, D): the first two dimensions are always active and correlate, some others are active."""
    directions = np.zeros((number, dimensions), dtype=np.int8)
    order = rng.random((number, dimensions - 2)).argsort(axis=1)[:, :4] + 2
    np.put_along_axis(directions, order, rng.choice(np.array([-1, 1], dtype=np.int8), order.shape), axis=1)
    directions[:, 0] = rng.choice([-1, 1], number)
    agrees = rng.random(number) < (1 + _CORRELATION) / 2
    directions[:, 1] = np.where(agrees, directions[:, 0], -directions[:, 0])
    return directions, int(agrees.sum())


@lru_cache
def vocabulary() -> tuple[list[str], npt.NDArray[np.float64]]:
    """Return made-up words, some with punctuation, and their cumulative frequencies (Zipf's law)."""
    rng = np.random.default_rng(0)
    letters = np.array([*"etaoinshrdlu"])
    ends = ("", "", "", "", "", "", ",", ".", "\u2019s", "!")
    words = [
        "".join(letters[rng.integers(len(letters), size=rng.integers(2, 10))]) + ends[k % len(ends)]
        for k in range(_VOCABULARY)
    ]
    weights = 1 / (np.arange(_VOCABULARY) + 10)
    return words, np.cumsum(weights) / weights.sum()


def draw_texts(rng: np.random.Generator, number: int, mean: float, spread: float) -> list[str]:
    """Return texts of random words."""
    words, below = vocabulary()
    lengths = np.maximum(rng.normal(mean, spread, number), 6).astype(int)
    drawn = np.searchsorted(below, rng.random(lengths.sum()))
    listed = [words[k] for k in drawn.tolist()]
    ends = np.cumsum(lengths).tolist()
    return [" ".join(listed[start:end]) for start, end in zip([0, *ends[:-1]], ends, strict=True)]


def plant(shard: Shard, replies: list[str]) -> None:
    """Put known replies into the first shards of train and test, and near-duplicates into the second of train."""
    known = [" ".join(draw_texts(np.random.default_rng([7, k]), 1, 60, 1)) for k in range(min(_PLANTED, len(replies)))]
    if shard.position == 0 and shard.split in ("train", "test"):
        replies[: len(known)] = known
    if shard.position == min(1, shard.of - 1) and shard.split == "train" and shard.of > 1:
        replies[: len(known)] = [f"{reply} indeed" for reply in known]


def assemble(
    column: dict[str, pa.Array],
    directions: Direction,
    margins: npt.NDArray[np.float64],
    rng: np.random.Generator,
    space: PreferenceSpace,
) -> pa.Table:
    """Return all rows: each pair and its mirror image, with histories from the same shard."""
    number = len(directions)
    both = np.concatenate([directions, -directions])
    sides = {
        "prompt": pa.concat_arrays([column["prompt"]] * 2),
        "chosen": pa.concat_arrays([column["chosen"], column["rejected"]]),
        "rejected": pa.concat_arrays([column["rejected"], column["chosen"]]),
        "quality_chosen": pa.concat_arrays([column["quality_chosen"], column["quality_rejected"]]),
        "quality_rejected": pa.concat_arrays([column["quality_rejected"], column["quality_chosen"]]),
    }
    steps = 1 + (rng.integers(number - 1, size=(number, 1)) + np.arange(_ITEMS) * 97) % (number - 1)
    others = (np.arange(number)[:, None] + steps) % number
    # Each is seen from the side on which its first dimension is the target's.
    views = others + number * (directions[others, 0] != directions[:, :1])
    views = np.stack([views, (views + number) % (2 * number)], axis=1).reshape(2 * number, _ITEMS)
    own = np.stack([np.arange(number), np.arange(number) + number], axis=1).ravel()
    profiles = [verbalise(space, direction) for direction in both[own]]
    columns: dict[str, Any] = {name: column[name].take(pa.array(own % number)) for name in _CARRIED}
    columns |= {name: texts.take(pa.array(own)) for name, texts in sides.items()}
    columns |= {
        "Preference Direction": released(both[own]),
        "Demographic Information": [portrait(space, direction) for direction in both[own]],
        "User-Generated Content": items(views[:, :4], "User-Generated Content", sides, both),
        "Pair-wise Comparative Feedback": items(views[:, 4:], "Pair-wise Comparative Feedback", sides, both),
        "profile": profiles,
        "id": [f"{pair_id}-{side}" for pair_id in column["pair_id"].to_pylist() for side in "ab"],
        "mirrored": own >= number,
        "history_support": np.full(2 * number, 0.5),
        "direction_margin": as_margins(np.concatenate([margins, -margins])[own]),
        "verified": np.ones(2 * number),
        "user_direction": [[]] * (2 * number),
        "user_pairs": np.zeros(2 * number, np.int64),
    }
    arrays = [
        values if isinstance(values, pa.Array) else pa.array(values, field.type)
        for field, values in ((field, columns[field.name]) for field in EXAMPLE_SCHEMA)
    ]
    return pa.Table.from_arrays(arrays, schema=EXAMPLE_SCHEMA)


_CARRIED = ("pair_id", "post_id", "source", "topics", "model", "judge", "kind", "user_id")


def portrait(space: PreferenceSpace, direction: Direction) -> str:
    """Return the portrait that the template makes of a direction."""
    poles = [space.dimensions[d].pole(int(direction[d])) for d in np.flatnonzero(direction)]
    return f"This person {'; '.join(pole.description for pole in poles)}."


def items(views: npt.NDArray[np.int64], name: str, sides: dict[str, pa.Array], directions: Direction) -> pa.Array:
    """Return a column of history items."""
    kind = EXAMPLE_SCHEMA.field(name).type
    taken = pa.array(views.ravel())
    source = sides | {"comment": sides["chosen"]}
    fields = list(kind.value_type)
    arrays = [
        source[field.name].take(taken) if field.name in source else released(directions[views.ravel()])
        for field in fields
    ]
    offsets = pa.array(np.arange(len(views) + 1, dtype=np.int32) * views.shape[1])
    return pa.ListArray.from_arrays(offsets, pa.StructArray.from_arrays(arrays, fields=fields), type=kind)


def released(directions: Direction) -> pa.Array:
    """Return directions as lists of the released numbers."""
    return as_lists(to_released(directions), EXAMPLE_SCHEMA.field("Preference Direction").type)


def as_lists(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Return the rows of a matrix as lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(offsets, values.reshape(-1), type=kind)


def as_margins(values: npt.NDArray[np.float64]) -> pa.Array:
    """Return margins as lists, with a null where they are 0, as nobody asked."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    flat = pa.array(values.reshape(-1).astype(np.float32), mask=values.reshape(-1) == 0)
    return pa.ListArray.from_arrays(offsets, flat, type=PAIR_SCHEMA.field("direction_margin").type)


def store_rejections(
    shard: Shard, ids: list[str], prompts: list[str], texts: list[str], directions: Direction, meta: dict[str, Any]
) -> None:
    """Write rejections of two reasons, and the empty file of the second phase."""
    rejections = [
        Rejection(
            record_id=ids[row % len(ids)],
            stage="validate",
            reason=("too_short", "unfinished")[row % 2],
            detail="",
            attempt=row // len(ids),
            final=False,
            post_id="",
            prompt=prompts[row % len(ids)],
            direction=tuple(directions[row % len(ids)].tolist()),
            texts=(texts[row % len(ids)][:40],),
        )
        for row in range(_REJECTED)
    ]
    for folder, rows in (("rejected/pairs", rejections), ("rejected/examples", [])):
        write_shard(shard.folder / folder / shard.name, REJECTION_SCHEMA, [to_table(rows, REJECTION_SCHEMA)], meta)


if __name__ == "__main__":
    main()
