"""Sections `generation`, `rules` and `history`: requests, accepted pairs, and histories."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from schemas.base import Record
from schemas.config.fields import Probability, Share, compile_patterns, find_secrets
from schemas.problems import Fits


class GenerationConfig(Record):
    """What is asked of the model."""

    model: str = Field(
        "packaged:smollm2-135m-instruct",
        description="A Hub id, a folder (here, or at `s3://` or `gs://`), the name that an endpoint serves, or the "
        "packaged small model.",
    )
    temperature: float = Field(0.8, ge=0, description="Sampling temperature.")
    top_p: float = Field(0.95, gt=0, le=1, description="Nucleus sampling.")
    max_tokens: int = Field(256, ge=1, description="Longest reply, in tokens. A reply cut off there is rejected.")
    stop: tuple[str, ...] = Field((), description="Stop strings.")
    extra: dict[str, JsonValue] = Field(
        default_factory=dict,
        description="Further fields of a chat's body, such as `chat_template_kwargs` or `top_k`. Null takes out a "
        "field that a server refuses: `{max_tokens: null, max_completion_tokens: 256}`. A key or token is refused "
        "here: it belongs into the environment variable that `engine.api_key_env` names.",
    )

    @field_validator("extra")
    @classmethod
    def _no_secret(cls, extra: dict[str, JsonValue]) -> dict[str, JsonValue]:
        if secret := next(find_secrets(extra), None):
            raise ValueError(
                f"'{secret}' would be published with the manifest (its value is not shown, as it may be a secret); a "
                "key belongs into the environment variable that engine.api_key_env names"
            )
        return extra


class RulesConfig(Record):
    """When a generated pair is good enough."""

    min_words: int = Field(5, ge=1, description="Fewest words of a reply.")
    max_length_ratio: float = Field(
        4.0, ge=1, description="The longer reply may have at most this many times the characters of the shorter."
    )
    max_similarity: Probability = Field(
        0.9, description="Replies with this normalised edit similarity or more count as equal."
    )
    copied_ngram: int = Field(
        8, ge=3, description="A reply that shares this many consecutive words with its prompt is a copy."
    )
    max_repeated_share: Share = Field(
        0.5, description="A reply of which more than this share of word trigrams is repeated is rejected as a loop."
    )
    language: Annotated[str, Field(pattern=r"^[a-z]{2}$"), Fits("a code of two letters, such as 'en'")] | None = Field(
        None, description="Expected ISO 639-1 code (`en`); not checked when null."
    )
    refusals: tuple[str, ...] = Field(
        (
            r"as an? (?:ai|artificial intelligence|(?:large )?language model)\b",
            r"i(?:'m| am) (?:just |only )?an? (?:\w+ )?(?:ai|(?:large )?language model|virtual assistant)\b",
            r"i(?:'m| am) sorry,? but i (?:can(?:no|')t|am unable|won't)\b",
            r"i (?:can(?:no|')t|am (?:not able|unable) to) (?:help (?:you|with)|assist|comply|fulfil)\b",
            r"here(?:'s| is| are) (?:the|a|an|my|your|one|some) (?:\w+ )?(?:reply|replies|response|comment|answer)s?\b",
            r"i(?:'d| would) be (?:happy|glad) to (?:help|assist)\b",
            r"(?:available|provided|possible) (?:replies|responses)\b",
            r"complete the sentence\b",
            r"(?:write|wrote|writing|draft) (?:a|the|your|my) (?:reply|response)\b",
            r"this (?:reply|response) (?:is|shows|uses|demonstrates)\b",
        ),
        description="Regular expressions (case-insensitive, each from the beginning of a word) that mark a refusal or "
        "talk about the task itself.",
    )
    markup: tuple[str, ...] = Field(
        (
            r"<\|[^<>|]{1,64}\|>|</?(?:div|span|p|br|html|body|script|answer|reply|response)\b[^<>]{0,200}>",
            r"^#{1,6} |```",
            r"^\W{0,3}(?:title|post|reply|response|assistant|user|system)\W{0,2}:",
            "\ufffd",
        ),
        description="Regular expressions (case-insensitive, per line) that mark markup.",
    )
    control_tokens: tuple[str, ...] = Field(
        (
            r"<[|\uff5c][^<>|\uff5c\s]{1,64}[|\uff5c]?>|<[^<>|\uff5c\s]{1,64}[|\uff5c]>|\[\|[a-z]{1,16}\|\]",
            r"</?(?:s|bos|eos|pad|unk|sop|eop|(?:start|end)_of_turn|tool_(?:calls?|response)|fim_(?:prefix|middle|suffix)"
            r"|(?:unused|extra_id_)\d{1,5})>",
            r"</?(?:think|thinking|thought|reasoning|seed:think)>|\u25c1/?think\u25b7",
            r"(?-i:\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|THINK|gMASK)\]|<</?SYS>>)|\]~!?b[\[\]]|\[e~\[",
        ),
        description="Regular expressions (case-insensitive) that mark what belongs to chat templates: control tokens, "
        "and tags of a model's thinking. They hold for real replies too, as no model can tell them from its own.",
    )
    max_characters: int = Field(
        40_000, ge=1, description="Most characters of a reply, generated or real. It is looked at before other rules."
    )

    @field_validator("refusals", "markup", "control_tokens")
    @classmethod
    def _compile(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return compile_patterns(patterns)


class HistoryConfig(Record):
    """The persona's history (P_UGC, P_PAIR)."""

    ugc: int = Field(4, ge=0, le=16, description="User-generated items of each example.")
    pair: int = Field(4, ge=0, le=16, description="Pair-wise items of each example.")
    min_support: Share = Field(
        0.5,
        description="Share of the target's dimensions that at least one history item must support. No item may "
        "contradict any of them.",
    )
    blocks: int = Field(
        2,
        ge=0,
        description="Pool shards of the same split and source, besides its own, that a shard's histories come from.",
    )
    min_similarity: Share = Field(
        0.6,
        description="Mined pairs: smallest cosine similarity of one-hot levels between a reply of the target and the "
        "history's.",
    )
    consistency: Literal["strict", "paper"] = Field(
        "strict",
        description="Mined pairs: `strict` as above. `paper`: the most similar items, whatever they contradict, if a "
        "dimension of the target has the same sign in the majority vote of each part of the persona.",
    )
