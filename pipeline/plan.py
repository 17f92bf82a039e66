"""The plan of a build: its shards, and what each worker needs to know."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from pipeline.io.outages import set_outage_limit
from pipeline.io.storage import AnyPath
from schemas.config import BuildConfig, MiningConfig
from schemas.records import Source

SPLITS = ("train", "validation", "test", "test_seen_users")


@dataclass(frozen=True)
class ShardSpec:
    """A unit of work: pairs `start` to `start + count` of a split. Each source of pairs is counted separately."""

    split: str
    index: int
    of: int
    start: int
    count: int
    source: Source = "sampled"

    @property
    def name(self) -> str:
        """File stem, in the form that the Hub uses."""
        return f"{self.split}-{self.index:05d}-of-{self.of:05d}"

    def record_id(self, fingerprint: str, index: int) -> str:
        """Return the id of pair `index` of this shard."""
        infix = "" if self.source == "sampled" else f"{self.source}-"
        return f"{fingerprint[:8]}-{self.split}-{infix}{index:07d}"


@dataclass(frozen=True)
class Spent:
    """What earlier runs of a build have used, and when this one began, in seconds since the epoch; 0: no run has."""

    tokens: int = 0
    requests: int = 0
    cost: float = 0.0
    seconds: float = 0.0
    began: float = 0.0

    def hours(self, now: float) -> float:
        """Return the hours of all runs."""
        return (self.seconds + (max(0.0, now - self.began) if self.began else 0.0)) / 3600


@dataclass(frozen=True)
class BuildPlan:
    """A build as a worker needs to know it: small, so that it can be part of every stage.

    Workers read space, templates and posts from the output folder, where `pipeline.driver.prepare` writes them.
    """

    output: AnyPath
    fingerprint: str
    # Left out of comparison and hash: it holds maps, and the fingerprint identifies it.
    config: BuildConfig = field(compare=False)
    threads: Mapping[str, int] = field(default_factory=dict, compare=False)
    """Number of threads of each split, known once they are gathered."""
    hashes: Mapping[str, str] = field(default_factory=dict, compare=False)
    """Hashes of the files that workers load from the output folder: of each template by its name, and of `space`."""
    reopens_shards: bool = field(default=False, compare=False)
    """True where stored shards are built again for the rows that they lost to circumstances."""
    spent: Spent = field(default_factory=Spent, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the list of shards, which each worker makes again: a job's description is small."""
        return {name: value for name, value in self.__dict__.items() if name != "_shards"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore the plan in a worker, which then waits for its bucket as long as the driver does."""
        self.__dict__.update(state)
        set_outage_limit(self.config.requests.outage_seconds)

    def shards(self) -> Sequence[ShardSpec]:
        """Return every shard of the build, the same sequence in both phases."""
        return self._shards

    @cached_property
    def _shards(self) -> tuple[ShardSpec, ...]:
        # Kept, as phase two looks for the other shards of a block once a shard.
        return tuple(cut_shards(self.config, self.threads))

    def first_thread(self, split: str) -> int:
        """Return the position of a split's first thread among those of all splits."""
        return sum(self.threads[earlier] for earlier in SPLITS[: SPLITS.index(split)])

    @property
    def mining(self) -> MiningConfig:
        """Configuration of mining; raises `ValueError` in a build without mining."""
        if self.config.mining is None:
            raise ValueError("this build mines nothing")
        return self.config.mining

    @property
    def sides(self) -> tuple[int, ...]:
        """Sides of a pair that become examples: the pair itself (1), and its mirror image (-1)."""
        return (1, -1) if self.config.mirror else (1,)

    def user_id(self, number: int) -> str:
        """Return the id of a user."""
        return f"{self.fingerprint[:8]}-u{number:07d}"

    def path(self, folder: str, spec: ShardSpec) -> AnyPath:
        """Return a shard's Parquet file in `pool`, `data`, `rejected/pairs` or `rejected/examples`."""
        return self.output / folder / f"{spec.name}.parquet"


def cut_shards(config: BuildConfig, threads: Mapping[str, int]) -> list[ShardSpec]:
    """Return the shards of a configuration and its threads: of each split the sampled ones, then the mined ones."""
    # All pairs of a person or a thread belong to one shard.
    sources: list[tuple[Source, Mapping[str, int], int]] = [
        ("sampled", config.people, config.pairs_per_person),
        ("mined", threads, config.mining.pairs_per_post if config.mining else 1),
    ]
    shards = []
    for split in SPLITS:
        ranges = [
            (source, start * each, stop * each)
            for source, owners, each in sources
            for start, stop in _cut(owners.get(split, 0), max(1, config.shard_pairs // each))
        ]
        shards += [
            ShardSpec(split, index, len(ranges), start, stop - start, source)
            for index, (source, start, stop) in enumerate(ranges)
        ]
    return shards


def first_user(config: BuildConfig, split: str) -> int:
    """Return the number of a split's first user: new ones in `train`, `validation`, `test`, then again from train."""
    return 0 if split == "test_seen_users" else sum(config.people[earlier] for earlier in SPLITS[: SPLITS.index(split)])


def _cut(items: int, largest: int) -> list[tuple[int, int]]:
    """Return ranges of nearly equal size."""
    of = -(-items // largest)
    return [(items * index // of, items * (index + 1) // of) for index in range(of)]
