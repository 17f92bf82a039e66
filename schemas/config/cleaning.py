"""Section `cleaning`: what is removed from a model's raw text before the rules judge it."""

from __future__ import annotations

from pydantic import Field

from schemas.base import Record
from schemas.config.fields import Share


class CleaningConfig(Record):
    """Steps that make a reply or a portrait of a model's raw text. Space around the text is always removed."""

    reasoning: bool = Field(
        True,
        description="Remove the model's thinking: everything before a closing mark such as `</think>` or `[/THINK]`, "
        "and everything after an opening one.",
    )
    wrapping: bool = Field(
        True,
        description="Remove quotation marks, code fences, emphasis and `<reply>` tags that enclose the whole text.",
    )
    lead_in: bool = Field(
        True,
        description='Remove a phrase before the reply that announces it: "Sure! Here is a short reply:", "**Reply:**". '
        "Known in English, German, French, Spanish, Italian, Portuguese, Dutch, Polish, Russian, Chinese and Japanese.",
    )
    speaker: bool = Field(
        True,
        description='Remove a speaker before the reply: a role ("Assistant:", "Me:"), a handle with a digit or `_` '
        '("User123:"), or a common given name ("Anna:"). "Warning:" and "Edit:" stay.',
    )
    postscript: bool = Field(
        True,
        description='Remove lines after the reply that are about it, and what follows them: "This reply reflects '
        '...", "Word count: 40".',
    )
    sign_off: bool = Field(
        True,
        description='Remove a letter\'s end: "Best regards, Anna", "- A friend", "[Your Name]". "Good luck!" stays.',
    )
    cut_at_sentence: bool = Field(
        True, description="End a reply that `generation.max_tokens` cut off at its last whole sentence."
    )
    min_cut_share: Share = Field(
        0.5,
        description="Smallest share of a cut reply's characters that `cut_at_sentence` must leave. Otherwise the reply "
        "is rejected as unfinished.",
    )
