"""The command: reads a build twice, its pairs and then its rows, and prints a line for each promise.

A line has the cases checked, the violations and the first of them. The exit code is 1 if a promise is broken. Shards
are read one after another, so memory grows only with the hashes of posts, replies and users.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from benchmarks.users.ledger import Ledger
from benchmarks.users.pairs import PairCheck
from benchmarks.users.rows import RowCheck
from benchmarks.users.tables import read_build, read_pairs, read_rejected, read_rows
from benchmarks.users.whole import print_users


def main() -> None:
    """Check a build and print what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", metavar="DIR", type=Path, help="folder of a finished build with `persona: users`")
    parser.add_argument("--show", metavar="N", type=int, help="print N users whole, of shards apart, and check nothing")
    arguments = parser.parse_args()
    if arguments.show is not None:
        print_users(arguments.build, arguments.show)
        return
    begin = time.monotonic()
    ledger = check(arguments.build)
    print(ledger.table())
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{len(ledger.broken)} promises broken; {time.monotonic() - begin:.0f} s, peak {memory:.0f} MiB")
    sys.exit(bool(ledger.broken))


def check(folder: Path) -> Ledger:
    """Check all rows of a finished build."""
    build, ledger = read_build(folder), Ledger()
    size, pool = len(build.dimensions), sorted((folder / "pool").glob("*.parquet"))
    of_pairs = PairCheck(build, ledger)
    for path in pool:
        of_pairs.add(_split(path), read_pairs(path, size))
    of_pairs.finish()
    of_rows, number = RowCheck(build, ledger, of_pairs.shared_replies), 0
    for path in pool:
        data = folder / "data" / path.name
        number += pq.read_metadata(data).num_rows
        of_rows.add(_split(path), read_rows(data, size), read_pairs(path, size), read_rejected(folder, path.name))
    stated = build.counts["examples"]
    ledger.check("counts", [stated == number], [f"{stated} examples in the manifest, {number} rows"])
    return ledger


def _split(path: Path) -> str:
    """Return the split of a shard by its name, such as `test-00000-of-00002.parquet`."""
    return path.name.split("-", 1)[0]


if __name__ == "__main__":
    main()
