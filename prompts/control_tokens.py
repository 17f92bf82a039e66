"""Texts of others in prompts: what a tokenizer would read as a control token of its chat template is broken up."""

from __future__ import annotations

import re
from typing import Any

_HTML = (
    "a|b|blockquote|body|br|code|dd|del|div|dl|dt|em|h[1-6]|head|hr|html|i|img|ins|kbd|li|ol|p|pre|q|span|strong|sub|sup"
    "|table|tbody|td|th|thead|tr|u|ul"
)
"""Tags of posts that no tokenizer makes a token of."""
_TOKEN = re.compile(
    # Tags without a space: <|im_start|>, </s>, <start_of_turn>, <<SYS>>; those of DeepSeek have wide bars.
    rf"<(?=[^<>\s]{{1,64}}>)(?!/?(?:{_HTML})/?>)"
    # Words with capital letters in brackets: [INST], [/INST], [gMASK]; and EXAONE's [|user|].
    r"|\[(?=(?:/?[a-z]{0,8}[A-Z_]{2,32}[0-9]{0,3}|\|[a-z]{1,32}\|)\])"
    # MiniMax's.
    r"|[\[\]](?=~!?b[\[\]]|e~\[)"
)
"""The first character of each shape that special tokens have. A special token of a single word would be a word."""


def defuse_tokens(value: Any) -> Any:
    """Return a text with a space in each control token, `< |im_start|>`; anything else as it is.

    It reads as before, and to no tokenizer is it the token. Code in angle brackets gets the space too.
    """
    if isinstance(value, str) and any(bracket in value for bracket in "<[]"):
        return _TOKEN.sub(r"\g<0> ", value)
    return value
