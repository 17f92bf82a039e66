"""Personas and posts as conversations, and how a conversation is made to fit."""

from __future__ import annotations

import bisect
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any

import jinja2
from jinja2.runtime import LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from everyuser_train.neutral import neutral
from everyuser_train.personas import Method, Persona

Message = dict[str, str]
"""One turn: its `role` and its `content`."""


def messages(method: Method, post: str, persona: Persona, clean: Callable[[Any], Any] = neutral) -> list[Message]:
    """The prompt: a system turn and a user turn. What the persona lacks has no section.

    ICA shows history and portrait, PBA the profile. With none of it, both give the same plain prompt. `clean` is
    applied to all that is shown: it breaks up the control tokens of chat templates.
    """
    inputs: dict[str, object]
    if method == "ica":
        ugc = [{"prompt": item.prompt, "comment": item.comment} for item in persona.ugc]
        pair = [{"prompt": i.prompt, "chosen": i.chosen, "rejected": i.rejected} for i in persona.pair]
        inputs = {"post": post, "ugc": ugc, "pair": pair, "portrait": persona.portrait}
    else:
        inputs = {"post": post, "profile": persona.profile}
    template = _template(method, clean)
    return [{"role": role, "content": _block(template, role, inputs)} for role in ("system", "user")]


def preference(
    prompt: list[Message], chosen: str, rejected: str, clean: Callable[[Any], Any] = neutral
) -> dict[str, list[Message]]:
    """A preference in TRL's conversational format, its prompt from `messages` or `fit`."""
    return {"prompt": prompt, "chosen": [_reply(clean(chosen))], "rejected": [_reply(clean(rejected))]}


def fit(
    tokenizer: Any, method: Method, post: str, persona: Persona, responses: Sequence[str], max_length: int
) -> list[Message] | None:
    """`messages` with as much of the persona as leaves room for the longest response in `max_length` tokens.

    History items go first: the last pair, the last comment, and so on; then the portrait. The post, the responses (at
    least one) and the profile are never cut: None if they do not fit alone. Tokens are counted by the tokenizer's own
    chat template.
    """

    def length(prompt: list[Message], response: str) -> int:
        # As TRL's DPO counts: the whole conversation, without a generation prompt.
        return len(tokenizer.apply_chat_template([*prompt, _reply(response)], tokenize=True, return_dict=False))

    clean = cleaner(tokenizer)
    whole = messages(method, post, persona, clean)
    responses = [clean(response) for response in responses]
    lengths = [length(whole, response) for response in responses]
    longest = responses[lengths.index(max(lengths))]
    if max(lengths) <= max_length:
        return whole
    if method == "pba":
        return None
    shorter = [messages(method, post, cut, clean) for cut in _cuts(persona)]
    first = bisect.bisect_left(shorter, True, key=lambda prompt: length(prompt, longest) <= max_length)
    return shorter[first] if first < len(shorter) else None


@lru_cache(maxsize=4)
def cleaner(tokenizer: Any) -> Callable[[Any], Any]:
    """Return `neutral`, which also breaks up the tokenizer's own special tokens, whatever their shape."""
    special = {str(token) for token in tokenizer.added_tokens_decoder.values() if token.special}
    odd = sorted((token for token in special if neutral(token) == token and len(token.strip()) > 1), key=len)
    if not odd:
        return neutral
    pattern = re.compile("|".join(f"{re.escape(token[0])}(?={re.escape(token[1:])})" for token in odd))

    def clean(value: Any) -> Any:
        return pattern.sub(r"\g<0> ", neutral(value)) if isinstance(value, str) else value

    return clean


def _cuts(persona: Persona) -> list[Persona]:
    """The persona with one part less, then two parts, down to none: items of both kinds in turn, then the portrait."""
    ugc, pair = persona.ugc, persona.pair
    cuts: list[Persona] = []
    while ugc or pair:
        # After an even number of cuts a pair goes, after an odd one a comment, while there are both.
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


class PromptEnvironment(ImmutableSandboxedEnvironment):
    """Renders templates that see plain data alone: of a map its values, of a loop its number, and no attribute else."""

    def __init__(self, clean: Callable[[Any], Any] = neutral) -> None:
        """`clean` is applied to all that is printed, but for the template's own text."""
        super().__init__(
            loader=jinja2.PackageLoader("everyuser_train"),
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            autoescape=False,
            finalize=clean,
        )
        for reach in (self.globals, self.filters, self.tests):
            reach.clear()

    def getattr(self, obj: Any, attribute: str) -> Any:
        """A map's value or a loop's number."""
        if type(obj) is dict and attribute in obj:
            return obj[attribute]
        if isinstance(obj, LoopContext) and attribute == "index":
            return obj.index
        if isinstance(obj, Undefined):
            str(obj)  # Raises, and names what was looked for at first.
        return self.undefined(obj=obj, name=attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """The same: no template takes an item of a list by its number."""
        return self.getattr(obj, argument)


@cache
def _template(method: Method, clean: Callable[[Any], Any]) -> jinja2.Template:
    return PromptEnvironment(clean).get_template(f"{method}.j2")


def _block(template: jinja2.Template, name: str, inputs: Mapping[str, object]) -> str:
    return "".join(template.blocks[name](template.new_context(dict(inputs)))).strip()
