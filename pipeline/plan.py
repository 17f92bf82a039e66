"""What a build consists of: a list of shards, and the folders they are written to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from schemas.config import BuildConfig

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class ShardSpec:
    """The unit of work: pairs `start` to `start + count` of a split."""

    split: str
    index: int
    of: int
    start: int
    count: int

    @property
    def name(self) -> str:
        """File stem, as the Hub's convention has it."""
        return f"{self.split}-{self.index:05d}-of-{self.of:05d}"


@dataclass(frozen=True)
class BuildPlan:
    """All that a worker must know: small, so that it can be part of every stage.

    Space, templates and posts are read from the output folder, where `pipeline.prepare` has put them.
    """

    output: Path
    fingerprint: str
    # The fingerprint stands for the configuration, which holds maps and so has no hash.
    config: BuildConfig = field(compare=False)

    def shards(self) -> list[ShardSpec]:
        """Every shard of the build, the same list in both phases."""
        return cut_shards(self.config)

    def path(self, folder: str, spec: ShardSpec) -> Path:
        """Where a shard's Parquet file of `pool`, `data`, `rejected/pairs` or `rejected/examples` is."""
        return self.output / folder / f"{spec.name}.parquet"


def cut_shards(config: BuildConfig) -> list[ShardSpec]:
    """The shards that a configuration makes."""
    counts = apportion(config.pairs, config.splits.model_dump())
    return [spec for split in SPLITS for spec in _cut(split, counts[split], config.shard_pairs)]


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Whole numbers that sum to `total`, nearest to the shares (largest remainder; ties to the first)."""
    counts = {key: int(total * share) for key, share in shares.items()}
    by_remainder = sorted(shares, key=lambda key: counts[key] - total * shares[key])
    for key in by_remainder[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def _cut(split: str, pairs: int, largest: int) -> Iterator[ShardSpec]:
    """Shards of nearly equal size."""
    of = -(-pairs // largest)
    for index in range(of):
        start, stop = pairs * index // of, pairs * (index + 1) // of
        yield ShardSpec(split, index, of, start, stop - start)
