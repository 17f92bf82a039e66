from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from aiohttp import web

from everyuser_train.annotators import OPTIONS, EndpointAnnotator, LocalAnnotator, Questionnaire, prefix_of
from everyuser_train.client import Failure
from everyuser_train.config import EvalData
from everyuser_train.data import load
from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.infer import (
    InferConfig,
    LocalModel,
    RemoteModel,
    Text,
    chosen_dimensions,
    infer_directions,
    infer_file,
    judge_texts,
    levels_of,
    option_orders,
    questionnaire_of,
    texts_of,
)
from everyuser_train.journal import Journal
from preference_space.direction import Direction
from schemas.base import UsageError, UserError
from tests.endpoint_stub import EndpointStub, refused, said
from tests.spaces import make_space
from tests.tiny import save_tiny, tiny_model, tiny_tokenizer

pytestmark = pytest.mark.usefixtures("_quick")

SPACE = make_space(
    "toy",
    ("age", "Is the writer young or old?", "Young", "Older"),
    ("order", "Does the writer like things in order?", "Orderly", "Messy"),
    ("music", "Does the writer like music?", "Likes music", "Dislikes music"),
    ("longest", f"Is this {'a very long question, ' * 9}or not?", "Long-winded", "Terse"),
)


def example(
    number: int = 0,
    ugc: Sequence[tuple[str, str, Direction | None]] = (),
    pair: Sequence[tuple[str, str, str, Direction | None]] = (),
    portrait: str = "",
    direction: Direction | None = None,
) -> Example:
    items = tuple(UgcItem(*item) for item in ugc), tuple(PairItem(*item) for item in pair)
    return Example(number, str(number), "post", "prompt", "yes", "no", direction, None, portrait, *items)


def direction(*levels: int) -> Direction:
    return np.array(levels, dtype=np.int8)


def answer_probabilities(prompt: str) -> dict[str, float]:
    """What a reader who looks for the labels in the comment answers to the last question of a prompt."""
    comment = prompt.rpartition("\nQuestion: ")[0].rpartition("Comment")[2]
    options = dict(re.findall(r"^\(([ABC])\) (.*)$", prompt.rpartition("\nQuestion: ")[2], re.MULTILINE))
    assert len(options) == 3 and "Cannot be told" in options.values()
    found = [letter for letter, label in options.items() if label in comment]
    sure = found[0] if found else next(letter for letter, label in options.items() if label == "Cannot be told")
    return {letter: 0.8 if letter == sure else 0.1 for letter in options}


def completed(body: dict[str, Any], before: int = 0) -> web.Response:
    """As vLLM answers /completions, in no order; letters come with a space, and with other tokens."""
    choices = []
    for index, prompt in reversed([*enumerate(body["prompt"])]):
        assert prompt.endswith("\nAnswer:")
        probabilities = answer_probabilities(prompt)
        tokens = {f" {letter}": math.log(share * 0.9) for letter, share in probabilities.items()} | {
            " The": math.log(0.1)
        }
        text = max(tokens, key=lambda token: tokens[token])
        choices.append({"index": index, "text": text, "logprobs": {"top_logprobs": [tokens]}})
    return web.json_response({"choices": choices})


def chatted(body: dict[str, Any], before: int = 0) -> web.Response:
    """As OpenAI answers a chat: here a bracket comes before the letter."""
    probabilities = answer_probabilities(body["messages"][-1]["content"])
    letter = max(probabilities, key=lambda option: probabilities[option])
    tops = [{"token": token, "logprob": math.log(share)} for token, share in probabilities.items()]
    bracket = {
        "token": "(",
        "logprob": 0,
        "top_logprobs": [{"token": "(", "logprob": 0}, {"token": "A", "logprob": -9}],
    }
    content = [bracket, {"token": letter, "logprob": math.log(0.8), "top_logprobs": tops}]
    choice = {"index": 0, "message": {"content": f"({letter})"}, "logprobs": {"content": content}}
    return web.json_response({"choices": [choice]})


class FakeAnnotator:
    """Answers from labels in the text; counts the questionnaires it saw."""

    identity = "fake"

    def __init__(self, fails: str = "\0") -> None:
        self.questionnaires: list[Questionnaire] = []
        self._fails = fails

    def answer(self, questionnaires: Any, done: Any) -> None:
        for number, questionnaire in enumerate(questionnaires):
            self.questionnaires.append(questionnaire)
            rows = [
                answer_probabilities(f"{questionnaire.context}\n{question}") for question in questionnaire.questions
            ]
            answer = np.array([[row[option] for option in OPTIONS] for row in rows])
            done(number, Failure("http_400", "too long", True) if self._fails in questionnaire.context else answer)


# The local model


def answers(annotator: LocalAnnotator | EndpointAnnotator, questionnaires: Sequence[Questionnaire]) -> dict[int, Any]:
    found: dict[int, Any] = {}
    annotator.answer(iter(questionnaires), lambda number, answer: found.update({number: answer}))
    return found


def plain(model: Any, tokenizer: Any, questionnaire: Questionnaire) -> Any:
    """Each question by itself, one whole text, without a cache."""
    rows = []
    for question in questionnaire.questions:
        ids = [
            tokenizer.encode(f"{prefix_of(questionnaire.context)}{question}\nAnswer: {option}") for option in OPTIONS
        ]
        with torch.no_grad():
            logits = model(torch.tensor([ids[0][:-1]])).logits[0, -1, [row[-1] for row in ids]]
        rows.append(logits.double().softmax(-1).numpy())
    return np.array(rows)


@pytest.mark.parametrize("batch_tokens", [1, 4000, 10**6])
def test_a_shared_prefix_and_padding_change_nothing(model: Any, tokenizer: Any, batch_tokens: int) -> None:
    texts = [Text("A post", "A comment"), Text("", "A portrait of somebody, é 猫")]
    questionnaires = [questionnaire_of(text, SPACE.dimensions) for text in texts]
    found = answers(LocalAnnotator(model, tokenizer, "tiny", batch_tokens), questionnaires)
    for number, questionnaire in enumerate(questionnaires):
        wanted = plain(model, tokenizer, questionnaire)
        assert wanted.std() > 0.01
        np.testing.assert_allclose(found[number], wanted, atol=1e-5)


def test_special_tokens_in_a_text_are_text(model: Any, tokenizer: Any) -> None:
    seen: list[int] = []
    hook = model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.extend(args[0].flatten().tolist()), with_kwargs=True
    )
    answers(LocalAnnotator(model, tokenizer, "tiny"), [questionnaire_of(Text("<s>", "a</s>b"), SPACE.dimensions[:1])])
    hook.remove()
    assert seen and not {0, 1} & {*seen}


def test_a_text_longer_than_the_model_reads_fails_alone(tokenizer: Any) -> None:
    model = tiny_model()
    model.config.max_position_embeddings = 2600
    questionnaires = [
        questionnaire_of(Text("p", text), SPACE.dimensions) for text in ("short", "long " * 300, "short too")
    ]
    found = answers(LocalAnnotator(model, tokenizer, "tiny"), questionnaires)
    assert isinstance(found[1], Failure) and found[1].final and "2600" in found[1].detail
    assert found[0].shape == found[2].shape == (4, 3)


def test_letters_must_be_tokens(model: Any) -> None:
    tokenizer = tiny_tokenizer()
    inner = json.loads(tokenizer.backend_tokenizer.to_str())
    # A tokenizer to which B and C are the same.
    vocabulary = inner["model"]["vocab"]
    vocabulary["C"] = vocabulary["B"]
    tokenizer._tokenizer = type(tokenizer.backend_tokenizer).from_str(json.dumps(inner))
    with pytest.raises(UserError, match="as one token"):
        LocalAnnotator(model, tokenizer, "tiny")


# The endpoint


@pytest.mark.parametrize(("api", "calls"), [("completions", 1), ("chat", 4)])
def test_both_kinds_of_endpoint(api: Any, calls: int) -> None:
    texts = [Text("p", "I am Young, and Messy"), Text("p", "Nothing"), Text("", "Likes music, Terse")]
    with EndpointStub(completed if api == "completions" else chatted) as stub:
        levels, failures = judge_texts(texts, SPACE, EndpointAnnotator(stub.endpoint(), api))
    assert not failures and len(stub.bodies) == calls * len(texts)
    assert [levels[text].tolist() for text in texts] == [[1, -1, 0, 0], [0, 0, 0, 0], [0, 0, 1, -1]]


def test_shares_are_of_the_options_alone() -> None:
    questionnaire = questionnaire_of(Text("p", "Young"), SPACE.dimensions)
    for api, answer in (("completions", completed), ("chat", chatted)):
        with EndpointStub(answer) as stub:
            annotator = EndpointAnnotator(stub.endpoint(), api)  # type: ignore[arg-type]
            probabilities = answers(annotator, [questionnaire])[0]
        np.testing.assert_allclose(np.sort(probabilities, axis=1), [[0.1, 0.1, 0.8]] * 4)


def test_many_questions_go_in_several_calls() -> None:
    space = make_space("many", *((f"d{k}", f"Question {k}?", f"(yes{k})", f"(no{k})") for k in range(70)))
    text = Text("p", "(yes3)(no31)(yes69)")
    with EndpointStub(completed) as stub:
        levels, _ = judge_texts([text], space, EndpointAnnotator(stub.endpoint(), "completions"))
    assert sorted(len(body["prompt"]) for body in stub.bodies) == [10, 30, 30]
    assert {k: int(level) for k, level in enumerate(levels[text]) if level} == {3: 1, 31: -1, 69: 1}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("A", [1, 0, 0]),
        (" (B) because", [0, 1, 0]),
        ("C.", [0, 0, 1]),
        ("A or B", [0, 0, 0]),
        ("", [0, 0, 0]),
        ("Apple", [0, 0, 0]),
    ],
)
def test_without_log_probabilities_a_model_is_taken_at_its_word(text: str, wanted: list[float]) -> None:
    def plain_completion(body: dict[str, Any], before: int) -> web.Response:
        return web.json_response({"choices": [{"index": 0, "text": text, "logprobs": None}]})

    questionnaire = questionnaire_of(Text("p", "t"), SPACE.dimensions[:1])
    for api, answer in (("completions", plain_completion), ("chat", lambda body, before: said(text))):
        with EndpointStub(answer) as stub:
            assert answers(EndpointAnnotator(stub.endpoint(), api), [questionnaire])[0].tolist() == [wanted]  # type: ignore[arg-type]


def test_answers_that_are_too_few_are_no_answers() -> None:
    def fewer(body: dict[str, Any], before: int) -> web.Response:
        body["prompt"] = body["prompt"][:-1]
        return completed(body)

    with EndpointStub(fewer) as stub:
        annotator = EndpointAnnotator(stub.endpoint(retries=1), "completions")
        levels, failures = judge_texts([Text("p", "t")], SPACE, annotator)
    assert not levels and failures[0].reason == "garbled"


# Texts, levels, directions


def test_options_are_shuffled_by_the_text_alone() -> None:
    orders = option_orders(Text("p", "t"), 6000)
    assert orders[:50].tolist() == option_orders(Text("p", "t"), 50).tolist()
    assert orders[:50].tolist() != option_orders(Text("p", "u"), 50).tolist()
    assert orders[:50].tolist() != option_orders(Text("pt", ""), 50).tolist()
    assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
    for option in range(3):
        assert np.bincount(orders[:, option]).min() > 1850  # 2000 expected, 4 sigma off


def test_orders_are_the_same_in_every_version_of_python() -> None:
    # An emoji that some versions take for printable, and a lone surrogate.
    assert option_orders(Text("\U0001fae9", "\ud800"), 4).tolist() == [
        [0, 2, 1], [0, 2, 1], [1, 0, 2], [1, 0, 2],
    ]  # fmt: skip


def test_levels() -> None:
    orders = np.array([[0, 1, 2], [2, 0, 1], [1, 2, 0], [0, 1, 2], [0, 1, 2], [0, 1, 2]])
    probabilities = np.array(
        [[0.6, 0.3, 0.1], [0.2, 0.7, 0.1], [0.9, 0.1, 0], [0.45, 0.4, 0.15], [0.5, 0.5, 0], [0, 0, 0]]
    )
    assert levels_of(probabilities, orders, 0.5).tolist() == [1, 1, -1, 0, 0, 0]
    assert levels_of(probabilities, orders, 0.4).tolist() == [1, 1, -1, 1, 0, 0]
    assert levels_of(probabilities, orders, 0.0).tolist() == [1, 1, -1, 1, 0, 0]


def test_texts_are_asked_about_once() -> None:
    one = example(0, [("p", "c", None), ("p", "c", None)], [("q", "a", "b", None)], "somebody")
    two = example(1, [("p", "c", None), ("p", "known", direction(1, 0, 0, 0))], [("q", "b", "a", None)], "somebody")
    texts = [Text("p", "c"), Text("q", "a"), Text("q", "b"), Text("", "somebody")]
    assert texts_of([one, two], rejudge=False) == texts
    assert texts_of([one, two]) == [*texts, Text("p", "known")]
    assert texts_of([one], ("pair",)) == texts[1:3]


def test_directions_of_a_persona() -> None:
    one = example(
        0,
        [("p", "Young and Orderly", None), ("p", "Young", None)],
        [("q", "Young, Likes music", "Older, Likes music", None), ("q", "just so", "Orderly", None)],
        "Young and Messy",
    )
    annotator = FakeAnnotator()
    levels, _ = judge_texts(texts_of([one]), SPACE, annotator)
    found = infer_directions(one, SPACE, levels)
    assert [part.tolist() for part in found.ugc if part is not None] == [[1, 1, 0, 0], [1, 0, 0, 0]]
    # What both replies say tells nothing; what only the rejected one says tells the contrary.
    assert [part.tolist() for part in found.pair if part is not None] == [[1, 0, 0, 0], [0, -1, 0, 0]]
    assert found.portrait is not None and found.portrait.tolist() == [1, -1, 0, 0]
    # Means of 0.9, 0.4, 0.5, 0.5; neither threshold is passed by 0.4.
    assert found.direction.tolist() == [1, 0, 0, 0]
    assert found.judged == 5
    assert infer_directions(example(1), SPACE, levels).direction.tolist() == [0, 0, 0, 0]


def test_failed_texts_are_left_out_and_reported() -> None:
    one = example(0, [("p", "Young BAD", None), ("p", "Messy", None)], [("q", "BAD", "Older", None)])
    levels, failures = judge_texts(texts_of([one]), SPACE, FakeAnnotator(fails="BAD"))
    found = infer_directions(one, SPACE, levels)
    assert found.ugc[0] is None and found.pair == (None,) and found.direction.tolist() == [0, -1, 0, 0]
    assert [failure.detail for failure in failures] == ["too long"] * 2


def test_a_journal_resumes(tmp_path: Path) -> None:
    texts = [Text("p", f"{'Young' if number % 2 else 'Messy'} {number}") for number in range(9)]
    whole, _ = judge_texts(texts, SPACE, FakeAnnotator())
    seen: list[tuple[str, int, int]] = []
    for first, asked in (("Young 3", 7), ("\0", 2), ("\0", 0)):
        # What fails the first time is asked again, the rest is not.
        annotator = FakeAnnotator(fails=first if asked == 7 else "\0")
        with Journal(tmp_path / "journal") as journal:
            some = texts[:7] if asked == 7 else texts
            levels, _ = judge_texts(some, SPACE, annotator, None, 0.5, journal, lambda *at: seen.append(at))
        assert len(annotator.questionnaires) == (3 if asked == 2 else asked)
    assert {text: each.tolist() for text, each in levels.items()} == {
        text: each.tolist() for text, each in whole.items()
    }
    assert seen[-1] == ("texts", 9, 9)
    annotator = FakeAnnotator()
    with Journal(tmp_path / "journal") as journal:
        judge_texts(texts, SPACE, annotator, [0, 2], 0.5, journal)
        assert len(annotator.questionnaires) == 9  # other questions are other answers
        judge_texts(texts, SPACE, annotator, [0, 2], 0.99, journal)
        assert len(annotator.questionnaires) == 9


def test_only_some_dimensions() -> None:
    asked = chosen_dimensions(SPACE, ["music", "age"])
    assert asked == [0, 2] and chosen_dimensions(SPACE, None) is None
    text = Text("p", "Older, Messy, Likes music")
    annotator = FakeAnnotator()
    levels, _ = judge_texts([text], SPACE, annotator, asked)
    assert levels[text].tolist() == [-1, 0, 1, 0] and len(annotator.questionnaires[0].questions) == 2
    with pytest.raises(UsageError, match="no dimension 'musik'"):
        chosen_dimensions(SPACE, ["musik"])


# Files


@pytest.fixture
def dataset(tmp_path: Path) -> Iterator[EvalData]:
    (tmp_path / "space.yaml").write_text(SPACE.to_yaml())
    rows: list[dict[str, Any]] = [
        {
            "prompt": f"Post {number}",
            "chosen": "a",
            "rejected": "b",
            "User-Generated Content": [{"prompt": "p", "comment": f"Young {number}"}],
            "Pair-wise Comparative Feedback": [{"prompt": "q", "chosen": "Messy", "rejected": "Orderly"}],
        }
        for number in range(5)
    ]
    rows.append({"prompt": "Post", "chosen": "a", "rejected": "b"})
    (tmp_path / "data.json").write_text(json.dumps(rows))
    yield EvalData(path=str(tmp_path / "data.json"), space=str(tmp_path / "space.yaml"))


def test_a_file_of_directions_by_an_endpoint(dataset: EvalData, tmp_path: Path) -> None:
    broken = True

    def answer(body: dict[str, Any], before: int) -> web.Response:
        return refused(400, "bad") if broken and "Young 3" in body["prompt"][0] else completed(body)

    with EndpointStub(answer) as stub:
        annotator = RemoteModel(kind="endpoint", endpoint=stub.endpoint())
        config = InferConfig(output=str(tmp_path / "out.parquet"), data=dataset, annotator=annotator)
        summary = infer_file(config)
        assert (summary.examples, summary.texts, summary.failed_texts, summary.unjudged) == (6, 7, 1, 1)
        assert summary.first_failure == "HTTP 400: bad"
        broken, before = False, len(stub.bodies)
        summary = infer_file(config)
        assert (summary.failed_texts, summary.first_failure, len(stub.bodies) - before) == (0, None, 1)
    joined = load(dataset.model_copy(update={"directions": (str(tmp_path / "out.parquet"),)}), "test").examples
    # Two parts each: (1 + 0.5) / 2 and (0 + 0.5) / 2.
    assert [one.direction.tolist() for one in joined if one.direction is not None] == [[1, -1, 0, 0]] * 5 + [[0] * 4]


def test_a_file_of_directions_by_a_local_model(dataset: EvalData, tmp_path: Path) -> None:
    annotator = LocalModel(kind="local", name=save_tiny(tmp_path / "model"), dtype="float32")
    config = InferConfig(output=str(tmp_path / "out.jsonl"), data=dataset, annotator=annotator, dimensions=("age",))
    summary = infer_file(config)
    assert (summary.examples, summary.failed_texts) == (6, 0)
    rows = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [str(number) for number in range(6)]
    assert all(row["Preference Direction"][1:] == [0.5] * 3 for row in rows)
    first = (tmp_path / "out.jsonl").read_bytes()
    infer_file(config)
    assert (tmp_path / "out.jsonl").read_bytes() == first


def test_files_that_cannot_be(dataset: EvalData, tmp_path: Path) -> None:
    annotator = LocalModel(kind="local", name="nowhere")
    with pytest.raises(UsageError, match=r"must end in \.jsonl or \.parquet"):
        infer_file(InferConfig(output=str(tmp_path / "out.txt"), data=dataset, annotator=annotator))
    bare = dataset.model_copy(update={"space": None})
    with pytest.raises(UsageError, match=r"data\.space"):
        infer_file(InferConfig(output=str(tmp_path / "out.jsonl"), data=bare, annotator=annotator))
    for name, content in (("data.jsonl", b'{"prompt": "Hello"}\n'), ("data.parquet", b"PAR1")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match=rf"{name} is not a file of inferred directions.*name another output"):
            infer_file(InferConfig(output=str(tmp_path / name), data=dataset, annotator=annotator))
        assert (tmp_path / name).read_bytes() == content
