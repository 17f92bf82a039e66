"""The build configuration: one YAML file, every key typed, documented and defaulted here and nowhere else.

`docs/config.md` is generated from the descriptions below (`python -m schemas.reference`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, JsonValue, field_validator, model_validator

from schemas.base import Record
from schemas.problems import Fits, Hidden

Share = Annotated[float, Field(ge=0, le=1)]
Probability = Annotated[float, Field(gt=0, lt=1)]
Paths = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=96),
    Fits(
        "a text of at most 96 letters, digits, '.', '_' and '-' that begins with a letter or digit, such as 'my-data'"
    ),
]


def _compiled(patterns: tuple[str, ...]) -> tuple[str, ...]:
    """The patterns, all of which are regular expressions; raises `ValueError`."""
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"'{pattern}' is not a regular expression: {error}") from None
    return patterns


_SECRET = re.compile(
    r"key|token|sig|signature|pwd|passwd|.*(password|passphrase|secret|authorization|credentials?)"
    r"|.*(api|access|auth|account|private|secret|subscription|functions?)key(id)?s?"
    r"|.*(api|access|auth|bearer|hf|huggingface|refresh|sas|secret|security|session)tokens?"
)


def _secrets(value: JsonValue, path: str = "") -> Iterator[str]:
    """The dotted keys below which a secret stands, by their names. Names of a JSON schema lead to maps."""
    if isinstance(value, list):
        for inner in value:
            yield from _secrets(inner, path)
    if isinstance(value, dict):
        for key, inner in value.items():
            place = f"{path}.{key}" if path else key
            is_plain = inner is None or isinstance(inner, bool | dict)
            if not is_plain and _SECRET.fullmatch(re.sub(r"[^a-z]", "", key.lower())):
                yield place
            yield from _secrets(inner, place)


class SeedsConfig(Record):
    """Where the posts come from."""

    path: str = Field(
        "packaged",
        description="`packaged` (312 posts of this project), a file (here, or at `s3://` or `gs://`) of JSON lines "
        "(`.jsonl`, `.ndjson`), `.json`, `.csv`, `.tsv` or `.parquet`, all but the last also as `.gz` or `.zst`, or a "
        "Hub dataset `hf://owner/name`.",
    )
    config: str | None = Field(None, description="Configuration name of a Hub dataset.")
    split: str = Field("train", description="Split of a Hub dataset.")
    revision: str = Field("main", description="Revision of a Hub dataset; a commit hash makes the build repeatable.")
    limit: int | None = Field(None, ge=1, description="Read at most this many posts.")
    columns: dict[Literal["id", "title", "text", "topics"], str] = Field(
        default_factory=dict,
        description="Which column of the source holds `id`, `title`, `text` and `topics`, where the names differ by "
        "more than case. Without an `id` column posts are numbered. Of different posts under one id, the later ones "
        "get a hash of their text in it. A `text` may be a chat, of which the user's messages are taken; `topics` "
        "holds a list, a text that holds one, or a text with commas.",
    )

    @property
    def is_hub(self) -> bool:
        """Whether the posts are a dataset of the Hub."""
        return self.path.startswith("hf://")


class DumpSource(Record):
    """A Reddit-style dump: submissions and comments, joined on `link_id`."""

    kind: Literal["dump"]
    submissions: Paths = Field(description="Files of submissions: `id`, `title`, `selftext`, `subreddit`, `author`.")
    comments: Paths = Field(
        description="Files of comments: `id`, `link_id`, `parent_id`, `author`, `body`. Both of the kinds that "
        "`seeds.path` takes, or patterns such as `RC_2024-*.zst`."
    )
    replies: Literal["top_level", "all"] = Field(
        "top_level", description="`top_level`: replies to the post itself; `all`: replies to other replies too."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The keys that hold paths."""
        return ("submissions", "comments")


ThreadField = Literal[
    "id", "title", "post", "topics", "author", "responses", "response_id", "response_text", "response_author"
]


class ThreadsSource(Record):
    """Threads that are joined already, or a published dataset of rated responses."""

    kind: Literal["threads", "ultrafeedback", "helpsteer2", "pku_saferlhf"] = Field(
        description="`threads`: rows of `post` (or `title` and `text`) and `responses`, with or without levels. The "
        "others turn the ratings of that dataset into levels on the universal values, without a model."
    )
    path: Paths = Field(
        description="Files of the kinds that `seeds.path` takes, patterns, one `hf://owner/name`, or `packaged` "
        "(40 short threads of this project)."
    )
    columns: dict[ThreadField, str] = Field(
        default_factory=dict,
        description="`threads`: which column holds each field, where the names differ by more than case; "
        "`response_id`, `response_text` and `response_author` are within `responses`.",
    )
    config: str | None = Field(None, description="Configuration name of a Hub dataset.")
    split: str = Field("train", description="Split of a Hub dataset.")
    revision: str = Field("main", description="Revision of a Hub dataset; a commit hash makes the build repeatable.")

    @property
    def paths(self) -> tuple[str, ...]:
        """The keys that hold paths."""
        return ("path",)

    @property
    def is_hub(self) -> bool:
        """Whether the threads are a dataset of the Hub."""
        return self.path[0].startswith("hf://")

    @model_validator(mode="after")
    def _one_dataset(self) -> ThreadsSource:
        if len(self.path) > 1 and any(path.startswith("hf://") for path in self.path):
            raise ValueError("a dataset of the Hub must be the only path")
        return self

    @model_validator(mode="after")
    def _mapped_threads(self) -> ThreadsSource:
        if self.columns and self.kind != "threads":
            raise ValueError(f"columns are for kind 'threads'; those of '{self.kind}' are known")
        return self


MinedSource = Annotated[DumpSource | ThreadsSource, Field(discriminator="kind")]


class AnnotationConfig(Record):
    """How a response gets its level (positive, negative, cannot tell) on each dimension."""

    mode: Literal["choice", "json", "given"] = Field(
        "choice",
        description="`choice`: a one-token choice for each dimension, with its probabilities (`/v1/completions`). "
        "`json`: one structured reply for all dimensions, without probabilities (chat). `given`: levels come with the "
        "threads, no model is asked. Responses that bring levels are never asked about; the keys `dimensions` and "
        "`min_confidence` hold for them too.",
    )
    dimensions: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Ask about these slugs and groups only; the others count as 'cannot tell'. By default all."
    )
    option_order: Literal["shuffled", "fixed"] = Field(
        "shuffled",
        description="Order of the three options: drawn for each response and dimension, against position bias, or "
        "always positive, negative, cannot tell.",
    )
    min_confidence: Share = Field(
        0.5, description="An answer of which the probability is smaller counts as 'cannot tell'."
    )
    prompts_per_call: int = Field(
        30, ge=1, le=1024, description="Questions in one call, all about the same response (`choice`)."
    )
    structured_outputs: bool = Field(
        True,
        description="Have the engine admit nothing but the options (vLLM's `structured_outputs`, or a JSON schema); "
        "a server that refuses that is asked without it.",
    )
    max_tokens: int = Field(2048, ge=16, description="Longest structured reply, in tokens (`json`).")


class MiningConfig(Record):
    """Pairs out of real threads: the paper's Algorithm 1."""

    source: MinedSource = Field(description="Where the threads come from.")
    share: float = Field(
        1.0, gt=0, le=1, description="Share of the build's `pairs` that is mined; the rest is sampled."
    )
    limit: int | None = Field(None, ge=1, description="Use at most this many threads, chosen by the seed.")
    min_words: int = Field(5, ge=1, description="Fewest words of a response.")
    max_words: int = Field(300, ge=1, description="Most words of a response.")
    max_post_words: int = Field(600, ge=1, description="Most words of a post.")
    min_responses: int = Field(2, ge=2, description="Fewest responses of a thread, after all filters.")
    max_responses: int = Field(16, ge=2, description="Most responses of a thread that are used, chosen by the seed.")
    one_per_author: bool = Field(True, description="Keep one response of each author in a thread.")
    bots: tuple[str, ...] = Field(
        (r"bot$", r"^automoderator$"), description="Authors that match are bots (regular expressions, any case)."
    )
    scrub: bool = Field(
        True, description="Replace user names, e-mail addresses, phone numbers and links in posts and responses."
    )
    annotation: AnnotationConfig = Field(default_factory=lambda: AnnotationConfig())
    clusters: int = Field(
        3, ge=2, le=64, description="K of K-means; fewer where a thread has fewer distinct responses."
    )
    pairs_per_post: int = Field(
        1, ge=1, le=64, description="Pairs of each thread; `pairs` is rounded up to whole threads."
    )
    min_margin: float = Field(
        0.0,
        ge=-1,
        le=1,
        description="Smallest margin of a pair: how far apart the replies are on the dimensions of the direction, less "
        "how far on the others, by the annotator's probabilities.",
    )
    max_margin: float = Field(1.0, ge=-1, le=1, description="Largest margin of a pair.")

    @field_validator("bots")
    @classmethod
    def _compile_bots(cls, patterns: tuple[str, ...]) -> tuple[str, ...]:
        return _compiled(patterns)

    @model_validator(mode="after")
    def _ranges(self) -> MiningConfig:
        for low, high in (("min_margin", "max_margin"), ("min_responses", "max_responses"), ("min_words", "max_words")):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} is larger than {high}")
        return self


class SplitsConfig(Record):
    """Shares of the pairs, and of the posts, in each split. No post is in two splits."""

    train: Share = Field(0.9, description="Share of the train split.")
    validation: Share = Field(0.05, description="Share of the validation split.")
    test: Share = Field(0.05, description="Share of the test split.")

    @model_validator(mode="after")
    def _sum_to_one(self) -> SplitsConfig:
        if abs(self.train + self.validation + self.test - 1) > 1e-9:
            raise ValueError("the shares train + validation + test must sum to 1")
        return self


class Marginal(Record):
    """How often a dimension is active, and which pole it then takes."""

    weight: float = Field(
        1.0, ge=0, description="Relative weight of the dimension when active ones are drawn; 0 keeps it neutral."
    )
    positive: Share = Field(
        0.5,
        description="Probability of the positive pole, given that the dimension is active. It shapes how poles go "
        "together; taken alone they are even, as each pair is also emitted mirrored.",
    )


class Correlation(Record):
    """A correlation between the poles of two dimensions, by a Gaussian copula."""

    a: str = Field(description="Slug of a dimension.")
    b: str = Field(description="Slug of another dimension.")
    rho: float = Field(gt=-1, lt=1, description="Correlation of the two latent normal variables.")


class SamplingConfig(Record):
    """How points of the preference space are drawn."""

    min_active: int = Field(3, ge=1, description="Smallest number of non-neutral dimensions of a point.")
    max_active: int = Field(6, ge=1, description="Largest number of non-neutral dimensions of a point.")
    dimensions: tuple[str, ...] | None = Field(
        None, description="Draw from these slugs and groups only; by default from all."
    )
    topical_weight: float = Field(
        6.0,
        gt=0,
        description="Weight of an interest tag that fits the post, against 1 for any other dimension. A tag that does "
        "not fit the post is never active.",
    )
    marginals: dict[str, Marginal] = Field(
        default_factory=dict, description="By slug: `weight` (multiplies the default) and `positive`."
    )
    correlations: tuple[Correlation, ...] = Field(
        default=(), description="List of `{a, b, rho}`: latent correlation of two dimensions' poles."
    )
    forbidden: tuple[Annotated[dict[str, Literal["positive", "negative"]], Field(min_length=1)], ...] = Field(
        default=(),
        description="Combinations that never occur together, neither in a person nor in the opposite one, each a map "
        "of slug to pole.",
    )

    @model_validator(mode="after")
    def _range(self) -> SamplingConfig:
        if self.min_active > self.max_active:
            raise ValueError("min_active is larger than max_active")
        return self


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
        if secret := next(_secrets(extra), None):
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
        return _compiled(patterns)


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


class VllmEngine(Record):
    """A vLLM server on loopback, started, supervised and ended by the build."""

    kind: Literal["vllm"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA where `nvidia-smi` answers.")
    args: tuple[str, ...] = Field((), description="Further arguments of the vLLM server.")
    command: tuple[str, ...] | None = Field(
        None,
        description="The program that takes vLLM's server arguments; by default vLLM's own, in this Python.",
    )
    start_seconds: float = Field(900.0, gt=0, description="How long the server may take to answer for the first time.")
    max_restarts: int = Field(3, ge=0, description="How often a server that died is started again.")
    in_flight: int = Field(64, ge=1, description="Requests in flight at once, at most.")

    @field_validator("args")
    @classmethod
    def _no_key(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        if any(arg.startswith(("--api-key", "--hf-token")) for arg in args):
            raise ValueError(
                "a key would be published with the manifest: '--api-key' is not needed on loopback, "
                "and '--hf-token' is the environment variable HF_TOKEN"
            )
        return args


class OpenAiEngine(Record):
    """One or more OpenAI-compatible endpoints that serve the same model."""

    kind: Literal["openai"]
    base_urls: tuple[
        Annotated[
            str,
            Field(pattern=r"^https?://[^\s@]+$"),
            Fits("an address without user and password, such as 'http://localhost:8000/v1'"),
        ],
        ...,
    ] = Field(min_length=1, description="Base URLs, each up to and with `/v1`; requests go to the least busy.")
    api_key_env: Annotated[
        str,
        # A key has small letters or hyphens. It would be written to the manifest, and published with it.
        Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$"),
        Fits(
            "the name of an environment variable in capital letters, such as OPENAI_API_KEY; the key itself belongs "
            "into that variable"
        ),
        Hidden(),
    ] = Field(
        "OPENAI_API_KEY",
        description="Environment variable, in capital letters, that holds the key, if one is needed. Never the key.",
    )
    in_flight: int = Field(64, ge=1, description="Requests in flight at once, at most, over all endpoints.")

    @field_validator("base_urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            try:
                parts = urlsplit(url)
                is_address = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
            except ValueError:
                is_address = False
            if not is_address:
                # What follows may hold a key.
                shown = re.sub(r"([?#]).+", r"\1...", url)
                raise ValueError(
                    f"'{shown}' is no base URL: expected http:// or https://, a host, perhaps a port from 1 to 65535, "
                    "and a path without '?' and '#', such as 'http://localhost:8000/v1'; a key belongs into the "
                    "environment variable that engine.api_key_env names"
                )
        return urls


class ReplayEngine(Record):
    """No model: completions come from the journal of an earlier build."""

    kind: Literal["replay"]
    journal: str = Field(
        description="The `journal` folder of an earlier build, here or at `s3://` or `gs://`, or a copy of it."
    )


class DummyEngine(Record):
    """No model: replies are words drawn by a hash of the request. For trials of the machinery, at any size."""

    kind: Literal["dummy"]


Engine = Annotated[VllmEngine | OpenAiEngine | ReplayEngine | DummyEngine, Field(discriminator="kind")]


class RequestsConfig(Record):
    """How requests are retried."""

    timeout_seconds: float = Field(120.0, gt=0, description="Longest wait for one reply.")
    max_retries: int = Field(
        3,
        ge=0,
        description="Attempts after the first for a timeout, a lost connection, a 5xx, 408, 409, 425 or a garbled "
        "reply, where the endpoint answers other requests meanwhile. Where it answers none, `outage_seconds` counts; "
        "with 0 the beginning of an outage may cost rows.",
    )
    max_wait_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest wait on 429 and 503. The run stops where every endpoint is busy for longer, or asks for "
        "a longer wait (`Retry-After`); the same command continues it.",
    )
    outage_seconds: float = Field(
        60.0,
        gt=0,
        description="Longest outage: the run stops when no endpoint has worked for this long after a first failure (no "
        "connection, timeout, 5xx, an error with status 200), or when the bucket that holds the build is away for so "
        "long; the same command continues it.",
    )
    journal: bool = Field(
        True,
        description="Keep every reply. Without it a shard that was interrupted is asked for anew, all of it, and the "
        "build cannot be replayed; what it saves is about the size of the replies.",
    )


class WorkersConfig(Record):
    """The machines of a distributed runner. The local runner has none; options after `--` win over these."""

    image: str | None = Field(
        None, description="Container image of the workers (`--sdk_container_image`); `deploy/Dockerfile` makes one."
    )
    machine_type: str | None = Field(
        None, description="Machine of a worker (`--machine_type`), such as `g2-standard-8`."
    )
    accelerator: (
        Annotated[
            str,
            Field(pattern=r"^type:[\w-]+;count:\d+(;[\w.:-]+)*$"),
            Fits("a hint such as 'type:nvidia-l4;count:1;install-nvidia-driver'"),
        ]
        | None
    ) = Field(
        None,
        description="Resource hint of the generation stage alone, such as "
        "`type:nvidia-l4;count:1;install-nvidia-driver`.",
    )
    memory: (
        Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMGT]i?B$"), Fits("a number with its unit, such as '32GB'")] | None
    ) = Field(
        None, description="Resource hint of the generation stage alone: memory that its machines must have (`32GB`)."
    )
    threads: int = Field(
        16, ge=1, description="Shards that a worker's process works on at once (`--number_of_worker_harness_threads`)."
    )
    max_workers: int | None = Field(
        None, ge=1, description="Most workers that autoscaling may start (`--max_num_workers`)."
    )
    disk_gb: int | None = Field(None, ge=1, description="Disk of a worker (`--disk_size_gb`): image and model need it.")
    experiments: tuple[str, ...] = Field((), description="Further `--experiments` of the runner.")


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


class CardConfig(Record):
    """What the dataset card says that no one else can know."""

    title: str | None = Field(None, description="Title of the card; by default `name`.")
    description: str | None = Field(None, description="A paragraph about this dataset.")
    license: (
        Annotated[
            str,
            Field(pattern=r"^[a-z0-9][a-z0-9.+-]*$"),
            Fits("a text of small letters, digits, '.', '+' and '-', such as 'cc-by-4.0'"),
        ]
        | None
    ) = Field(
        None, description="Licence as the Hub spells it, such as `cc-by-4.0`; null: the card says that none was stated."
    )
    languages: tuple[
        Annotated[str, Field(pattern=r"^[a-z]{2,3}$"), Fits("a code of two or three letters, such as 'en'")], ...
    ] = Field((), description="ISO 639 codes of the texts; by default `rules.language`.")
    tags: tuple[
        Annotated[str, Field(pattern=r"^[\w.:-]+$"), Fits("a text of letters, digits, '_', '.', ':' and '-'")], ...
    ] = Field((), description="Further tags for the Hub.")


class PublishConfig(Record):
    """Where the finished dataset goes on the Hugging Face Hub.

    The token is no key: it comes from the environment (`HF_TOKEN`) or from the Hub's own login.
    """

    repo_id: str = Field(
        description="The dataset repository, `owner/name`; it is made where there is none. The owner is you or an "
        "organisation of yours."
    )
    private: bool = Field(
        True, description="Whether only its owner sees the repository. One that is there already must agree with this."
    )
    revision: str = Field(
        "main", min_length=1, description="The branch to publish to; where there is none, it is made from `main`."
    )
    tag: str | None = Field(None, min_length=1, description="A tag for the commit, which no other commit may have.")
    message: str | None = Field(
        None, min_length=1, description="The commit's message; by default it has name, size and fingerprint."
    )

    @field_validator("repo_id")
    @classmethod
    def _is_an_id(cls, repo_id: str) -> str:
        part = r"\b[\w.-]{1,96}\b"
        if not re.fullmatch(f"{part}/{part}", repo_id, re.ASCII) or re.search(r"--|\.\.|\.git$", repo_id):
            raise ValueError("not the id of a repository: owner/name, of letters, digits, '-', '_' and '.'")
        return repo_id

    @field_validator("revision")
    @classmethod
    def _is_a_branch(cls, revision: str) -> str:
        if re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ValueError("a commit cannot be published to; name a branch")
        return revision


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
