"""The whole configuration of a build."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from schemas.base import Record
from schemas.config.cleaning import CleaningConfig
from schemas.config.engines import Engine, OpenAiEngine, PriceConfig, RequestsConfig, VllmEngine, WorkersConfig
from schemas.config.fields import Name
from schemas.config.generation import GenerationConfig, HistoryConfig, RulesConfig
from schemas.config.limits import LimitsConfig
from schemas.config.mining import MiningConfig
from schemas.config.publishing import CardConfig, PublishConfig
from schemas.config.sampling import SamplingConfig, SplitsConfig
from schemas.config.sources import SeedsConfig
from schemas.config.users import KindsConfig, UsersConfig
from schemas.config.verification import VerificationConfig

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
        description="Pairs to build; each but those of restraint gives two mirrored examples. Required unless all "
        "pairs are mined, where null means as many as the threads give, or `persona` is `users`, where `users` says "
        "how many.",
    )
    seed: int = Field(0, ge=0, lt=2**63, description="Seed of all random choices.")
    shard_pairs: int = Field(1024, ge=1, le=65536, description="Pairs in a shard, the unit of work and of resuming.")
    attempts: int = Field(
        4, ge=1, le=16, description="Most draws of a pair, each with a new counter, before it is lost."
    )
    space: str = Field("alignx", description="`alignx`, `alignx_plus` or a YAML file.")
    templates: str | None = Field(
        None, description="Folder whose templates replace the packaged ones of the same names."
    )
    style: Literal["peer", "assistant"] = Field(
        "peer",
        description="Writer of sampled replies. `peer`: a member of a forum who has the traits. `assistant`: an "
        "assistant that answers a person with the traits, whose message the post is.",
    )
    persona: Literal["matched", "users"] = Field(
        "matched",
        description="The person of a sampled row. `matched`: one for each pair, with a history of other pairs that "
        "agree, as in the paper. `users`: a user with several pairs, whose history is the user's other pairs. Mined "
        "pairs are matched.",
    )
    users: UsersConfig | None = Field(None, description="The users, where `persona` is `users`.")
    kinds: KindsConfig = Field(default_factory=lambda: KindsConfig())
    portrait: Literal["template", "model", "paper"] = Field(
        "template",
        description="Author of the portrait (P_DEMO). `template` or `model`: from the direction alone. `paper`: a "
        "model that compares the two replies, as in the paper, which reveals the label.",
    )
    mirror: bool = Field(
        True,
        description="Emit every pair but those of restraint a second time for the person of the opposite direction, "
        "with swapped replies.",
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
    def _seen_users_are_of_train(self) -> BuildConfig:
        if self.splits.test_seen_users and self.persona != "users":
            raise ValueError("splits.test_seen_users needs persona 'users'; set it to 0")
        if self.splits.test_seen_users and not self.splits.train:
            raise ValueError("splits.test_seen_users has users of train, and splits.train is 0; raise it")
        return self

    @model_validator(mode="after")
    def _pairs_are_known(self) -> BuildConfig:
        if self.persona == "users":
            if self.users is None:
                raise ValueError("persona 'users' needs the section 'users', such as users: {count: 1000}")
            if self.pairs is not None:
                raise ValueError("leave 'pairs' out where persona is 'users': users.count and pairs_per_user say it")
            if self.mining is not None and self.mining.share == 1:
                raise ValueError("persona 'users' needs sampled pairs, and all are mined; lower mining.share")
        elif self.users is not None:
            raise ValueError("'users' is read where persona is 'users' alone; set persona: users, or leave users out")
        elif self.pairs is None and self.mining is None:
            raise ValueError("'pairs' is required, such as pairs: 1000")
        elif self.pairs is None and self.mining is not None and self.mining.share < 1:
            raise ValueError("'pairs' is required where mining.share is less than 1")
        if self.mining is not None and not (self.takes_all_threads or self.mined_pairs):
            raise ValueError("mining.share of all pairs is less than one pair; raise either, or leave mining out")
        return self

    @model_validator(mode="after")
    def _cost_is_known(self) -> BuildConfig:
        engines = {"engine": self.engine, "verification.engine": self.verification.engine}
        for key, engine in engines.items():
            if self.limits.max_cost is not None and isinstance(engine, VllmEngine | OpenAiEngine) and not engine.price:
                example = f"{key}.price: {{prompt: 0.1, completion: 0.4}}"
                raise ValueError(f"limits.max_cost needs {key}.price, such as {example}")
        if self.limits.max_cost is not None and self.prices and not any(price.is_due for price in self.prices):
            raise ValueError("limits.max_cost would never be reached, as engine.price is 0 throughout; set a price")
        return self

    @model_validator(mode="after")
    def _users_are_possible(self) -> BuildConfig:
        if self.users is None:
            return self
        each, items = self.users.pairs_per_user, self.users.min_items
        least, fewest = self.sampling.min_active, self.users.active.min
        if fewest < least:
            raise ValueError(
                f"users.active.min ({fewest}) is less than sampling.min_active ({least}), and a pair shows a part of "
                "its user; raise it, or lower sampling.min_active"
            )
        if self.portrait == "paper":
            raise ValueError("portrait 'paper' is of one pair, and a user has several; use 'template' or 'model'")
        if items > each - 1:
            raise ValueError(
                f"users.min_items ({items}) is more than the other pairs of a user; lower it, or raise "
                f"users.pairs_per_user ({each})"
            )
        if items > self.history.ugc + self.history.pair:
            raise ValueError(f"users.min_items ({items}) is more than history.ugc + history.pair; lower it")
        if self.shard_pairs < each:
            raise ValueError(
                f"shard_pairs ({self.shard_pairs}) is less than users.pairs_per_user ({each}), and a shard has whole "
                "users; raise it"
            )
        return self

    @model_validator(mode="after")
    def _kinds_are_possible(self) -> BuildConfig:
        if self.kinds.near + self.kinds.restraint and not self.sampled_pairs:
            raise ValueError("kinds are of sampled pairs, and all pairs are mined; leave them out")
        items = self.history.ugc + self.history.pair if self.users is None else self.users.min_items
        if self.kinds.restraint == 1 and items:
            key = "history.ugc and history.pair" if self.users is None else "users.min_items"
            raise ValueError(f"kinds.restraint is 1, and no history holds restraint pairs; lower it, or set {key} to 0")
        if not self.kinds.near:
            return self
        ranges = {"sampling.max_active": self.sampling.max_active}
        if self.users is not None:
            ranges["users.active.max"] = self.users.active.max
        for key, most in ranges.items():
            if most == 1:
                raise ValueError(f"kinds.near needs a shared trait and a flipped one, and {key} is 1; raise it")
        return self

    @model_validator(mode="after")
    def _shards_can_be_named(self) -> BuildConfig:
        # The driver also holds a list of all shards in memory.
        pairs = self.sampled_pairs + self.mined_pairs
        if pairs > MAX_SHARDS * (self.shard_pairs - self.shard_pairs % self.pairs_per_person):
            raise ValueError(
                f"{pairs} 'pairs' in shards of {self.shard_pairs} are more than {MAX_SHARDS} shards; "
                f"raise shard_pairs, or lower {'pairs' if self.users is None else 'users.count'}"
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
    def _replies_have_one_style(self) -> BuildConfig:
        if self.style == "assistant" and self.mining is not None:
            raise ValueError(
                "style 'assistant' is of sampled replies, and mined replies are a forum's; leave mining out, or build "
                "two datasets"
            )
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
    def pairs_per_person(self) -> int:
        """Return the sampled pairs of a person in a split."""
        return 1 if self.users is None else self.users.pairs_per_user

    @property
    def people(self) -> dict[str, int]:
        """Return the people of each split that pairs are sampled for: users, or one for each pair."""
        if self.users is None:
            return self.splits.of_people((self.pairs or 0) - self.mined_pairs)
        return self.splits.of_users(self.users.count)

    @property
    def takes_all_threads(self) -> bool:
        """Return whether the threads decide how many pairs are mined."""
        return self.mining is not None and self.mining.share == 1 and self.pairs is None

    @property
    def mined_pairs(self) -> int:
        """Return the number of mined pairs; 0 before the threads decide it."""
        if self.mining is None or self.takes_all_threads:
            return 0
        if self.users is None:
            return round((self.pairs or 0) * self.mining.share)
        return round(self.sampled_pairs * self.mining.share / (1 - self.mining.share))

    @property
    def sampled_pairs(self) -> int:
        """Return the number of sampled pairs."""
        return sum(self.people.values()) * self.pairs_per_person

    @property
    def needs_model(self) -> bool:
        """Return whether the build needs a model; mined pairs with levels and portraits by template need none."""
        is_annotated = self.mining is not None and self.mining.annotator is not None
        return self.sampled_pairs > 0 or is_annotated or self.portrait != "template"

    @property
    def prices(self) -> list[PriceConfig]:
        """Return the prices of the engines that the build asks, as far as they are known."""
        found = [getattr(engine, "price", None) for engine in (self.engine, self.verification.engine)]
        return [price for price in found if price]

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

        A key that nothing reads, as a `mode` is off or a kind has no share, has its default.
        """
        sections = ("verification", "generation", "kinds", *(["mining"] if self.mining else []))
        read = {name: getattr(self, name).as_read() for name in sections}
        read["history"] = self.history.as_read(self.mining is not None, self.users is not None)
        left_out = ("name", "space", "templates", "seeds", *NOT_FINGERPRINTED)
        inner: dict[str, Any] = {
            "mining": {"source": dict.fromkeys(("path", "submissions", "comments", "revision"), True)},
            "verification": {"engine": True},
        }
        return self.model_copy(update=read).model_dump(mode="json", exclude=dict.fromkeys(left_out, True) | inner)
