from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from schemas.documents import MAX_BYTES, parse_yaml, read_yaml, write_yaml

LAUGHS = "a0: &a0 x\n" + "".join(f"a{k}: &a{k} [{', '.join([f'*a{k - 1}'] * 10)}]\n" for k in range(1, 12))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{k}: &a{k} {{<<: [{', '.join([f'*a{k - 1}'] * 10)}]}}\n" for k in range(1, 12))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: 1\nb: [x, 2.5, true, null]\n", {"a": 1, "b": ["x", 2.5, True, None]}),
        ("a: &x {b: 1}\nc: *x\nd: {<<: *x, e: 2}\n", {"a": {"b": 1}, "c": {"b": 1}, "d": {"b": 1, "e": 2}}),
        ("5e-7", 5e-7),
        ("1e3", 1000.0),
        ("-2.5E+3", -2500.0),
        ("[0, -0, -7, 0.5, -12.25, 90]", [0, 0, -7, 0.5, -12.25, 90]),
        *(
            (text, text)
            for text in ("010", "1:30", "1_0", "0x10", "0o7", "0b1", "+1", ".5", "5.", ".inf", "-.inf", ".nan")
        ),
        *((text, text) for text in ("1_0.5", "1:30.5", "00", "01.5")),
        ("2024-01-01", "2024-01-01"),
        ("2024-01-01 10:00:00", "2024-01-01 10:00:00"),
        ("''", ""),
        ("", None),
        ("é: \U0001f600", {"é": "\U0001f600"}),
    ],
)
def test_a_document_is_what_json_has(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: [x\n", "line 3, column 1: did not find expected ',' or ']'"),
        ("a: 1\na: 2\n", "line 2, column 1: key 'a' is given twice"),
        ("{[a]: 1}", "line 1, column 2: a key is not a text"),
        ("a: !!binary aGk=", "could not determine a constructor for the tag 'tag:yaml.org,2002:binary'"),
        ("a: !!set {x}", "could not determine a constructor for the tag 'tag:yaml.org,2002:set'"),
        ("a: !!timestamp 2024-01-01", "could not determine a constructor"),
        ("!!python/object/apply:os.system [true]", "could not determine a constructor"),
        ("a: *b", "line 1: alias '*b' has no anchor before it"),
        ("a: &b [*b]", "line 1: alias '*b' has no anchor before it"),
        ("a: \x00", "control characters are not allowed"),
        ("a: \udcff", "is not UTF-8 text"),
        ("a: " + "9" * 5000, "holds a number with too many digits"),
        ("a: 1\n---\nb: 2\n", "but found another document"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r"^[^\n]+$") as caught:
        parse_yaml(text)

    assert message in str(caught.value)
    assert "<unicode string>" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (LAUGHS, "holds more than 10000000 values and characters, aliases counted in full"),
        (MERGES, "holds more than 10000000 values and characters, aliases counted in full"),
        ("a: &a " + "x" * 100_000 + "\nb: [" + "*a, " * 1000 + "]", "aliases counted in full"),
        ("[" * 100_000, "line 1: holds more than 64 nested lists or maps"),
        ("{a: " * 100_000, "line 1: holds more than 64 nested lists or maps"),
        ("- " * 100_000, "line 1: holds more than 64 nested lists or maps"),
        ("\n".join(" " * k + "a:" for k in range(1000)), "holds more than 64 nested lists or maps"),
    ],
)
def test_a_bomb_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        parse_yaml(text)


def test_what_is_written_is_read_back() -> None:
    value = {"numbers": [0, -7, 0.5, 5e-7, 1e300, 1e16], "texts": ["010", "1:30", "5e-7", "7", "-0.5", "1_0", ".inf"]}

    assert parse_yaml(write_yaml(value)) == value


def test_many_keys_take_linear_time() -> None:
    text = "".join(f"k{k}: {k}\n" for k in range(50_000))

    start = time.process_time()
    assert len(parse_yaml(text)) == 50_000
    assert time.process_time() - start < 10


def test_a_file_is_read_within_a_bound(tmp_path: Path) -> None:
    path = tmp_path / "large.yaml"
    path.write_text("a: 1\n" + "#" * MAX_BYTES)

    with pytest.raises(ValueError, match=f"is larger than {MAX_BYTES} bytes"):
        read_yaml(path)
    with pytest.raises(ValueError, match="is larger than"):
        read_yaml(Path("/dev/zero"))
