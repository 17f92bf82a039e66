"""Rendering of personas and posts as conversations, cut to a length in tokens."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from importlib import resources
from typing import Any

import jinja2

from everyuser_train.config import Method
from everyuser_train.personas import Persona
from prompts.control_tokens import defuse_tokens
from prompts.sandbox import PromptEnvironment, join_output

Message = dict[str, str]
"""One turn: its `role` and its `content`."""


def messages(method: Method, post: str, persona: Persona, clean: Callable[[Any], Any] = defuse_tokens) -> list[Message]:
    """Return the prompt: a system turn and a user turn. Missing parts of the persona have no section.

    ICA shows history and portrait, PBA the profile. Without them, both give the same plain prompt.

    Args:
        method: ICA or PBA.
        post: The post to reply to.
        persona: The parts to show.
        clean: Applied to every text of the dataset, to break up the control tokens of chat templates.
    """
    inputs: dict[str, object]
    if method == "ica":
        ugc = [{"prompt": item.prompt, "comment": item.comment} for item in persona.ugc]
        pair = [{"prompt": i.prompt, "chosen": i.chosen, "rejected": i.rejected} for i in persona.pair]
        inputs = {"post": post, "ugc": ugc, "pair": pair, "portrait": persona.portrait}
    else:
        inputs = {"post": post, "profile": persona.profile}
    template = _template(method, clean)
    return [{"role": role, "content": _render(template, role, inputs)} for role in ("system", "user")]


def prompt_for(tokenizer: Any, method: Method, post: str, persona: Persona) -> list[Message]:
    """Return `messages` without the tokenizer's special tokens; one turn where its chat template has no system turn."""
    turns = messages(method, post, persona, cleaner(tokenizer))
    if _has_system_turn(tokenizer):
        return turns
    return [{"role": "user", "content": "\n\n".join(turn["content"] for turn in turns)}]


def preference(
    prompt: list[Message], chosen: str, rejected: str, clean: Callable[[Any], Any] = defuse_tokens
) -> dict[str, list[Message]]:
    """Return a preference in TRL's conversational format. The prompt comes from `messages` or `fit_prompt`."""
    return {"prompt": prompt, "chosen": [_reply(clean(chosen))], "rejected": [_reply(clean(rejected))]}


def fit_prompt(
    tokenizer: Any, method: Method, post: str, persona: Persona, responses: Sequence[str], max_length: int
) -> list[Message] | None:
    """Return `prompt_for` with as much of the persona as fits.

    History items are cut first: the last pair, the last comment, and so on; then the portrait. The post, the responses
    and the profile are never cut. Tokens are counted with the tokenizer's chat template.

    Args:
        tokenizer: Counts tokens.
        method: ICA or PBA.
        post: The post to reply to.
        persona: The parts to show.
        responses: At least one; the longest must fit.
        max_length: Most tokens of the prompt and a response.

    Returns:
        The prompt, or None if it does not fit without the persona.
    """

    def length(prompt: list[Message], response: str) -> int:
        # TRL's DPO counts the same way: the whole conversation, without a generation prompt.
        return len(tokenizer.apply_chat_template([*prompt, _reply(response)], tokenize=True, return_dict=False))

    clean = cleaner(tokenizer)
    whole = prompt_for(tokenizer, method, post, persona)
    responses = [clean(response) for response in responses]
    lengths = [length(whole, response) for response in responses]
    longest = responses[lengths.index(max(lengths))]
    if max(lengths) <= max_length:
        return whole
    if method == "pba":
        return None
    shorter = [prompt_for(tokenizer, method, post, cut) for cut in _cuts(persona)]
    first = bisect.bisect_left(shorter, True, key=lambda prompt: length(prompt, longest) <= max_length)
    return shorter[first] if first < len(shorter) else None


@lru_cache(maxsize=4)
def cleaner(tokenizer: Any) -> Callable[[Any], Any]:
    """Return `defuse_tokens`, extended to the tokenizer's special tokens of other shapes."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    odd = sorted((token for token in special if defuse_tokens(token) == token and len(token.strip()) > 1), key=len)
    if not odd:
        return defuse_tokens
    pattern = re.compile("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in odd))

    def clean(value: Any) -> Any:
        return pattern.sub(r"\g<0> ", defuse_tokens(value)) if isinstance(value, str) else value

    return clean


@lru_cache(maxsize=4)
def _has_system_turn(tokenizer: Any) -> bool:
    """Return False for a chat template that refuses system turns, as Gemma's does, or leaves them out."""
    mark = "everyuser-system"
    turns = [{"role": "system", "content": mark}, {"role": "user", "content": "post"}]
    try:
        return mark in tokenizer.apply_chat_template(turns, tokenize=False)
    except jinja2.TemplateError:
        return False


def _cuts(persona: Persona) -> list[Persona]:
    """Return the persona with one part less, two parts less, down to none."""
    ugc, pair = persona.ugc, persona.pair
    cuts: list[Persona] = []
    while ugc or pair:
        # While both kinds are left, pairs and comments are cut in turn.
        if pair and (len(cuts) % 2 == 0 or not ugc):
            pair = pair[:-1]
        else:
            ugc = ugc[:-1]
        cuts.append(persona._replace(ugc=ugc, pair=pair))
    if persona.portrait:
        cuts.append(persona._replace(ugc=(), pair=(), portrait=""))
    return cuts


def _reply(text: str) -> Message:
    return {"role": "assistant", "content": text}


@cache
def _template(method: Method, clean: Callable[[Any], Any]) -> jinja2.Template:
    environment = PromptEnvironment(clean)
    source = resources.files("everyuser_train").joinpath("templates", f"{method}.j2").read_text("utf-8")
    return environment.from_string(environment.restrict(environment.parse(source)))


def _render(template: jinja2.Template, block: str, inputs: Mapping[str, object]) -> str:
    context = template.new_context(dict(inputs))
    return join_output(template.blocks[block](context), context).strip()
