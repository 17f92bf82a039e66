"""What the user may choose about a report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from schemas.base import Record

Size = Annotated[int, Field(ge=0)]


class ReportSettings(Record):
    """How a build is measured. The sizes of samples bound memory, and each is reported beside its figure."""

    examples: Size = 300
    rejections: Size = 200
    example_bytes: Size = 2_200_000
    """Of JSON, for all examples that are shown: with the rejections and the figures, a page of some 3 MB."""
    rejection_bytes: Size = 400_000
    contamination: tuple[Path, ...] = ()
    """Files of benchmarks: `.json`, `.jsonl`, `.parquet` or `.txt`. Every text in them counts."""
    contamination_words: Annotated[int, Field(ge=1)] = 13
    """Length of a shared run; 13 words are GPT-3's choice (Brown et al. 2020, appendix C)."""
    prompt_price: Annotated[float, Field(ge=0)] | None = None
    """What a million prompt tokens cost."""
    completion_price: Annotated[float, Field(ge=0)] | None = None
    currency: str = "USD"
    workers: Annotated[int, Field(ge=1)] | None = None
    """Processes that read shards; by default as many as there are processors."""
    seed: int = 0
    """Chooses the samples."""
    hashes: Annotated[int, Field(ge=1)] = 4_000_000
    """Distinct texts of a kind that are counted exactly; of more, a share is, and the figure is scaled up."""
    near_replies: Size = 200_000
    diversity_replies: Size = 10_000
    self_bleu_replies: Size = 1_000
    vendi_replies: Size = 2_000

    @model_validator(mode="after")
    def _both_prices(self) -> ReportSettings:
        if (self.prompt_price is None) != (self.completion_price is None):
            raise ValueError("give the price of prompt tokens and that of completion tokens, or neither")
        return self
