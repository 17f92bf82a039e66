"""The whole configuration of a build."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.cleaning import CleaningConfig
from schemas.config.engines import Engine, RequestsConfig, VllmEngine, WorkersConfig
from schemas.config.fields import Name, Share
from schemas.config.generation import GenerationConfig, HistoryConfig, RulesConfig
from schemas.config.mining import MiningConfig
from schemas.config.publishing import CardConfig, PublishConfig
from schemas.config.sampling import SamplingConfig, SplitsConfig
from schemas.config.sources import SeedsConfig
from schemas.config.verification import VerificationConfig


class LimitsConfig(Record):
    """Limits beyond which a run fails although it could continue."""

    max_lost_share: Share = Field(0.5, description="Largest share of pairs that may be lost after all attempts.")
    max_unreadable_share: Share = Field(
        0.1,
        description="Largest share of a file's rows (posts or responses) that may be unreadable, checked before any "
        "model is asked. Unreadable rows are left out and counted, and the first is shown. A single one never fails a "
        "run.",
    )
    min_recovery: Share | None = Field(
        None,
        description="Smallest share of the asked dimensions that the judge finds in the replies, over all pairs that "
        "it was asked about, before filtering; null: any. Guessing gives 0.5. Needs `verification`.",
    )
    max_drift: Share | None = Field(
        None,
        description="Largest share of the dimensions outside the direction that differ all the same (beyond "
        "`verification.max_drift`; where that is null, 0.5 or a larger `min_margin`), over the same pairs; null: any. "
        "Needs `verification`.",
    )
    max_quality_gap: Share | None = Field(
        None,
        description="Largest mean of the absolute difference between the qualities of a pair's replies, over the pairs "
        "with both; null: any. Needs `verification`.",
    )

    @property
    def has_gates(self) -> bool:
        """Return whether there is a limit on what a judge finds."""
        return (self.min_recovery, self.max_drift, self.max_quality_gap) != (None, None, None)


NOT_FINGERPRINTED = ("engine", "requests", "workers", "limits", "card", "publish")
"""Keys that decide how a build runs but not what its rows are."""


MAX_SHARDS = 99_999
"""Most shards of a build: their names have five digits."""


class BuildConfig(Record):
    """One build: posts in, a sharded dataset out."""

    name: Name = Field("everyuser", description="Name of the dataset. The default output folder is `out/NAME`.")
    pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs to build; each gives two mirrored examples. Required unless all pairs are mined, where null "
        "means as many as the threads give.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random choices.")
    shard_pairs: int = Field(1024, ge=1, le=65536, description="Pairs in a shard, the unit of work and of resuming.")
    attempts: int = Field(
        4, ge=1, le=16, description="Most draws of a pair, each with a new counter, before it is lost."
    )
    space: str = Field("alignx", description="`alignx` or a YAML file.")
    templates: str | None = Field(
        None, description="Folder whose templates replace the packaged ones of the same names."
    )
    portrait: Literal["template", "model", "paper"] = Field(
        "template",
        description="Author of the portrait (P_DEMO). `template` or `model`: from the direction alone. `paper`: a "
        "model that compares the two replies, as in the paper, which reveals the label.",
    )
    mirror: bool = Field(
        True,
        description="Emit every pair a second time for the person of the opposite direction, with swapped replies.",
    )
    mining: MiningConfig | None = Field(None, description="Mine pairs from threads; null: sample all pairs.")
    seeds: SeedsConfig = Field(default_factory=lambda: SeedsConfig())
    splits: SplitsConfig = Field(default_factory=lambda: SplitsConfig())
    sampling: SamplingConfig = Field(default_factory=lambda: SamplingConfig())
    generation: GenerationConfig = Field(default_factory=lambda: GenerationConfig())
    cleaning: CleaningConfig = Field(default_factory=lambda: CleaningConfig())
    rules: RulesConfig = Field(default_factory=lambda: RulesConfig())
    verification: VerificationConfig = Field(default_factory=lambda: VerificationConfig())
    history: HistoryConfig = Field(default_factory=lambda: HistoryConfig())
    engine: Engine = Field(default_factory=lambda: VllmEngine())
    requests: RequestsConfig = Field(default_factory=lambda: RequestsConfig())
    workers: WorkersConfig = Field(default_factory=lambda: WorkersConfig())
    limits: LimitsConfig = Field(default_factory=lambda: LimitsConfig())
    card: CardConfig = Field(default_factory=lambda: CardConfig())
    publish: PublishConfig | None = Field(
        None, description="Publish the finished dataset on the Hub; null: do not publish."
    )

    @model_validator(mode="after")
    def _pairs_are_known(self) -> BuildConfig:
        if self.pairs is None and self.mining is None:
            raise ValueError("'pairs' is required, such as pairs: 1000")
        if self.pairs is None and self.mining is not None and self.mining.share < 1:
            raise ValueError("'pairs' is required where mining.share is less than 1")
        if self.pairs is not None and self.mining is not None and not self.mined_pairs:
            raise ValueError("mining.share of 'pairs' is less than one pair; raise either, or leave mining out")
        return self

    @model_validator(mode="after")
    def _shards_can_be_named(self) -> BuildConfig:
        # The driver also holds a list of all shards in memory.
        if (self.pairs or 0) > MAX_SHARDS * self.shard_pairs:
            raise ValueError(
                f"{self.pairs} 'pairs' in shards of {self.shard_pairs} are more than {MAX_SHARDS} shards; "
                "raise shard_pairs, or lower pairs"
            )
        return self

    @model_validator(mode="after")
    def _dummy_model_is_named(self) -> BuildConfig:
        if self.engine.kind == "dummy" and self.generation.model != "dummy":
            raise ValueError("engine.kind 'dummy' needs generation.model 'dummy', so that its rows name no real model")
        if (self.verification.engine or self.engine).kind == "dummy" and self.judge != "dummy":
            raise ValueError("a judge of kind 'dummy' needs verification.model 'dummy', so that it names no real model")
        return self

    @model_validator(mode="after")
    def _has_pairs_to_verify(self) -> BuildConfig:
        if self.verification.is_on and not self.sampled_pairs:
            raise ValueError(
                "verification is of sampled pairs, and all pairs are mined; leave it out, as mining.annotation has "
                "asked about both replies already, and mining.min_margin filters"
            )
        return self

    @model_validator(mode="after")
    def _pairs_have_dimensions_to_keep(self) -> BuildConfig:
        least, most = self.verification.min_dimensions, self.sampling.max_active
        if self.verification.mode == "filter" and least > most:
            raise ValueError(f"verification.min_dimensions ({least}) is more than sampling.max_active ({most})")
        return self

    @model_validator(mode="after")
    def _gates_have_a_judge(self) -> BuildConfig:
        if not self.verification.is_on and self.limits.has_gates:
            raise ValueError(
                "limits.min_recovery, limits.max_drift and limits.max_quality_gap need a judge: set verification.mode "
                "to record"
            )
        if self.limits.max_drift is not None and not self.verification.drift_dimensions:
            raise ValueError("limits.max_drift needs verification.drift_dimensions of 1 or more")
        if self.limits.max_quality_gap is not None and not self.verification.quality:
            raise ValueError("limits.max_quality_gap needs 'verification.quality: true'")
        return self

    @property
    def judge(self) -> str:
        """Return the model that verifies."""
        return self.verification.model or self.generation.model

    @property
    def mined_pairs(self) -> int:
        """Return how many of `pairs` are mined; 0 where `pairs` is null."""
        return round((self.pairs or 0) * self.mining.share) if self.mining else 0

    @property
    def sampled_pairs(self) -> int:
        """Return how many of `pairs` are sampled."""
        return (self.pairs or 0) - self.mined_pairs

    @property
    def needs_model(self) -> bool:
        """Return whether the build needs a model; mined pairs with levels and portraits by template need none."""
        is_annotated = self.mining is not None and self.mining.annotator is not None
        return self.sampled_pairs > 0 or is_annotated or self.portrait != "template"

    def cleaning_of(self, reasoning_tokens: int) -> CleaningConfig:
        """Return the cleaning of a completion with so many tokens of reasoning.

        Some chat templates write the first mark of reasoning into the prompt. Reasoning that is cut off then has no
        mark at all, and its sentences are no reply.
        """
        if self.generation.reasoning == "off" or reasoning_tokens:
            return self.cleaning
        return self.cleaning.model_copy(update={"cut_at_sentence": False})

    def fingerprinted(self) -> dict[str, Any]:
        """Return the keys that decide the rows, without paths, whose contents are fingerprinted instead.

        What nothing reads, as a `mode` or `reasoning` is off, has its default.
        """
        read = {"verification": self.verification.as_read(), "generation": self.generation.as_read()}
        left_out = ("name", "space", "templates", "seeds", *NOT_FINGERPRINTED)
        inner: dict[str, Any] = {
            "mining": {"source": dict.fromkeys(("path", "submissions", "comments", "revision"), True)},
            "verification": {"engine": True},
        }
        return self.model_copy(update=read).model_dump(mode="json", exclude=dict.fromkeys(left_out, True) | inner)
