"""Annotators: models that answer multiple-choice questions about a text, behind an endpoint or on this machine."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from everyuser_train.client import Call, Failure, ask_all, chat
from everyuser_train.config import Endpoint
from everyuser_train.generate import padded
from everyuser_train.journal import key_of
from schemas.answers import first_logprobs, read_text, top_logprobs
from schemas.base import UserError

Probabilities = npt.NDArray[np.float64]
"""Shape (questions, 3): the probability of each option; a row of zeros where the annotator chose none."""

OPTIONS = ("A", "B", "C")
_CUE = "\nAnswer:"
_QUESTIONS_PER_CALL = 30
_TOP_LOGPROBS = 5
"""Log-probabilities requested with each choice: three options, some in another spelling."""

_TASK = (
    "Read a post and one comment on it, then answer a question about the writer of the comment. Judge by the comment "
    "alone. Most comments say nothing about most questions: then answer that it cannot be told."
)
_EXAMPLES = """

Post: Is a standing desk worth the money?
Comment: Got one when I retired, after forty years at a drawing board. My back is grateful, my wallet is not.
Question: Does the writer come across as a young person, or as someone further on in life?
(A) Young
(B) Older
(C) Cannot be told
Answer: B
Question: Does the writer like company, or keep to themselves?
(A) Cannot be told
(B) Reserved
(C) Outgoing
Answer: A

Post: How do you plan a trip?
Comment: A spreadsheet with every train and every booking number, and the packing list done three weeks before. Always.
Question: Does the writer want things in order, or not mind a mess?
(A) Indifferent to order
(B) Cannot be told
(C) Orderly
Answer: C
Question: Does the writer care for animals?
(A) Indifferent to animals
(B) Animal lover
(C) Cannot be told
Answer: C

"""
_CHAT_TASK = f"{_TASK} Reply with the letter of one option and nothing else."


class Questionnaire(NamedTuple):
    """A text as the annotator sees it, and questions about it. Each question lists three options, A, B and C."""

    context: str
    questions: tuple[str, ...]


class Annotator(Protocol):
    """A model that answers questionnaires, in any order."""

    identity: str
    """Hash of everything its answers depend on, other than the questionnaire."""

    def answer(
        self, questionnaires: Iterable[Questionnaire], done: Callable[[int, Probabilities | Failure], None]
    ) -> None:
        """Call `done` with the number of each questionnaire and the probabilities of its options, or its failure."""


class EndpointAnnotator:
    """An annotator behind an OpenAI-compatible endpoint."""

    def __init__(self, endpoint: Endpoint, api: Literal["completions", "chat"]) -> None:
        self.identity = key_of("endpoint", endpoint.body(), api, _TASK, _EXAMPLES, _CHAT_TASK)
        self._endpoint = endpoint
        self._api = api
        self._step = _QUESTIONS_PER_CALL if api == "completions" else 1

    def answer(
        self, questionnaires: Iterable[Questionnaire], done: Callable[[int, Probabilities | Failure], None]
    ) -> None:
        """Ask every question. A questionnaire is done when all of its calls are."""
        origins: list[tuple[int, int]] = []
        answers: dict[int, list[Probabilities | Failure | None]] = {}

        def calls() -> Iterator[Call[Probabilities]]:
            for number, questionnaire in enumerate(questionnaires):
                starts = range(0, len(questionnaire.questions), self._step)
                answers[number] = [None] * len(starts)
                for place, start in enumerate(starts):
                    origins.append((number, place))
                    yield self._call(questionnaire.context, questionnaire.questions[start : start + self._step])

        def arrived(call: int, answer: Probabilities | Failure) -> None:
            number, place = origins[call]
            answers[number][place] = answer
            if all(answer is not None for answer in answers[number]):
                done(number, _joined(answers.pop(number)))

        ask_all(self._endpoint, calls(), arrived)

    def _call(self, context: str, questions: Sequence[str]) -> Call[Probabilities]:
        if self._api == "chat":
            content = f"{context}\n{questions[0]}"
            messages = [{"role": "system", "content": _CHAT_TASK}, {"role": "user", "content": content}]
            # Some models put a bracket or the like before the letter.
            fields = {"max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
            return chat(self._endpoint, messages, _chat_probabilities, **fields)
        prompts = [prefix_of(context) + question + _CUE for question in questions]
        body = self._endpoint.body(prompt=prompts, max_tokens=1, temperature=0, logprobs=_TOP_LOGPROBS)
        return Call("/completions", body, lambda answer: _probabilities(answer, len(prompts)))


class LocalAnnotator:
    """An annotator on this machine. The prefix that all questions about a text share is computed once."""

    def __init__(self, model: Any, tokenizer: Any, identity: str, batch_tokens: int = 16384) -> None:
        self.identity = key_of("local", identity, str(model.dtype), _TASK, _EXAMPLES)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._letters = _letter_ids(tokenizer)
        self._batch_tokens = batch_tokens
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf

    def answer(
        self, questionnaires: Iterable[Questionnaire], done: Callable[[int, Probabilities | Failure], None]
    ) -> None:
        """Answer one questionnaire after another. One beyond the model's context length fails."""
        for number, questionnaire in enumerate(questionnaires):
            done(number, self._answer(questionnaire))

    def _answer(self, questionnaire: Questionnaire) -> Probabilities | Failure:
        import torch

        prefix = _ids(self._tokenizer, prefix_of(questionnaire.context), start=True)
        # The tokens before the letter, cut from a whole answer: tokenizers differ in what they do with the space.
        suffixes = [
            _ids(self._tokenizer, f"{question}{_CUE} {OPTIONS[0]}")[:-1] for question in questionnaire.questions
        ]
        length = len(prefix) + max(map(len, suffixes))
        if length > self._longest:
            return Failure("too_long", f"{length} tokens exceed the model's context length, {self._longest}", True)
        # Questions of similar length share a batch, to pad less.
        order = sorted(range(len(suffixes)), key=lambda place: len(suffixes[place]))
        rows = max(1, self._batch_tokens // length)
        probabilities = np.empty((len(suffixes), len(OPTIONS)))
        with torch.inference_mode():
            device = self._model.device
            shared = self._model(
                torch.tensor([prefix], device=device), use_cache=True, logits_to_keep=1
            ).past_key_values
            for start in range(0, len(order), rows):
                batch = order[start : start + rows]
                ids, mask = padded([suffixes[place] for place in batch], left=True)
                # The forward pass grows the cache, so each batch gets a copy.
                cache = copy.deepcopy(shared)
                cache.batch_repeat_interleave(len(batch))
                mask = np.concatenate([np.ones((len(batch), len(prefix)), dtype=np.int64), mask], axis=1)
                positions = (mask.cumsum(axis=1) - 1)[:, len(prefix) :].clip(min=0)
                logits = self._model(
                    torch.from_numpy(ids).to(device),
                    attention_mask=torch.from_numpy(mask).to(device),
                    position_ids=torch.from_numpy(positions).to(device),
                    past_key_values=cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits[:, -1, self._letters]
                probabilities[batch] = logits.double().softmax(dim=-1).cpu().numpy()
        return probabilities


def prefix_of(context: str) -> str:
    """Return the text before each question: the task, examples, and the context."""
    return f"{_TASK}{_EXAMPLES}{context}\n"


def _joined(answers: Sequence[Probabilities | Failure | None]) -> Probabilities | Failure:
    """Return the answers to a questionnaire's calls as one array, or the first failure."""
    probabilities = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        if answer is not None:
            probabilities.append(answer)
    return np.concatenate(probabilities)


def _probabilities(answer: Any, questions: int) -> Probabilities:
    """Read text completions, one choice for each prompt."""
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    if [choice["index"] for choice in choices] != list(range(questions)):
        raise ValueError("not one choice for each prompt")
    return np.array([_normalised(first_logprobs(choice)) or _stated(choice["text"]) for choice in choices])


def _chat_probabilities(answer: Any) -> Probabilities:
    """Read a chat completion: the probabilities at the first token that is a letter, else the letter in its text."""
    choice = answer["choices"][0]
    for token in (choice.get("logprobs") or {}).get("content") or ():
        if _letter(token["token"]) is not None and token.get("top_logprobs"):
            return np.array([_normalised(top_logprobs(token)) or _stated(token["token"])])
    return np.array([_stated(read_text(answer))])


def _normalised(tokens: Iterable[tuple[str, float | None]]) -> list[float] | None:
    """Return the probability of each option, normalised over the options; None if all are zero."""
    weights = [0.0] * len(OPTIONS)
    for token, logprob in tokens:
        letter = _letter(token)
        if letter is not None and logprob is not None:
            weights[letter] += math.exp(min(float(logprob), 0.0))
    total = sum(weights)
    return [weight / total for weight in weights] if total else None


def _letter(token: str) -> int | None:
    # Some servers return the tokenizer's own marker for a space.
    bare = token.strip(" \n().*:\u2581\u0120")
    return OPTIONS.index(bare) if bare in OPTIONS else None


def _stated(text: str) -> list[float]:
    """Return probability 1 for the only letter in a short answer; zeros where there is none, or several."""
    letters = {*re.findall(r"\b[ABC]\b", text)}
    return [float(letters == {option}) for option in OPTIONS]


def _letter_ids(tokenizer: Any) -> list[int]:
    """Return the last token of an answer with each option. Raises `UserError` where it is not the letter alone."""
    answers = [_ids(tokenizer, f"{_CUE} {option}") for option in OPTIONS]
    letters = [ids[-1] for ids in answers]
    if len({*letters}) < len(OPTIONS) or any(ids[:-1] != answers[0][:-1] for ids in answers):
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' does not encode an option's letter as one token; "
            "use another annotator"
        )
    return letters


def _ids(tokenizer: Any, text: str, start: bool = False) -> list[int]:
    """Return the tokens of a text, in which special tokens are plain text. `start` adds the beginning-of-text token."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if start:
        first = tokenizer("")["input_ids"][:1]
        ids = [*first, *ids] if first == [tokenizer.bos_token_id] else ids
    return ids
