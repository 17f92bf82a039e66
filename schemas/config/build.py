"""The whole configuration of a build."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.engines import Engine, RequestsConfig, VllmEngine, WorkersConfig
from schemas.config.fields import Name, Share
from schemas.config.generation import GenerationConfig, HistoryConfig, RulesConfig
from schemas.config.mining import MiningConfig
from schemas.config.publishing import CardConfig, PublishConfig
from schemas.config.sampling import SamplingConfig, SplitsConfig
from schemas.config.sources import SeedsConfig


class LimitsConfig(Record):
    """When a run fails although it could go on."""

    max_lost_share: Share = Field(
        0.5, description="The run fails when more than this share of the pairs is lost after all attempts."
    )
    max_unreadable_share: Share = Field(
        0.1,
        description="The run fails when more than this share of a file's rows (posts, or responses) cannot be read, "
        "before any model is asked. Fewer are left out, counted and shown with the first; one row never fails a run.",
    )


NO_CONTENT = ("engine", "requests", "workers", "limits", "card", "publish")
"""Keys that say how a build is made, and not what its rows are."""


MAX_SHARDS = 99_999
"""Most shards of a build."""


class BuildConfig(Record):
    """One build: posts in, a sharded dataset out."""

    name: Name = Field("everyuser", description="Name of the dataset; the default output folder is `out/NAME`.")
    pairs: int | None = Field(
        None,
        ge=1,
        description="Pairs to build, each of which gives two mirrored examples. Required, unless all are mined: then "
        "null means all that the threads give.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="The root of all randomness.")
    shard_pairs: int = Field(1024, ge=1, le=65536, description="Pairs in a shard, the unit of work and of resume.")
    attempts: int = Field(
        4, ge=1, le=16, description="How often a row is drawn, each time with a fresh counter, before it is given up."
    )
    space: str = Field("alignx", description="`alignx`, or a YAML file of your own.")
    templates: str | None = Field(None, description="A folder whose templates replace the packaged ones of that name.")
    portrait: Literal["template", "model", "paper"] = Field(
        "template",
        description="Who writes the portrait (P_DEMO): a template or the model, from the direction alone; or, as the "
        "paper did, the model that compares the two replies, which gives the label away.",
    )
    mirror: bool = Field(True, description="Emit every pair a second time, for the person of the opposite direction.")
    mining: MiningConfig | None = Field(None, description="Mine pairs out of threads; null: sample all of them.")
    seeds: SeedsConfig = Field(default_factory=lambda: SeedsConfig())
    splits: SplitsConfig = Field(default_factory=lambda: SplitsConfig())
    sampling: SamplingConfig = Field(default_factory=lambda: SamplingConfig())
    generation: GenerationConfig = Field(default_factory=lambda: GenerationConfig())
    rules: RulesConfig = Field(default_factory=lambda: RulesConfig())
    history: HistoryConfig = Field(default_factory=lambda: HistoryConfig())
    engine: Engine = Field(default_factory=lambda: VllmEngine())
    requests: RequestsConfig = Field(default_factory=lambda: RequestsConfig())
    workers: WorkersConfig = Field(default_factory=lambda: WorkersConfig())
    limits: LimitsConfig = Field(default_factory=lambda: LimitsConfig())
    card: CardConfig = Field(default_factory=lambda: CardConfig())
    publish: PublishConfig | None = Field(
        None, description="Publish the finished dataset on the Hub; null: it stays here."
    )

    @model_validator(mode="after")
    def _pairs_are_known(self) -> BuildConfig:
        if self.pairs is None and self.mining is None:
            raise ValueError("'pairs' is required")
        if self.pairs is None and self.mining is not None and self.mining.share < 1:
            raise ValueError("'pairs' is required where mining.share is less than 1")
        if self.pairs is not None and self.mining is not None and not self.mined_pairs:
            raise ValueError("mining.share of 'pairs' is less than one pair; leave mining out, or raise either")
        return self

    @model_validator(mode="after")
    def _shards_can_be_named(self) -> BuildConfig:
        # Their names have five digits, and the driver holds a list of them.
        if (self.pairs or 0) > MAX_SHARDS * self.shard_pairs:
            raise ValueError(
                f"{self.pairs} 'pairs' in shards of {self.shard_pairs} are more than {MAX_SHARDS} shards; "
                "raise shard_pairs, or lower pairs"
            )
        return self

    @model_validator(mode="after")
    def _dummies_are_told(self) -> BuildConfig:
        if self.engine.kind == "dummy" and self.generation.model != "dummy":
            raise ValueError("engine.kind 'dummy' needs generation.model 'dummy', so that its rows tell what they are")
        return self

    @property
    def mined_pairs(self) -> int:
        """How many of `pairs` are mined; 0 where `pairs` is null."""
        return round((self.pairs or 0) * self.mining.share) if self.mining else 0

    @property
    def sampled_pairs(self) -> int:
        """How many of `pairs` are sampled."""
        return (self.pairs or 0) - self.mined_pairs

    @property
    def asks_a_model(self) -> bool:
        """Whether a build asks its model: not where all pairs are mined with given levels, and templates portray."""
        is_given = self.mining is not None and self.mining.annotation.mode == "given"
        return self.sampled_pairs > 0 or not is_given or self.portrait != "template"

    def content(self) -> dict[str, Any]:
        """The keys that decide what the rows are; paths are left out, as their contents are fingerprinted."""
        left_out = ("name", "space", "templates", "seeds", *NO_CONTENT)
        source = dict.fromkeys(("path", "submissions", "comments", "revision"), True)
        return self.model_dump(mode="json", exclude=dict.fromkeys(left_out, True) | {"mining": {"source": source}})
