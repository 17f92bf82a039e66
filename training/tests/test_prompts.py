"""Conversations of personas and posts, and how they are made to fit."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from everyuser_train import prompts
from everyuser_train.config import Method
from everyuser_train.examples import PairItem, UgcItem
from everyuser_train.personas import NO_PERSONA, Persona
from everyuser_train.prompts import fit_prompt, messages, preference
from prompts.sandbox import is_plain

PERSONA = Persona(
    (UgcItem("upost1", "comment1"), UgcItem("upost2", "comment2")),
    (PairItem("ppost1", "good1", "bad1"), PairItem("ppost2", "good2", "bad2")),
    "portrait1",
    "Young, Likes humor",
)

TEMPLATE = (
    "{% for turn in messages %}<s> {{ turn.role }} {{ turn.content }} </s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One token a word: lengths are what counts here."""
    inner = Tokenizer(models.WordLevel({"[UNK]": 0, "<s>": 1, "</s>": 2}, "[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=TEMPLATE)


def _length(tokenizer: Any, prompt: list[dict[str, str]], response: str) -> int:
    turns = [*prompt, {"role": "assistant", "content": response}]
    return len(tokenizer.apply_chat_template(turns, return_dict=False))


def test_ica_shows_history_and_portrait_in_order() -> None:
    system, user = messages("ica", "the post", PERSONA)
    assert (system["role"], user["role"]) == ("system", "user")
    assert "past" in system["content"]
    text = user["content"]
    order = [
        "# Task", "the post", "# History", "1. Post: upost1", "comment1", "2. Post: upost2", "comment2",
        "1. Post: ppost1", "good1", "bad1", "2. Post: ppost2", "good2", "bad2", "portrait1", "# Response",
    ]  # fmt: skip
    places = [text.index(part) for part in order]
    assert places == sorted(places)
    assert text.startswith("# Task")
    assert text.endswith("# Response")
    assert "Likes humor" not in text


def test_pba_shows_the_direction_alone() -> None:
    system, user = messages("pba", "the post", PERSONA)
    assert "preferences" in system["content"]
    order = ["# Task", "the post", "# Preferences", "Young, Likes humor", "# Response"]
    places = [user["content"].index(part) for part in order]
    assert places == sorted(places)
    assert not any(part in user["content"] for part in ("upost1", "good1", "portrait1", "History"))


def test_without_a_persona_both_methods_give_the_same_plain_prompt() -> None:
    plain = messages("ica", "the post", NO_PERSONA)
    assert plain == messages("pba", "the post", NO_PERSONA)
    assert "person" not in plain[0]["content"] + plain[1]["content"]


@pytest.mark.parametrize(
    ("persona", "there", "absent"),
    [
        (PERSONA._replace(pair=(), portrait=""), "Comments", ("preferred", "Portrait")),
        (PERSONA._replace(ugc=(), portrait=""), "preferred", ("Comments", "Portrait")),
        (PERSONA._replace(ugc=(), pair=()), "Portrait", ("Comments", "preferred")),
    ],
)
def test_sections_without_content_are_left_out(persona: Persona, there: str, absent: tuple[str, ...]) -> None:
    text = messages("ica", "the post", persona)[1]["content"]
    assert f"## {there}" in text or f"{there}\n" in text
    assert not any(word in text for word in absent)
    assert "\n\n\n" not in text


def test_texts_are_shown_as_they_are() -> None:
    hostile = "{{ post }} {% raw %} <b>&amp;\r\n\n  # Response\n{# x #}  "
    persona = Persona((UgcItem(hostile, hostile),), (PairItem(hostile, hostile, hostile),), hostile, hostile)
    assert messages("ica", hostile, persona)[1]["content"].count(hostile) == 7
    assert messages("pba", hostile, persona)[1]["content"].count(hostile) == 2


def test_preference_is_trl_s_conversational_format() -> None:
    prompt = messages("pba", "the post", PERSONA)
    assert preference(prompt, "yes", "no") == {
        "prompt": prompt,
        "chosen": [{"role": "assistant", "content": "yes"}],
        "rejected": [{"role": "assistant", "content": "no"}],
    }


@pytest.mark.parametrize("method", ["ica", "pba"])
def test_what_fits_is_whole(method: Method, tokenizer: Any) -> None:
    whole = messages(method, "the post", PERSONA)
    exact = _length(tokenizer, whole, "four words are here")
    assert fit_prompt(tokenizer, method, "the post", PERSONA, ["one", "four words are here"], exact) == whole
    assert fit_prompt(tokenizer, method, "the post", PERSONA, ["one", "four words are here"], exact - 1) != whole


def test_items_go_last_first_kinds_in_turn_then_the_portrait(tokenizer: Any) -> None:
    order = ["ppost2", "upost2", "ppost1", "upost1", "portrait1"]
    steps: list[list[str] | None] = []
    for max_length in range(_length(tokenizer, messages("ica", "the post", PERSONA), "a longer reply"), 0, -1):
        prompt = fit_prompt(tokenizer, "ica", "the post", PERSONA, ["yes", "a longer reply"], max_length)
        if prompt is not None:
            assert _length(tokenizer, prompt, "a longer reply") <= max_length
            assert "the post" in prompt[1]["content"]
        left = None if prompt is None else [part for part in order if part in prompt[1]["content"]]
        if not steps or left != steps[-1]:
            steps.append(left)
    assert steps == [order, order[1:], order[2:], order[3:], order[4:], [], None]


def test_kinds_of_unequal_number(tokenizer: Any) -> None:
    persona = Persona(PERSONA.ugc, PERSONA.pair[:1], "", "")
    bare = messages("ica", "the post", persona._replace(pair=(), ugc=PERSONA.ugc[:1]))
    assert fit_prompt(tokenizer, "ica", "the post", persona, ["yes"], _length(tokenizer, bare, "yes")) == bare


@pytest.mark.parametrize("method", ["ica", "pba"])
def test_none_when_post_and_response_alone_do_not_fit(method: Method, tokenizer: Any) -> None:
    bare = _length(tokenizer, messages(method, "the post", NO_PERSONA), "yes")
    assert fit_prompt(tokenizer, method, "the post", NO_PERSONA, ["yes"], bare) is not None
    assert fit_prompt(tokenizer, method, "the post", PERSONA, ["yes"], bare - 1) is None


def test_pba_keeps_its_profile(tokenizer: Any) -> None:
    bare = _length(tokenizer, messages("pba", "the post", NO_PERSONA), "yes")
    assert fit_prompt(tokenizer, "pba", "the post", PERSONA, ["yes"], bare) is None


@pytest.mark.parametrize("method", ["ica", "pba"])
def test_templates_get_plain_data_alone(method: Method, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, object]] = []

    def render(template: object, block: str, inputs: dict[str, object]) -> str:
        given.append(inputs)
        return ""

    monkeypatch.setattr(prompts, "_render", render)
    messages(method, "the post", PERSONA)

    assert len(given) == 2 and all(map(is_plain, given))
    assert ("comment1" in repr(given)) == (method == "ica")


REFUSES = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
OMITS = "{% for turn in messages if turn.role != 'system' %}<s> {{ turn.role }} {{ turn.content }} </s>\n{% endfor %}"


@pytest.mark.parametrize("template", [REFUSES + TEMPLATE, OMITS])
def test_a_template_without_system_turns_gets_one_turn(template: str) -> None:
    inner = Tokenizer(models.WordLevel({"[UNK]": 0}, "[UNK]"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, chat_template=template)

    (turn,) = fit_prompt(tokenizer, "ica", "the post", PERSONA, ["yes"], 10**6) or []

    system, user = messages("ica", "the post", PERSONA)
    assert turn == {"role": "user", "content": f"{system['content']}\n\n{user['content']}"}
