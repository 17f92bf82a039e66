"""Inference of directions: an annotator model judges each text of a persona on each dimension.

A text is a comment, either reply of a pair, or the portrait. The annotator chooses the positive pole, the negative pole
or 'cannot tell'. A comment's direction is its levels. A pair's direction is the sign of the chosen reply's levels minus
the rejected reply's, as in the dataset itself.
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

from everyuser_train.annotators import (
    OPTIONS,
    Annotator,
    EndpointAnnotator,
    LocalAnnotator,
    Probabilities,
    Questionnaire,
)
from everyuser_train.client import Failure
from everyuser_train.config import Dtype, Endpoint, EvalData, Part, Parts
from everyuser_train.data import load
from everyuser_train.directions import Inferred, check_replaceable, write_directions
from everyuser_train.display import ProgressCallback
from everyuser_train.examples import Example
from everyuser_train.journal import Journal, key_of
from everyuser_train.score import model_key
from preference_space.direction import Direction, aggregate
from preference_space.space import Dimension, PreferenceSpace
from prompts.control_tokens import defuse_tokens
from schemas.base import Record, UsageError
from schemas.packaged_models import SMALL

Orders = npt.NDArray[np.int64]
"""Shape (questions, 3): the meaning of each option, 0 the positive pole, 1 the negative one, 2 'cannot tell'."""

_ORDERS: Orders = np.array([*itertools.permutations(range(3))])
_LEVELS = np.array([1, -1, 0], dtype=np.int8)


class Text(NamedTuple):
    """A comment or a reply, with its post; or a portrait, whose post is empty."""

    post: str
    text: str

    @property
    def context(self) -> str:
        """Return the text as the annotator sees it."""
        post, text = defuse_tokens(self.post), defuse_tokens(self.text)
        return f"Post: {post}\nComment: {text}" if post else f"Comment, by and about the writer: {text}"


class LocalModel(Record):
    """An annotator that runs on this machine."""

    kind: Literal["local"]
    name: str = Field(description=f"A Hub id, a folder, or a packaged model such as `{SMALL}`.")
    revision: str | None = Field(None, description="Revision of a Hub model.")
    dtype: Dtype = "auto"
    batch_tokens: int = Field(16384, ge=1, description="Most tokens of a batch; the shared text counts in each row.")


class RemoteModel(Record):
    """An annotator behind an OpenAI-compatible endpoint."""

    kind: Literal["endpoint"]
    endpoint: Endpoint
    api: Literal["completions", "chat"] = Field(
        "completions",
        description="`completions`: many questions per call. `chat`: one per call, for endpoints without completions. "
        "Without log-probabilities the answer's letter counts fully.",
    )


class InferConfig(Record):
    """Configuration of the inference of a dataset's directions."""

    output: str = Field(description="A `.jsonl` or `.parquet` file; a journal beside it lets a rerun resume.")
    data: EvalData
    annotator: Annotated[LocalModel | RemoteModel, Field(discriminator="kind")]
    parts: Parts = Field(
        ("ugc", "pair", "demo"), description="Parts of the persona that are judged: `ugc`, `pair`, `demo`."
    )
    dimensions: Annotated[tuple[str, ...], Field(min_length=1)] | None = Field(
        None, description="Slugs to ask about; other dimensions stay neutral. Default: all."
    )
    min_confidence: float = Field(
        0.5, ge=0, le=1, description="An answer with a smaller probability counts as 'cannot tell'."
    )
    rejudge: bool = Field(False, description="Also judge history items that have a direction.")


class InferSummary(Record):
    """Result of an inference. `unjudged` examples have no part that could be judged; their direction is neutral."""

    output: str
    examples: int
    texts: int
    failed_texts: int
    unjudged: int
    first_failure: str | None


def infer_file(config: InferConfig, progress: ProgressCallback | None = None) -> InferSummary:
    """Infer the directions of a dataset's personas and write them to `config.output`, for use as `directions`."""
    output = Path(config.output)
    if output.suffix not in (".jsonl", ".parquet"):
        raise UsageError(f"output {output}: must end in .jsonl or .parquet")
    check_replaceable(output)
    data = config.data
    loaded = load(data, data.split)
    if loaded.space is None:
        raise UsageError(f"{data.path} has no preference space; name a preference_space.yaml in data.space")
    dimensions = chosen_dimensions(loaded.space, config.dimensions)
    texts = texts_of(loaded.examples, config.parts, config.rejudge)
    with Journal(output.with_name(f"{output.name}.journal")) as journal:
        levels, failures = judge_texts(
            texts, loaded.space, _annotator(config.annotator), dimensions, config.min_confidence, journal, progress
        )
    results = [
        infer_directions(example, loaded.space, levels, config.parts, config.rejudge) for example in loaded.examples
    ]
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
    examples: Iterable[Example], parts: Sequence[Part] = ("ugc", "pair", "demo"), rejudge: bool = True
) -> list[Text]:
    """Return the distinct texts to judge. History items that have a direction are included only if `rejudge`."""
    found: dict[Text, None] = {}
    for example in examples:
        if "ugc" in parts:
            wanted = (item for item in example.ugc if rejudge or item.direction is None)
            found |= dict.fromkeys(Text(item.prompt, item.comment) for item in wanted)
        if "pair" in parts:
            for item in example.pair:
                if rejudge or item.direction is None:
                    found |= dict.fromkeys((Text(item.prompt, item.chosen), Text(item.prompt, item.rejected)))
        if "demo" in parts and example.portrait:
            found[Text("", example.portrait)] = None
    return [*found]


def judge_texts(
    texts: Sequence[Text],
    space: PreferenceSpace,
    annotator: Annotator,
    dimensions: Sequence[int] | None = None,
    min_confidence: float = 0.5,
    journal: Journal | None = None,
    progress: ProgressCallback | None = None,
) -> tuple[dict[Text, Direction], list[Failure]]:
    """Ask an annotator for the levels of texts.

    Args:
        texts: Distinct texts.
        space: The dimensions and their questions.
        annotator: Answers the questions.
        dimensions: Indices of the dimensions to ask about; None for all.
        min_confidence: An answer with a smaller probability counts as 'cannot tell'.
        journal: Holds earlier answers and stores new ones.
        progress: Called after each answer.

    Returns:
        The levels of each text, shape (D,), without the texts whose questions failed; and those failures.
    """
    asked = [*range(len(space.dimensions))] if dimensions is None else [*dimensions]
    questioned = [space.dimensions[index] for index in asked]
    questionnaire = key_of(
        annotator.identity, [[d.slug, d.question, d.positive.label, d.negative.label] for d in questioned]
    )
    keys = [key_of(questionnaire, [*text]) for text in texts]
    levels: dict[Text, Direction] = {}
    failures: list[Failure] = []

    def take(text: Text, packed: str) -> None:
        # Rounded to bytes, as the journal stores them: a resumed run then reads exactly the same numbers.
        probabilities = np.frombuffer(bytes.fromhex(packed), dtype=np.uint8).reshape(-1, len(OPTIONS)) / 255
        levels[text] = np.zeros(len(space.dimensions), dtype=np.int8)
        levels[text][asked] = levels_of(probabilities, option_orders(text, len(asked)), min_confidence)

    missing = []
    for number, (text, key) in enumerate(zip(texts, keys, strict=True)):
        if journal is not None and key in journal:
            take(text, journal[key])
        else:
            missing.append(number)
    finished = len(texts) - len(missing)

    def done(place: int, answer: Probabilities | Failure) -> None:
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
        annotator.answer((questionnaire_of(texts[number], questioned) for number in missing), done)
    return levels, failures


def questionnaire_of(text: Text, dimensions: Sequence[Dimension]) -> Questionnaire:
    """Return the questions about a text, with options in the order of `option_orders`."""
    orders = option_orders(text, len(dimensions)).tolist()
    return Questionnaire(text.context, tuple(_question(*each) for each in zip(dimensions, orders, strict=True)))


def option_orders(text: Text, questions: int) -> Orders:
    """Return the meanings of each question's options, in an order drawn from the text alone, against position bias."""
    # The lengths keep different texts apart. Python's repr would depend on its version's Unicode table.
    parts = [part.encode("utf-8", "surrogatepass") for part in text]
    draws = hashlib.shake_128(b"".join(b"%d\n%b" % (len(part), part) for part in parts)).digest(4 * questions)
    orders: Orders = _ORDERS[np.frombuffer(draws, dtype="<u4") % len(_ORDERS)]
    return orders


def levels_of(probabilities: Probabilities, orders: Orders, min_confidence: float) -> Direction:
    """Return levels (Q,) for probabilities of options (Q, 3). A tie, or less than `min_confidence`, gives 0."""
    meanings = np.empty_like(probabilities)
    np.put_along_axis(meanings, orders, probabilities, axis=1)
    top = meanings.max(axis=1)
    sure = (top >= min_confidence) & ((meanings == top[:, None]).sum(axis=1) == 1)
    return np.where(sure, _LEVELS[meanings.argmax(axis=1)], np.int8(0))


def infer_directions(
    example: Example,
    space: PreferenceSpace,
    levels: Mapping[Text, Direction],
    parts: Sequence[Part] = ("ugc", "pair", "demo"),
    rejudge: bool = True,
) -> Inferred:
    """Return an example's directions by the levels of its texts. Items that have one keep it, unless `rejudge`."""
    ugc = tuple(
        item.direction if not rejudge and item.direction is not None else levels.get(Text(item.prompt, item.comment))
        for item in (example.ugc if "ugc" in parts else ())
    )
    pair = tuple(
        item.direction
        if not rejudge and item.direction is not None
        else _difference(levels.get(Text(item.prompt, item.chosen)), levels.get(Text(item.prompt, item.rejected)))
        for item in (example.pair if "pair" in parts else ())
    )
    portrait = levels.get(Text("", example.portrait)) if "demo" in parts and example.portrait else None
    known = [part for part in (*ugc, *pair, portrait) if part is not None]
    return Inferred(aggregate(np.array(known, dtype=np.int8).reshape(-1, len(space.dimensions))), ugc, pair, portrait)


def chosen_dimensions(space: PreferenceSpace, slugs: Sequence[str] | None) -> list[int] | None:
    """Return the indices of slugs, or None for all. Raises `UsageError` for a slug that the space lacks."""
    if slugs is None:
        return None
    for slug in slugs:
        space.require(slug, "dimensions")
    return sorted({space.index[slug] for slug in slugs})


def _annotator(config: LocalModel | RemoteModel) -> Annotator:
    if isinstance(config, RemoteModel):
        return EndpointAnnotator(config.endpoint, config.api)
    from everyuser_train.models import load_model, load_tokenizer

    tokenizer = load_tokenizer(config.name, config.revision)
    model = load_model(config.name, config.revision, config.dtype)
    return LocalAnnotator(model, tokenizer, model_key(config.name, config.revision, config.dtype), config.batch_tokens)


def _question(dimension: Dimension, order: Sequence[int]) -> str:
    meanings = (dimension.positive.label, dimension.negative.label, "Cannot be told")
    options = (f"({letter}) {meanings[meaning]}" for letter, meaning in zip(OPTIONS, order, strict=True))
    return "\n".join([f"Question: {dimension.question}", *options])


def _difference(chosen: Direction | None, rejected: Direction | None) -> Direction | None:
    """Return a pair's direction (D,): the sign of the chosen reply's levels minus the rejected reply's."""
    return None if chosen is None or rejected is None else np.sign(chosen - rejected).astype(np.int8)
