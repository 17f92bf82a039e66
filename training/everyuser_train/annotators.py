"""Annotators: models that answer one-token choices about a text, behind an endpoint or here."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from everyuser_train.answers import chat_text, first_logprobs, token_logprobs
from everyuser_train.base import UserError
from everyuser_train.client import Call, Endpoint, Failure, ask_all, chat
from everyuser_train.generate import left_padded
from everyuser_train.journal import key_of

Shares = npt.NDArray[np.float64]
"""Shape (questions, 3): each option's share; a row of zeros where the annotator named none."""

OPTIONS = ("A", "B", "C")
_CUE = "\nAnswer:"
_QUESTIONS_A_CALL = 30
_TOP_LOGPROBS = 5
"""Asked for with each choice: three options, and some in another spelling."""

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


class Sheet(NamedTuple):
    """A text as the annotator sees it, and questions about it that each list three options, A, B and C."""

    context: str
    questions: tuple[str, ...]


class Annotator(Protocol):
    """Answers sheets, in any order."""

    identity: str
    """What its answers depend on, beside the sheet."""

    def answer(self, sheets: Iterable[Sheet], done: Callable[[int, Shares | Failure], None]) -> None:
        """Give `done` the number of each sheet and the shares of its options."""


class EndpointAnnotator:
    """An annotator behind an OpenAI-compatible endpoint."""

    def __init__(self, endpoint: Endpoint, api: Literal["completions", "chat"]) -> None:
        self.identity = key_of("endpoint", endpoint.body(), api, _TASK, _EXAMPLES, _CHAT_TASK)
        self._endpoint = endpoint
        self._api = api
        self._step = _QUESTIONS_A_CALL if api == "completions" else 1

    def answer(self, sheets: Iterable[Sheet], done: Callable[[int, Shares | Failure], None]) -> None:
        """Ask every question; a sheet is done when all of its calls are."""
        origins: list[tuple[int, int]] = []
        answers: dict[int, list[Shares | Failure | None]] = {}

        def calls() -> Iterator[Call[Shares]]:
            for number, sheet in enumerate(sheets):
                starts = range(0, len(sheet.questions), self._step)
                answers[number] = [None] * len(starts)
                for place, start in enumerate(starts):
                    origins.append((number, place))
                    yield self._call(sheet.context, sheet.questions[start : start + self._step])

        def arrived(call: int, answer: Shares | Failure) -> None:
            number, place = origins[call]
            answers[number][place] = answer
            if all(answer is not None for answer in answers[number]):
                done(number, _together(answers.pop(number)))

        ask_all(self._endpoint, calls(), arrived)

    def _call(self, context: str, questions: Sequence[str]) -> Call[Shares]:
        if self._api == "chat":
            content = f"{context}\n{questions[0]}"
            messages = [{"role": "system", "content": _CHAT_TASK}, {"role": "user", "content": content}]
            # Room for what some models put before the letter, such as a bracket.
            fields = {"max_tokens": 4, "temperature": 0, "logprobs": True, "top_logprobs": _TOP_LOGPROBS}
            return chat(self._endpoint, messages, _chat_shares, **fields)
        prompts = [prefix_of(context) + question + _CUE for question in questions]
        body = self._endpoint.body(prompt=prompts, max_tokens=1, temperature=0, logprobs=_TOP_LOGPROBS)
        return Call("/completions", body, lambda answer: _shares(answer, len(prompts)))


class LocalAnnotator:
    """An annotator that is a transformers model. What the questions about a text share is computed once."""

    def __init__(self, model: Any, tokenizer: Any, identity: str, batch_tokens: int = 16384) -> None:
        self.identity = key_of("local", identity, str(model.dtype), _TASK, _EXAMPLES)
        self._model = model.eval()
        self._tokenizer = tokenizer
        self._letters = _letter_ids(tokenizer)
        self._batch_tokens = batch_tokens
        self._longest = getattr(model.config.get_text_config(), "max_position_embeddings", None) or math.inf

    def answer(self, sheets: Iterable[Sheet], done: Callable[[int, Shares | Failure], None]) -> None:
        """Answer sheet by sheet. One that is longer than the model can read fails."""
        for number, sheet in enumerate(sheets):
            done(number, self._answer(sheet))

    def _answer(self, sheet: Sheet) -> Shares | Failure:
        import torch

        prefix = _ids(self._tokenizer, prefix_of(sheet.context), start=True)
        # All but the letter itself: so they are the tokens that come before it, whatever the tokenizer makes of spaces.
        suffixes = [_ids(self._tokenizer, f"{question}{_CUE} {OPTIONS[0]}")[:-1] for question in sheet.questions]
        length = len(prefix) + max(map(len, suffixes))
        if length > self._longest:
            return Failure("too_long", f"{length} tokens are more than the model reads ({self._longest})", True)
        # Those of about the same length together, to pad less.
        order = sorted(range(len(suffixes)), key=lambda place: len(suffixes[place]))
        rows = max(1, self._batch_tokens // length)
        shares = np.empty((len(suffixes), len(OPTIONS)))
        with torch.inference_mode():
            device = self._model.device
            shared = self._model(
                torch.tensor([prefix], device=device), use_cache=True, logits_to_keep=1
            ).past_key_values
            for start in range(0, len(order), rows):
                batch = order[start : start + rows]
                ids, mask = left_padded([suffixes[place] for place in batch])
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
                shares[batch] = logits.double().softmax(dim=-1).cpu().numpy()
        return shares


def prefix_of(context: str) -> str:
    """What comes before each question where a text is completed: the task, examples, and the context."""
    return f"{_TASK}{_EXAMPLES}{context}\n"


def _together(answers: Sequence[Shares | Failure | None]) -> Shares | Failure:
    """The answers to one sheet's calls; the first failure, if there is one."""
    shares = []
    for answer in answers:
        if isinstance(answer, Failure):
            return answer
        if answer is not None:
            shares.append(answer)
    return np.concatenate(shares)


def _shares(answer: Any, questions: int) -> Shares:
    """Shares from completions, one choice for each prompt."""
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    if [choice["index"] for choice in choices] != list(range(questions)):
        raise ValueError("not one choice for each prompt")
    return np.array([_weights(first_logprobs(choice)) or _said(choice["text"]) for choice in choices])


def _chat_shares(answer: Any) -> Shares:
    """Shares from a chat completion: the probabilities at the first token that is a letter, else the letter it says."""
    choice = answer["choices"][0]
    for token in (choice.get("logprobs") or {}).get("content") or ():
        if _letter(token["token"]) is not None and token.get("top_logprobs"):
            return np.array([_weights(token_logprobs(token)) or _said(token["token"])])
    return np.array([_said(chat_text(answer))])


def _weights(tokens: Iterable[tuple[str, float | None]]) -> list[float] | None:
    """Each option's share of what the model gives to all options; None if it gives them nothing."""
    weights = [0.0] * len(OPTIONS)
    for token, logprob in tokens:
        letter = _letter(token)
        if letter is not None and logprob is not None:
            weights[letter] += math.exp(min(float(logprob), 0.0))
    total = sum(weights)
    return [weight / total for weight in weights] if total else None


def _letter(token: str) -> int | None:
    # Some servers show a tokenizer's own mark of a space.
    bare = token.strip(" \n().*:\u2581\u0120")
    return OPTIONS.index(bare) if bare in OPTIONS else None


def _said(text: str) -> list[float]:
    """All for the one letter that stands alone in a short answer; zeros where there is none, or several."""
    letters = {*re.findall(r"\b[ABC]\b", text)}
    return [float(letters == {option}) for option in OPTIONS]


def _letter_ids(tokenizer: Any) -> list[int]:
    """The last tokens of an answer with each option. Raises `UserError` where they are not the letters alone."""
    answers = [_ids(tokenizer, f"{_CUE} {option}") for option in OPTIONS]
    letters = [ids[-1] for ids in answers]
    if len({*letters}) < len(OPTIONS) or any(ids[:-1] != answers[0][:-1] for ids in answers):
        raise UserError(
            f"the tokenizer of '{tokenizer.name_or_path}' does not write an option's letter as one token; "
            "use another annotator"
        )
    return letters


def _ids(tokenizer: Any, text: str, start: bool = False) -> list[int]:
    """Tokens of a text, in which special tokens are text like any other; `start` puts the tokenizer's own first."""
    ids: list[int] = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    if start:
        first = tokenizer("")["input_ids"][:1]
        ids = [*first, *ids] if first == [tokenizer.bos_token_id] else ids
    return ids
