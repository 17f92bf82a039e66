"""Sections `generation`, `rules` and `history`: requests, accepted pairs, and histories."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, field_validator, model_validator

from schemas.base import Record
from schemas.config.fields import Probability, ReadsOff, Share, compile_patterns, find_secrets, with_defaults
from schemas.config.refusals import REFUSALS
from schemas.packaged_models import LARGE, MODELS, SMALL, check_packaged
from schemas.problems import Fits


def _own_defaults(model: str) -> str:
    return ", ".join(f"`{key}: {json.dumps(value)}`" for key, value in MODELS[model].generation.items())


class GenerationConfig(Record):
    """The model and its sampling parameters. Keys that are not set take the packaged model's values, if it has any."""

    model: str = Field(
        SMALL,
        description="Hub id, folder (local, or at `s3://` or `gs://`), the name of an endpoint's model, or a packaged "
        f"model: `{SMALL}` (135 million parameters) or `{LARGE}` (1.5 billion). They have defaults of their own "
        f"for keys below. The first: {_own_defaults(SMALL)}. The second: {_own_defaults(LARGE)}.",
    )
    temperature: float = Field(0.8, ge=0, description="Sampling temperature.")
    top_p: float = Field(0.95, gt=0, le=1, description="Probability mass of nucleus sampling.")
    max_tokens: int = Field(
        256,
        ge=1,
        description="Most tokens of a reply. One that is cut off there ends at a whole sentence (`cleaning`).",
    )
    # Not strict, as `_take_defaults_of_model` hands on the lists of a JSON document, which no tuple is.
    stop: tuple[str, ...] = Field((), strict=False, description="Strings that end a reply.")
    reasoning: Annotated[Literal["off", "keep out"], ReadsOff] = Field(
        "off",
        description="Models that reason before they reply. `off`: they are asked not to (by `chat_template_kwargs` and "
        "`reasoning_effort`, as far as the server takes them; either in `extra` replaces both). `keep out`: they "
        "reason as they do by default, which is no part of the reply.",
    )
    reasoning_tokens: int = Field(
        2048,
        ge=0,
        description="With `reasoning: keep out`, tokens for the reasoning, on top of `max_tokens`. Where the model "
        "needs fewer, the reply may be as much longer.",
    )
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further fields of a chat request, such as `chat_template_kwargs` or `top_k`. Null removes a field "
        "that a server refuses: `{max_tokens: null, max_completion_tokens: 256}`. Secrets are refused here; use the "
        "environment variable of `engine.api_key_env`.",
    )

    @model_validator(mode="before")
    @classmethod
    def _take_defaults_of_model(cls, given: Any) -> Any:
        if not isinstance(given, dict) or (packaged := MODELS.get(str(given.get("model", SMALL)))) is None:
            return given
        completed = {**packaged.generation, **given}
        if isinstance(given.get("extra"), dict):
            completed["extra"] = {**packaged.generation.get("extra", {}), **given["extra"]}
        return completed

    @field_validator("model")
    @classmethod
    def _is_packaged(cls, model: str) -> str:
        return check_packaged(model)

    @field_validator("extra")
    @classmethod
    def _no_secret(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if secret := next(find_secrets(extra), None):
            raise ValueError(
                f"'{secret}' would be published with the manifest (its value is not shown, as it may be a secret); put "
                "a key into the environment variable that engine.api_key_env names"
            )
        return extra

    def as_read(self) -> GenerationConfig:
        """Return the section with defaults where `reasoning` makes no use of a key."""
        return with_defaults(self, "reasoning_tokens") if self.reasoning == "off" else self

    def token_limit(self, reply: int) -> int:
        """Return `max_tokens` of a request whose reply may have so many tokens."""
        return reply + (self.reasoning_tokens if self.reasoning == "keep out" else 0)


class RulesConfig(Record):
    """Thresholds of the rules that accept or reject a pair."""

    min_words: int = Field(5, ge=1, description="Fewest words of a reply.")
    max_length_ratio: float = Field(
        4.0,
        ge=1,
        description="Most characters of the longer reply, divided by those of the shorter. Restraint pairs may differ "
        "more, as plain answers are short.",
    )
    max_similarity: Probability = Field(
        0.9, description="Normalised edit similarity from which two replies count as equal."
    )
    copied_ngram: int = Field(8, ge=3, description="Consecutive words shared with the prompt that make a reply a copy.")
    max_repeated_share: Share = Field(
        0.5, description="Largest share of repeated word trigrams of a reply; above it the reply is a loop."
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$"), Fits("a code of two letters, such as 'en'")] | None = Field(
        None, description="Required language as ISO 639-1 code, such as `en`; null: any."
    )
    refusals: tuple[str, ...] = Field(
        REFUSALS,
        description="Regular expressions of refusals and of talk about the task (any case, each from the start of a "
        "word). They judge what `cleaning` has left.",
    )
    markup: tuple[str, ...] = Field(
        (
            r"<\|[^<>|]{1,64}\|>|</?(?:div|span|p|br|html|body|script|answer|reply|response)\b[^<>]{0,200}>",
            r"^#{1,6} |```",
            r"^\W{0,3}(?:title|post|reply|response|assistant|user|system)\W{0,2}:",
            "\ufffd",
            r"\[(?:your|my|insert|users?|user's|first|last|recipient's|friend's)[ -][^\[\]\n]{1,40}\]",
            r"\[(?:names?|poster|op)\]",
        ),
        description="Regular expressions of markup (any case, per line).",
    )
    control_tokens: tuple[str, ...] = Field(
        (
            r"<[|\uff5c][^<>|\uff5c\s]{1,64}[|\uff5c]?>|<[^<>|\uff5c\s]{1,64}[|\uff5c]>|\[\|[a-z]{1,16}\|\]",
            r"</?(?:s|bos|eos|pad|unk|sop|eop|(?:start|end)_of_turn|tool_(?:calls?|response)|fim_(?:prefix|middle|suffix)"
            r"|(?:unused|extra_id_)\d{1,5})>",
            r"</?(?:think|thinking|thought|reasoning|seed:think)>|\u25c1/?think\u25b7",
            r"(?-i:\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|gMASK)\]|<</?SYS>>)|\]~!?b[\[\]]|\[e~\[",
        ),
        description="Regular expressions (any case) of chat templates' control tokens and of thinking tags. They apply "
        "to real replies too, since a model cannot tell them from its own tokens.",
    )
    max_characters: int = Field(
        40_000, ge=1, description="Most characters of a reply, generated or real; checked before the other rules."
    )

    @field_validator("refusals", "markup", "control_tokens")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return compile_patterns(patterns)


class HistoryConfig(Record):
    """The persona's history (P_UGC, P_PAIR)."""

    ugc: int = Field(4, ge=0, le=16, description="User-generated items in each example.")
    pair: int = Field(4, ge=0, le=16, description="Pair-wise items in each example.")
    min_support: Share = Field(
        0.5,
        description="Smallest share of the target's dimensions that at least one history item supports. No item may "
        "contradict any of them. A restraint pair needs no support.",
    )
    blocks: int = Field(
        2,
        ge=0,
        description="Pool shards of the same split and source, besides its own, from which a shard's histories come.",
    )
    min_similarity: Share = Field(
        0.6,
        description="Mined pairs: smallest cosine similarity of one-hot levels between replies of target and history.",
    )
    consistency: Literal["strict", "paper"] = Field(
        "strict",
        description="Mined pairs. `strict`: as for `min_support`. `paper`: the most similar items, even if they "
        "contradict, where a dimension of the target has the same sign in the majority vote of each part of the "
        "persona.",
    )

    def as_read(self, has_mined: bool, has_users: bool) -> HistoryConfig:
        """Return the section with defaults of keys about mined pairs, or about other shards, where there are none."""
        if has_mined:
            return self
        return with_defaults(self, "min_similarity", "consistency", *(["blocks"] if has_users else []))
