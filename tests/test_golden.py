"""Rows of an unchanged configuration stay the same until `SCHEMA_VERSION` is raised.

Two small builds, one sampled and one mined, are hashed table by table and compared with `golden.json`. After a change
that alters rows on purpose: raise the version, then record the new hashes with `python -m tests.test_golden`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from pipeline.build import build
from pipeline.io.shards import read_shard
from schemas import SCHEMA_VERSION
from schemas.config import BuildConfig
from schemas.loader import validate
from tests.pipeline.helpers import DUMMY
from tests.stub import good_text

RECORD = Path(__file__).with_name("golden.json")
FOLDERS = ("seeds", "pool", "data", "rejected/pairs", "rejected/examples")

_KINDS = ((0, 1, 2), (3, 4, 5), (6, 7, 8))
"""Dimensions in which the people of a thread are positive, or negative: far apart, so that clusters are certain."""


def sampled_build() -> BuildConfig:
    """48 pairs of packaged posts; some are rejected and drawn again, and some find no history."""
    keys = {
        "name": "golden-sampled",
        "pairs": 48,
        "shard_pairs": 16,
        "attempts": 2,
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "history": {"ugc": 2, "pair": 2, "min_support": 0.3},
        "rules": {"max_length_ratio": 1.04},
        **DUMMY,
        "limits": {"max_lost_share": 1},
    }
    return validate(BuildConfig, keys, "golden")


def mined_build(folder: Path) -> BuildConfig:
    """16 threads of 4 responses whose levels are given."""
    threads = folder / "threads.jsonl"
    threads.write_bytes(b"".join(orjson.dumps(thread) + b"\n" for thread in planted_threads(16)))
    keys = {
        "name": "golden-mined",
        "mining": {
            "source": {"kind": "threads", "path": [str(threads)]},
            "annotation": {"mode": "given"},
        },
        "shard_pairs": 8,
        "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        "history": {"ugc": 1, "pair": 1, "min_support": 0.3},
        "limits": {"max_lost_share": 1},
    }
    return validate(BuildConfig, keys, "golden")


def planted_threads(count: int) -> Iterator[dict[str, Any]]:
    for number in range(count):
        responses = []
        for k in range(4):
            kind, sign = _KINDS[number % len(_KINDS)], 1 if k < 2 else -1
            levels = [sign if d in kind else 0 for d in range(90)]
            levels[20 + k] = 1
            text = good_text({"thread": number, "response": k})
            responses.append({"id": f"r{k}", "author": f"someone {number} {k}", "text": text, "levels": levels})
        yield {"id": f"t{number}", "post": f"Thread number {number}, what do you think?", "responses": responses}


def build_hashes() -> dict[str, str]:
    """Build both, and hash every folder of shards by its rows and column types: Parquet's bytes do not count."""
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, config in (("sampled", sampled_build()), ("mined", mined_build(Path(scratch)))):
            output = Path(scratch) / name
            build(config, output)
            for folder in FOLDERS:
                digest = hashlib.sha256()
                for path in sorted((output / folder).glob("*.parquet")):
                    table = read_shard(path)
                    digest.update(f"{path.name}\n{table.schema.to_string(show_field_metadata=False)}\n".encode())
                    digest.update(orjson.dumps(table.to_pylist()))
                found[f"{name}/{folder}"] = digest.hexdigest()
    return found


def test_rows_change_only_with_the_schema_version() -> None:
    recorded = json.loads(RECORD.read_text())
    assert recorded["schema_version"] == SCHEMA_VERSION, (
        "golden.json is of another SCHEMA_VERSION; record the hashes of this one: python -m tests.test_golden"
    )
    found = build_hashes()
    changed = sorted(key for key in found if found[key] != recorded["tables"].get(key))
    assert not changed, (
        f"rows of an unchanged configuration have changed ({', '.join(changed)}). If that is intended, raise "
        "SCHEMA_VERSION in schemas/__init__.py, then record the new hashes: python -m tests.test_golden"
    )


def test_the_golden_builds_hold_rows_of_every_kind() -> None:
    empty = hashlib.sha256().hexdigest()
    tables = json.loads(RECORD.read_text())["tables"]
    # Nothing is seeded in a build that only mines.
    assert [key for key, digest in tables.items() if digest == empty] == ["mined/seeds"]
    assert len(set(tables.values())) == len(tables)


def main() -> None:
    """Record the hashes, unless they have changed and the version has not."""
    found = build_hashes()
    recorded = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    if recorded.get("schema_version") == SCHEMA_VERSION and recorded["tables"] != found:
        sys.exit("rows have changed: first raise SCHEMA_VERSION in schemas/__init__.py")
    RECORD.write_text(json.dumps({"schema_version": SCHEMA_VERSION, "tables": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
