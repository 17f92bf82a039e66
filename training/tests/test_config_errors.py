from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from pydantic import BaseModel

from everyuser_train.config import EvaluateConfig, FitConfig
from everyuser_train.infer import InferConfig
from everyuser_train.judge import JudgeConfig
from schemas.base import UsageError
from schemas.loader import validate

ENDPOINT = {"base_url": "http://host/v1", "model": "m"}
REMOTE = {"kind": "endpoint", "endpoint": ENDPOINT}
FIT = {
    "output": "o",
    "data": {"path": "d"},
    "persona": {"method": "ica"},
    "model": {"name": "m"},
    "training": {"beta": 0.1},
}
EVALUATE = {"model": "m", "data": {"path": "d"}, "method": "ica"}
DOCUMENTS: list[tuple[type[BaseModel], dict[str, Any]]] = [
    (FitConfig, FIT),
    (EvaluateConfig, EVALUATE),
    (InferConfig, {"output": "o", "data": {"path": "d"}, "annotator": {"kind": "local", "name": "m"}}),
    (InferConfig, {"output": "o", "data": {"path": "d"}, "annotator": REMOTE}),
    (JudgeConfig, EVALUATE | {"output": "o", "judge": ENDPOINT}),
]
WRONG: list[Any] = [
    None,
    True,
    5,
    -5,
    1.5,
    1e15,
    float("nan"),
    "",
    "no such! ^value$",
    [],
    [None],
    [[]],
    {},
    {"a": None},
]
# What pydantic says, and regular expressions.
FOREIGN = re.compile(
    r"Input |should|valid |discriminator|Field required|permitted|Extra|Value error|pattern|tuple|\^\[|\]\$"
)


def refused(model: type[BaseModel], document: dict[str, Any]) -> str | None:
    try:
        validate(model, document, "run.yaml")
    except UsageError as error:
        return str(error)
    return None


def places(document: dict[str, Any], model: type[BaseModel]) -> list[tuple[str, ...]]:
    """The keys of a model, and those within the sections that the document has."""
    found: list[tuple[str, ...]] = [(key,) for key in (*model.model_fields, *document)]
    for key, value in document.items():
        if isinstance(value, dict):
            found += [(key, *inner) for inner in places(value, BaseModel)]
    return list(dict.fromkeys(found))


@pytest.mark.parametrize(("model", "document"), DOCUMENTS)
def test_wrong_values_are_named_in_plain_words(model: type[BaseModel], document: dict[str, Any]) -> None:
    assert refused(model, document) is None
    for place in places(document, model):
        messages = []
        for value in WRONG:
            changed = copy.deepcopy(document)
            inner = changed
            for part in place[:-1]:
                inner = inner[part]
            inner[place[-1]] = value
            message = refused(model, changed)
            if message is not None:
                messages.append(message)
                assert f"'{'.'.join(place)}" in message, (value, message)
                assert not FOREIGN.search(message.replace("no such! ^value$", "")), message
        assert messages, f"{place}: everything fits"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": {"name": "m", "lora_targets": ["q", 5]}}, "'model.lora_targets.1' is 5; expected a text"),
        (
            {"model": {"name": "m", "lora_targets": 5}},
            "'model.lora_targets' is 5; expected a list of texts or 'all-linear'",
        ),
        (
            {"persona": {"method": "icaa"}},
            "'persona.method' is the text \"icaa\"; expected 'ica' or 'pba'; did you mean 'ica'?",
        ),
        # The trainer would take 1 for a number of steps.
        (
            {"training": {"warmup_ratio": 1}},
            "'training.warmup_ratio' is 1; expected a number of at least 0 and below 1",
        ),
        ({"training": {"bta": 1}}, "unknown key 'training.bta'; did you mean 'beta'?"),
    ],
)
def test_words(changes: dict[str, Any], said: str) -> None:
    assert refused(FitConfig, FIT | changes) == f"run.yaml: {said}"


def test_a_key_in_place_of_its_variable_is_not_repeated() -> None:
    message = refused(JudgeConfig, EVALUATE | {"output": "o", "judge": ENDPOINT | {"api_key_env": "sk-Ab12"}})

    assert message is not None
    assert "'judge.api_key_env'" in message and "sk-Ab12" not in message
