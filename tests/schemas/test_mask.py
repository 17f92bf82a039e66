from __future__ import annotations

import html
import json
import urllib.parse

import pytest

from schemas.mask import Mask

KEY = 'sk-proj/Ab9_"x+z=&y'


def in_code_points(text: str) -> str:
    return "".join(f"\\u{ord(char):04X}" for char in text)


@pytest.mark.parametrize(
    "written",
    [
        KEY,
        json.dumps(KEY)[1:-1],
        json.dumps(json.dumps(KEY))[3:-3],
        json.dumps(KEY)[1:-1].replace("/", "\\/"),
        in_code_points(KEY),
        json.dumps(in_code_points(KEY).lower())[1:-1],
        urllib.parse.quote(KEY),
        urllib.parse.quote(KEY, safe=""),
        urllib.parse.quote(urllib.parse.quote(KEY, safe=""), safe=""),
        "".join(f"%{ord(char):02x}" for char in KEY),
        html.escape(KEY),
        html.escape(html.escape(KEY)),
        "".join(f"&#{ord(char)};" for char in KEY),
        "".join(f"&#x{ord(char):X};" for char in KEY),
    ],
)
def test_a_key_is_masked_however_it_is_written(written: str) -> None:
    assert Mask(KEY)(f"The key '{written}' is no good.".encode()) == b"The key '***' is no good."
    assert Mask(KEY).text(f"line one\nthe key {written}") == "line one the key ***"


@pytest.mark.parametrize("text", ["", "sk-proj", "A reply about bread & butter, 100%.", KEY[:-1], '{"a": "\\u00e4"}'])
def test_all_else_stays(text: str) -> None:
    assert Mask(KEY)(text.encode()) == text.encode()


@pytest.mark.parametrize("key", ["", "x", "none", "EMPTY"])
def test_a_word_in_the_place_of_a_key_is_no_secret(key: str) -> None:
    assert Mask(key)(b"My glass is EMPTY, none is left, x.") == b"My glass is EMPTY, none is left, x."


def test_an_answer_stays_json() -> None:
    body = {"choices": [{"message": {"content": f'Your "key"\n is \\{KEY}\\ and {KEY}.'}}]}

    masked = json.loads(Mask(KEY)(json.dumps(body).encode()))

    assert masked["choices"][0]["message"]["content"] == 'Your "key"\n is \\***\\ and ***.'
