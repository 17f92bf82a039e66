"""Control tokens in foreign texts: a space breaks what a tokenizer would read as a token of its chat template."""

from __future__ import annotations

import re
from typing import Any

_HTML = (
    "a|b|blockquote|body|br|code|dd|del|div|dl|dt|em|h[1-6]|head|hr|html|i|img|ins|kbd|li|ol|p|pre|q|span|strong|sub|sup"
    "|table|tbody|td|th|thead|tr|u|ul"
)
"""HTML tags, which no tokenizer has as tokens."""
_TOKEN = re.compile(
    # Tags without spaces: <|im_start|>, </s>, <start_of_turn>, <<SYS>>; DeepSeek's have wide bars.
    rf"<(?=[^<>\s]{{1,64}}>)(?!/?(?:{_HTML})/?>)"
    # Words with capital letters in brackets: [INST], [/INST], [gMASK]; also EXAONE's [|user|].
    r"|\[(?=(?:/?[a-z]{0,8}[A-Z_]{2,32}[0-9]{0,3}|\|[a-z]{1,32}\|)\])"
    # MiniMax's.
    r"|[\[\]](?=~!?b[\[\]]|e~\[)"
)
"""The first character of each form of special tokens. A token without brackets looks like a word."""


def defuse_tokens(value: Any) -> Any:
    """Return a text with a space in each control token, such as `< |im_start|>`; other values unchanged.

    The text reads as before, but no tokenizer finds the token. Code in angle brackets gets the space too.
    """
    if isinstance(value, str) and any(bracket in value for bracket in "<[]"):
        return _TOKEN.sub(r"\g<0> ", value)
    return value
