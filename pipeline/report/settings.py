"""Settings of a report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

from pydantic import Field, model_validator

from schemas.base import Record

Size = Annotated[int, Field(ge=0)]


class ReportSettings(Record):
    """Settings of a report. Sizes of samples bound memory, and each is reported beside its figure."""

    examples: Size = 300
    rejections: Size = 200
    example_bytes: Size = 2_200_000
    """Bytes of JSON for all shown examples; with rejections and figures the page has about 3 MB."""
    rejection_bytes: Size = 400_000
    contamination: tuple[Path, ...] = ()
    """Benchmark files: `.json`, `.jsonl`, `.parquet` or `.txt`. Every text in them counts."""
    contamination_words: Annotated[int, Field(ge=1)] = 13
    """Words in a shared run; GPT-3 used 13 (Brown et al. 2020, appendix C)."""
    prompt_price: Annotated[float, Field(ge=0)] | None = None
    """Price of a million prompt tokens."""
    completion_price: Annotated[float, Field(ge=0)] | None = None
    currency: str = "USD"
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that read shards; by default one for each core."""
    seed: int = 0
    """Seed of the samples."""
    hashes: Annotated[int, Field(ge=1)] = 4_000_000
    """Most distinct texts of a kind that are counted exactly; beyond that a sample is counted and scaled up."""
    near_replies: Size = 200_000
    diversity_replies: Size = 10_000
    self_bleu_replies: Size = 1_000
    vendi_replies: Size = 2_000

    @model_validator(mode="after")
    def _both_prices(self) -> ReportSettings:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give both prompt_price and completion_price, or neither")
        return self


class JudgeSettings(NamedTuple):
    """Settings of `everyuser report --judge`."""

    overrides: Sequence[str] = ()
    """Values of `--set`, such as `verification.model=NAME`."""
    pairs: int = 200
    """Pairs to ask about."""
    seed: int = 0
    """Seed of their sample."""
