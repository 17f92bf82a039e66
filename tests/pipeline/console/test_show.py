from __future__ import annotations

import io
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from rich.console import Console

from pipeline.console.show import find_examples, show, show_coverage, show_dimension, show_space
from preference_space.coverage import Coverage
from preference_space.space import Dimension, Pole, PreferenceSpace, load_space
from schemas.base import UsageError
from schemas.terminal import Terminal
from tests.pipeline.helpers import prepared, rows_of, run_build, tiny, write_jsonl
from tests.stub import completion, good_text

UNSEEN = "\u202eevil\u2066 a\u200bb \U000e0041"
HOSTILE = "[bold red]x[/] [/] [link=http://x.y]z[/link] :warning: \x1b[31mred\x1b[0m \x9b2J \x07 \r C:\\ [\\" + UNSEEN
HARMLESS = "[bold red]x[/] [/] [link=http://x.y]z[/link] :warning:"
"""What a terminal may be sent of `HOSTILE`, to the letter, before the first control character."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A build whose posts and replies are full of markup."""
    root = tmp_path_factory.mktemp("hostile")
    posts = write_jsonl(root / "posts.jsonl", ({"title": f"{HARMLESS} {k}", "text": HARMLESS} for k in range(60)))

    async def hostile(request: web.Request, body: dict[str, Any]) -> web.StreamResponse:
        return completion(f"{HARMLESS} {good_text(body)}")

    run_build(root / "out", hostile, seeds={"path": str(posts)}, rules={"copied_ngram": 1000})
    return root / "out"


def console(**keys: Any) -> Console:
    return Console(file=io.StringIO(), width=400, highlight=False, **keys)


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def shown(folder: Path, **keys: Any) -> str:
    """The first example, its texts with what a terminal must not be sent: a dataset of somebody else may hold it."""
    to = console(**keys)
    for space, row in find_examples(folder, None, 1):
        show((space, _hostile(row)), to)
    return printed(to)


def _hostile(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _hostile(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_hostile(inner) for inner in value]
    return value.replace(HARMLESS, HOSTILE) if isinstance(value, str) else value


def controls(text: str) -> set[str]:
    return {character for character in text if ord(character) < 32 or 127 <= ord(character) < 160} - {"\n"}


def ids(folder: Path, example_id: str | None, count: int) -> list[str]:
    return [row["id"] for _, row in find_examples(folder, example_id, count)]


def hostile_space() -> PreferenceSpace:
    pole = Pole(label=f"more {HOSTILE}", description=HOSTILE, hint=HOSTILE)
    dimension = Dimension(
        slug="brevity",
        name=HOSTILE,
        group=HOSTILE,
        source=HOSTILE,
        topical=False,
        question=HOSTILE,
        positive=pole,
        negative=pole.model_copy(update={"label": f"less {HOSTILE}"}),
    )
    return PreferenceSpace(name=HOSTILE, dimensions=(dimension,))


def test_example_is_shown_whole(folder: Path) -> None:
    (_, row), text = next(find_examples(folder, None, 1)), shown(folder)

    for reply in (row["chosen"], row["rejected"]):
        assert reply[reply.index("Reply ") :] in text
    for label in row["profile"].split(", "):
        assert label.split(" (")[0] in text
    assert row["id"] in text
    assert row["Demographic Information"] in text
    for item in row["User-Generated Content"]:
        assert item["comment"][item["comment"].index("Reply ") :] in text
    assert f"supports {row['history_support']:.0%}" in text
    assert "model stub" in text


def test_the_user_of_a_row_is_shown(folder: Path) -> None:
    space, row = next(find_examples(folder, None, 1))
    levels = [1.0, *[0.5] * (len(space) - 1)]
    to = console()
    show((space, row | {"user_id": "f-u1-a", "user_direction": levels}), to)

    assert "user f-u1-a" in printed(to)
    assert space.dimensions[0].positive.label in printed(to)
    assert "user " not in shown(folder)


def test_markup_in_a_dataset_is_shown_to_the_letter(folder: Path) -> None:
    # A post's title and text, both replies, and as much in the history.
    assert shown(folder).count(HARMLESS) == 11


def test_terminal_escapes_in_a_dataset_are_not_passed_on(folder: Path) -> None:
    assert controls(shown(folder)) == set()


def test_what_cannot_be_seen_is_shown_by_its_number(folder: Path) -> None:
    text = shown(folder)

    assert "<U+202E>evil<U+2066> a<U+200B>b <U+E0041>" in text
    assert not set("\u202e\u2066\u200b\U000e0041") & set(text)


def test_colours_on_a_terminal_are_our_own(folder: Path) -> None:
    text = shown(folder, force_terminal=True, color_system="standard")

    assert "\x1b]8;" not in text
    assert "[bold red]x[/]" in text
    assert controls(text) == {"\x1b"}
    assert "\x1b[31mred" not in text


def test_first_examples_are_found_in_the_order_of_the_files(folder: Path) -> None:
    everything = [row["id"] for row in rows_of(folder / "data")]

    assert ids(folder, None, 1) == everything[:1]
    assert ids(folder, None, 30) == everything[:30]
    assert ids(folder, None, 10_000) == everything


def test_example_is_found_by_its_id(folder: Path) -> None:
    last = rows_of(folder / "data")[-1]["id"]

    assert ids(folder, last, 1) == [last]
    assert ids(folder, last, 5) == [last]


def test_unknown_id_is_wrong_usage(folder: Path) -> None:
    with pytest.raises(UsageError, match="has no example with id 'nothing'"):
        ids(folder, "nothing", 1)


def test_folder_without_a_build_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="holds no build"):
        ids(tmp_path, None, 1)


def test_build_without_a_finished_shard_is_wrong_usage(tmp_path: Path) -> None:
    prepared(tmp_path, tiny())

    with pytest.raises(UsageError, match="holds no finished shard"):
        ids(tmp_path, None, 1)


def test_folder_with_somebody_elses_parquet_is_wrong_usage(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    shard = next((folder / "data").glob("*.parquet"))
    (tmp_path / "data" / shard.name).write_bytes(shard.read_bytes())

    with pytest.raises(UsageError, match="holds no build"):
        ids(tmp_path, None, 1)


def test_space_is_shown_as_a_table() -> None:
    to, space = console(), load_space("alignx")

    show_space(space, to)

    for dimension in space.dimensions:
        assert dimension.slug in printed(to)
        assert dimension.positive.label in printed(to)
    assert "90 dimensions" in printed(to)


@pytest.mark.parametrize("width", [20, 40, 80, 120])
@pytest.mark.parametrize("is_terminal", [True, False])
def test_no_name_of_a_space_is_cut(width: int, is_terminal: bool) -> None:
    space = load_space("alignx")
    to = Terminal(file=io.StringIO(), width=width, force_terminal=is_terminal, color_system=None)
    coverage = Coverage(space)
    coverage.add(np.zeros((1, len(space)), dtype=np.int8))

    show_space(space, to)
    show_coverage(coverage, to)

    lines = printed(to).splitlines()
    assert "…" not in printed(to)
    if width >= 40 or not is_terminal:
        for dimension in space.dimensions:
            assert sum(line.count(f"│ {dimension.slug} ") for line in lines) >= 2
    if not is_terminal:
        # One line a dimension, with all there is, for `grep`.
        for dimension in space.dimensions:
            assert any(dimension.slug in line and dimension.positive.label in line for line in lines)
    else:
        assert max(map(len, lines[:100])) <= width


def test_hostile_space_is_shown_to_the_letter() -> None:
    to, space = console(), hostile_space()

    show_space(space, to)
    show_dimension(space.dimensions[0], to)

    # The title, two labels and the group; then the name, group, source, question, and three texts of two poles.
    assert printed(to).count(HARMLESS) == 4 + 4 + 6
    assert controls(printed(to)) == set()


def test_coverage_is_shown_with_the_poles_that_were_never_seen() -> None:
    to, coverage = console(), Coverage(hostile_space())
    coverage.add(np.array([[1], [1], [0]], dtype=np.int8))

    show_coverage(coverage, to)

    assert "3 points" in printed(to)
    assert "poles never seen: brevity negative" in printed(to)
    assert "active dimensions a point: 0: 1, 1: 2" in printed(to)


def test_a_link_that_leads_nowhere_is_a_missing_shard(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "out")
    shard = next((tmp_path / "out" / "data").iterdir())
    shard.unlink()
    shard.symlink_to(tmp_path / "nowhere")

    with pytest.raises(UsageError, match=rf"^{shard} is missing; run the same build command again"):
        list(find_examples(tmp_path / "out", "no such id", 1))
