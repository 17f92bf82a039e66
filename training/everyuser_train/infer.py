"""Preference inference: what each text of a persona says about each dimension, asked of an annotator model.

A text (a comment, either reply of a pair, the portrait) gets a one-token choice for each dimension: the positive pole,
the negative pole, or 'cannot tell'. A comment's direction is its levels; a pair's is the sign of the chosen reply's
levels less those of the rejected one, as the dataset's own directions are made.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from everyuser_train.annotators import OPTIONS, Annotator, EndpointAnnotator, LocalAnnotator, Shares, Sheet
from everyuser_train.base import Progress, Record, UsageError
from everyuser_train.client import Endpoint, Failure
from everyuser_train.config import EvalData, Part
from everyuser_train.data import load
from everyuser_train.directions import Inferred, write_directions
from everyuser_train.examples import Example
from everyuser_train.journal import Journal, key_of
from everyuser_train.neutral import neutral
from everyuser_train.score import model_key
from everyuser_train.space import Dimension, Direction, Space, aggregate

Orders = npt.NDArray[np.int64]
"""Shape (questions, 3): what each option stands for, 0 the positive pole, 1 the negative one, 2 'cannot tell'."""

_ORDERS: Orders = np.array([*itertools.permutations(range(3))])
_LEVELS = np.array([1, -1, 0], dtype=np.int8)


class Text(NamedTuple):
    """Something that a persona wrote or preferred, under a post; or a portrait, which has no post."""

    post: str
    text: str

    @property
    def context(self) -> str:
        """How the annotator sees it."""
        post, text = neutral(self.post), neutral(self.text)
        return f"Post: {post}\nComment: {text}" if post else f"Comment, by and about the writer: {text}"


class LocalModel(Record):
    """An annotator that runs here."""

    kind: Literal["local"]
    name: str = Field(description="A Hub id, a folder, or `packaged:smollm2-135m-instruct`.")
    revision: str | None = Field(None, description="Revision of a Hub model.")
    dtype: Literal["float32", "bfloat16", "float16"] = Field("bfloat16", description="Numbers that it computes with.")
    batch_tokens: int = Field(16384, ge=1, description="Most tokens of a batch, the shared text counted in each row.")


class RemoteModel(Record):
    """An annotator behind an OpenAI-compatible endpoint."""

    kind: Literal["endpoint"]
    endpoint: Endpoint
    api: Literal["completions", "chat"] = Field(
        "completions",
        description="`completions`: many questions a call, with log-probabilities. `chat`: one a call, which endpoints "
        "for chat alone need. Either is taken at its word where it sends no log-probabilities.",
    )


class InferConfig(Record):
    """Inference of the directions of a dataset's personas."""

    output: str = Field(description="A `.jsonl` or `.parquet` file; beside it a journal, so that a rerun goes on.")
    data: EvalData
    annotator: Annotated[LocalModel | RemoteModel, Field(discriminator="kind")]
    parts: Annotated[tuple[Part, ...], Field(min_length=1)] = Field(
        ("ugc", "pair", "demo"), description="Parts of the persona that are judged: `ugc`, `pair`, `demo`."
    )
    dimensions: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Slugs to ask about; the others stay neutral. By default all."
    )
    min_confidence: float = Field(0.5, ge=0, le=1, description="A less probable answer counts as 'cannot tell'.")
    anew: bool = Field(False, description="Judge history items too that bring a direction.")


class InferSummary(Record):
    """What an inference did. `unjudged`: examples of which no part could be judged, so that they are neutral."""

    output: str
    examples: int
    texts: int
    failed_texts: int
    unjudged: int
    first_failure: str | None


def infer(
    examples: Sequence[Example], space: Space, annotator: Annotator, progress: Progress | None = None
) -> list[Direction]:
    """The direction of each example's persona by all of its parts, shape (D,) each."""
    levels, _ = judge_texts(texts_of(examples), space, annotator, progress=progress)
    return [inferred(example, space, levels).direction for example in examples]


def infer_file(config: InferConfig, progress: Progress | None = None) -> InferSummary:
    """Infer the directions of a dataset's personas and write them to `config.output`, for a `directions` key."""
    output = Path(config.output)
    if output.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"output {output}: must end in .jsonl or .parquet")
    data = config.data
    loaded = load(data, data.split)
    if loaded.space is None:
        raise UsageError(f"{data.path} brings no preference space; name a preference_space.yaml in data.space")
    dimensions = chosen_dimensions(loaded.space, config.dimensions)
    texts = texts_of(loaded.examples, config.parts, config.anew)
    with Journal(output.with_name(f"{output.name}.journal")) as journal:
        levels, failures = judge_texts(
            texts, loaded.space, _annotator(config.annotator), dimensions, config.min_confidence, journal, progress
        )
    results = [inferred(example, loaded.space, levels, config.parts, config.anew) for example in loaded.examples]
    write_directions(output, loaded.examples, results, loaded.space)
    return InferSummary(
        output=str(output),
        examples=len(results),
        texts=len(texts),
        failed_texts=len(failures),
        unjudged=sum(not result.judged for result in results),
        first_failure=failures[0].detail if failures else None,
    )


def texts_of(
    examples: Iterable[Example], parts: Sequence[Part] = ("ugc", "pair", "demo"), anew: bool = True
) -> list[Text]:
    """The texts that examples need judged, each once. Items that bring a direction count only if `anew`."""
    found: dict[Text, None] = {}
    for example in examples:
        if "ugc" in parts:
            wanted = (item for item in example.ugc if anew or item.direction is None)
            found |= dict.fromkeys(Text(item.prompt, item.comment) for item in wanted)
        if "pair" in parts:
            for item in example.pair:
                if anew or item.direction is None:
                    found |= dict.fromkeys((Text(item.prompt, item.chosen), Text(item.prompt, item.rejected)))
        if "demo" in parts and example.portrait:
            found[Text("", example.portrait)] = None
    return [*found]


def judge_texts(
    texts: Sequence[Text],
    space: Space,
    annotator: Annotator,
    dimensions: Sequence[int] | None = None,
    min_confidence: float = 0.5,
    journal: Journal | None = None,
    progress: Progress | None = None,
) -> tuple[dict[Text, Direction], list[Failure]]:
    """The levels of each text, shape (D,), and why there are none for some: a text whose questions failed is left out.

    `dimensions` are the indices asked about, by default all. `journal` is asked first and keeps what is new.
    """
    asked = [*range(len(space.dimensions))] if dimensions is None else [*dimensions]
    questioned = [space.dimensions[index] for index in asked]
    questionnaire = key_of(annotator.identity, [[*dimension] for dimension in questioned])
    keys = [key_of(questionnaire, [*text]) for text in texts]
    levels: dict[Text, Direction] = {}
    failures: list[Failure] = []

    def take(text: Text, packed: str) -> None:
        # In bytes, as the journal keeps them: so a resumed run reads the very numbers that the first one did.
        shares = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8).reshape(-1, len(OPTIONS)) / 255
        levels[text] = np.zeros(len(space.dimensions), dtype=np.int8)
        levels[text][asked] = levels_of(shares, option_orders(text, len(asked)), min_confidence)

    missing = []
    for number, (text, key) in enumerate(zip(texts, keys, strict=True)):
        if journal is not None and key in journal:
            take(text, journal[key])
        else:
            missing.append(number)
    finished = len(texts) - len(missing)

    def done(place: int, answer: Shares | Failure) -> None:
        nonlocal finished
        finished += 1
        number = missing[place]
        if isinstance(answer, Failure):
            failures.append(answer)
        else:
            packed = np.rint(answer * 255).astype(np.uint8).tobytes().hex()
            if journal is not None:
                journal.add(keys[number], packed)
            take(texts[number], packed)
        if progress is not None:
            progress("texts", finished, len(texts))

    if missing:
        annotator.answer((sheet_of(texts[number], questioned) for number in missing), done)
    return levels, failures


def sheet_of(text: Text, dimensions: Sequence[Dimension]) -> Sheet:
    """The questions about a text, their options in the order of `option_orders`."""
    orders = option_orders(text, len(dimensions)).tolist()
    return Sheet(text.context, tuple(_question(*each) for each in zip(dimensions, orders, strict=True)))


def option_orders(text: Text, questions: int) -> Orders:
    """What the options of each question stand for: drawn from the text alone, against position bias."""
    draws = hashlib.shake_128(repr(tuple(text)).encode()).digest(4 * questions)
    orders: Orders = _ORDERS[np.frombuffer(draws, dtype="<u4") % len(_ORDERS)]
    return orders


def levels_of(shares: Shares, orders: Orders, min_confidence: float) -> Direction:
    """Levels from shares of options, shape (Q, 3) to (Q,). A tie, or less than `min_confidence`, tells nothing."""
    meanings = np.empty_like(shares)
    np.put_along_axis(meanings, orders, shares, axis=1)
    top = meanings.max(axis=1)
    sure = (top >= min_confidence) & ((meanings == top[:, None]).sum(axis=1) == 1)
    return np.where(sure, _LEVELS[meanings.argmax(axis=1)], np.int8(0))


def inferred(
    example: Example,
    space: Space,
    levels: Mapping[Text, Direction],
    parts: Sequence[Part] = ("ugc", "pair", "demo"),
    anew: bool = True,
) -> Inferred:
    """An example's directions from the levels of its texts; items that bring one keep it, unless `anew`."""
    ugc = tuple(
        item.direction if not anew and item.direction is not None else levels.get(Text(item.prompt, item.comment))
        for item in (example.ugc if "ugc" in parts else ())
    )
    pair = tuple(
        item.direction
        if not anew and item.direction is not None
        else _difference(levels.get(Text(item.prompt, item.chosen)), levels.get(Text(item.prompt, item.rejected)))
        for item in (example.pair if "pair" in parts else ())
    )
    portrait = levels.get(Text("", example.portrait)) if "demo" in parts and example.portrait else None
    known = [part for part in (*ugc, *pair, portrait) if part is not None]
    return Inferred(aggregate(np.array(known, dtype=np.int8).reshape(-1, len(space.dimensions))), ugc, pair, portrait)


def chosen_dimensions(space: Space, slugs: Sequence[str] | None) -> list[int] | None:
    """Indices of dimensions; None for all. Raises `UsageError` for a slug that the space does not have."""
    if slugs is None:
        return None
    places = {dimension.slug: index for index, dimension in enumerate(space.dimensions)}
    for slug in slugs:
        if slug not in places:
            raise UsageError(f"dimensions: space '{space.name}' has no dimension '{slug}'")
    return sorted({places[slug] for slug in slugs})


def _annotator(config: LocalModel | RemoteModel) -> Annotator:
    if isinstance(config, RemoteModel):
        return EndpointAnnotator(config.endpoint, config.api)
    from everyuser_train.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(config.name, config.revision)
    model = load_model(config.name, config.revision, config.dtype)
    return LocalAnnotator(model, tokenizer, model_key(config.name, config.revision, config.dtype), config.batch_tokens)


def _question(dimension: Dimension, order: Sequence[int]) -> str:
    meanings = (dimension.positive, dimension.negative, "Cannot be told")
    options = (f"({letter}) {meanings[meaning]}" for letter, meaning in zip(OPTIONS, order, strict=True))
    return "\n".join([f"Question: {dimension.question}", *options])


def _difference(chosen: Direction | None, rejected: Direction | None) -> Direction | None:
    """A pair's direction, (D,): on which side of the rejected reply the chosen one is."""
    return None if chosen is None or rejected is None else np.sign(chosen - rejected).astype(np.int8)
