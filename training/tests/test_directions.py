"""Files of inferred directions, and datasets that are read with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from everyuser_train import data, personas, rows
from everyuser_train.config import DataSource, FitConfig
from everyuser_train.directions import Inferred, read_directions, with_directions, write_directions
from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.loader import load_config
from preference_space.direction import Direction
from schemas.base import UsageError
from tests.small import prepare
from tests.spaces import make_space
from tests.tiny import tiny_tokenizer

SPACE = make_space("toy", *((slug, f"{slug}?", f"More {slug}", f"Less {slug}") for slug in ("tea", "order")))


def direction(*levels: int) -> Direction:
    return np.array(levels, dtype=np.int8)


def example(
    number: int, ugc: tuple[UgcItem, ...] = (), pair: tuple[PairItem, ...] = (), portrait: str = "", **more: Any
) -> Example:
    fields = {"direction": None, "profile": None} | more
    return Example(number, str(number), "post", "prompt", "yes", "no", portrait=portrait, ugc=ugc, pair=pair, **fields)


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_they_are_read_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    paths = [tmp_path / "new" / f"{name}{suffix}" for name in ("train", "test")]
    ugc, pair = (UgcItem("p", "c"),) * 2, (PairItem("p", "a", "b"),)
    results = [
        Inferred(direction(1, -1), (direction(1, 0), None), (None,), direction(0, 1)),
        Inferred(direction(0, 0), (), (), None),
    ]
    write_directions(paths[0], [example(0, ugc, pair, "somebody")], results[:1], SPACE)
    write_directions(paths[1], [example(1)], results[1:], SPACE)

    found = read_directions([*map(str, paths)])

    assert repr([found["0"], found["1"]]) == repr(results)


@pytest.mark.parametrize("name", ["nonsense.jsonl", "nonsense.parquet", "other.jsonl", "missing.jsonl"])
def test_another_file_is_refused_by_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "nonsense.jsonl").write_text("nonsense\n")
    (tmp_path / "nonsense.parquet").write_text("nonsense\n")
    (tmp_path / "other.jsonl").write_text('{"id": "0", "prompt": "a post"}\n')
    with pytest.raises(UsageError, match=f"{name} is not a file of inferred directions"):
        read_directions([str(tmp_path / name)])


def test_what_the_data_lack_is_filled_in() -> None:
    bare = example(0, (UgcItem("p", "c"), UgcItem("p", "d")), (PairItem("p", "a", "b"),), "somebody")
    theirs = Inferred(direction(1, 0), (direction(1, 1), None), (direction(0, 1),), direction(-1, 0))

    joined = with_directions(bare, {"0": theirs})

    assert joined.direction is theirs.direction and joined.portrait_direction is theirs.portrait
    assert [item.direction for item in joined.ugc] == [theirs.ugc[0], None]
    assert joined.pair[0].direction is theirs.pair[0]


def test_rejudged_directions_replace_the_data_s_own_and_the_rest_stays() -> None:
    known = direction(-1, -1)
    full = example(0, (UgcItem("p", "c", known),), (PairItem("p", "a", "b", known),), direction=known)

    joined = with_directions(full, {"0": Inferred(direction(1, 1), (direction(1, 1),), (), None)})

    assert joined.direction is known
    assert joined.ugc[0].direction is not None and joined.ugc[0].direction.tolist() == [1, 1]
    assert joined.pair[0].direction is known


def test_directions_of_something_else_are_refused() -> None:
    found = {"0": Inferred(direction(0, 0), (direction(0, 0),), (), None)}
    with pytest.raises(ValueError, match="example 1 has no inferred direction"):
        with_directions(example(1), found)
    with pytest.raises(ValueError, match="example 0 has another history"):
        with_directions(example(0, (UgcItem("p", "c"), UgcItem("p", "d"))), found)


def test_a_portrait_says_what_was_inferred_for_it() -> None:
    theirs = Inferred(direction(1, 1), (), (), direction(-1, 0))
    joined = with_directions(example(0, portrait="somebody"), {"0": theirs})

    persona = personas.evaluation_persona(joined, ("demo",), 4, "pba", "history", SPACE)

    assert persona.profile == "Less tea"


def test_a_user_s_portrait_that_was_not_judged_says_the_user_s_direction() -> None:
    known = example(0, portrait="somebody", portrait_direction=direction(0, -1))

    joined = with_directions(known, {"0": Inferred(direction(1, 1), (), (), None)})

    assert personas.evaluation_persona(joined, ("demo",), 4, "pba", "history", SPACE).profile == "Less order"


def _without_directions(folder: Path) -> FitConfig:
    """PBA on rows that say nothing of directions, and a file that says so for each of them."""
    path = prepare(folder, rows=4)
    bare = json.loads((folder / "data.json").read_bytes())
    for row in bare:
        del row["profile"]
    (folder / "data.json").write_text(json.dumps(bare))
    (folder / "space.yaml").write_text(SPACE.to_yaml())
    examples = data.load(DataSource(path=str(folder / "data.json")), "").examples
    each = [Inferred(direction((-1) ** k, k % 3 - 1), (), (), None) for k in range(len(examples))]
    write_directions(folder / "directions.jsonl", examples, each, SPACE)
    keys = ["persona.method=pba", "training.epochs=1", f"data.space={folder / 'space.yaml'}"]
    return load_config(FitConfig, path, {}, keys)


def test_pba_trains_on_what_was_inferred(tmp_path: Path) -> None:
    config = _without_directions(tmp_path)
    with pytest.raises(UsageError, match="infer the directions first"):
        rows.write_rows(config, tiny_tokenizer(), tmp_path / "none")
    source = config.data.model_copy(update={"directions": (str(tmp_path / "directions.jsonl"),)})

    found = rows.write_rows(config.model_copy(update={"data": source}), tiny_tokenizer(), tmp_path / "rows")

    texts = sorted(row["prompt"][1]["content"] for row in found.train)
    assert sum("More tea" in text for text in texts) == sum("Less tea" in text for text in texts) == 2
    assert [*map(repr, data.stream(source, ""))] == [*map(repr, data.load(source, "").examples)]


def test_directions_of_other_data_name_the_data_and_the_example(tmp_path: Path) -> None:
    config = _without_directions(tmp_path)
    lines = (tmp_path / "directions.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "directions.jsonl").write_text("".join(lines[:2]))
    source = config.data.model_copy(update={"directions": (str(tmp_path / "directions.jsonl"),)})
    with pytest.raises(UsageError, match=r"data\.json: example row-2 has no inferred direction"):
        data.load(source, "")


def test_paths_in_a_file_are_relative_to_it(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    path.write_text(path.read_text().replace("{path: data.json}", "{path: data.json, directions: [a.jsonl, /b.jsonl]}"))
    assert load_config(FitConfig, path, {}).data.directions == (str(tmp_path / "a.jsonl"), "/b.jsonl")
