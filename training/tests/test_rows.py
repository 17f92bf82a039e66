from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from everyuser_train import data, personas, prompts
from everyuser_train.config import FitConfig
from everyuser_train.rows import keep_together, order, places, stream_rows, write_rows
from schemas.base import UsageError, UserError
from tests.small import small_config, with_splits
from tests.tiny import TEMPLATE, tiny_tokenizer


def test_an_order_is_a_permutation_of_seed_and_epoch_alone() -> None:
    alone = np.arange(50)
    first = order(1, 0, alone)

    assert sorted(first) == list(range(50))
    np.testing.assert_array_equal(first, order(1, 0, alone))
    assert first.tolist() != order(1, 1, alone).tolist()
    assert first.tolist() != order(2, 0, alone).tolist()


def test_rows_of_a_pair_stay_side_by_side() -> None:
    # Mirror images beside each other, far apart, and rows without one.
    pairs = np.array([*np.repeat(np.arange(0, 40, 2), 2), *range(100, 120), *range(100, 120), *range(200, 210)])
    drawn = [order(seed, 0, pairs) for seed in range(50)]

    for found in drawn:
        assert sorted(found) == list(range(len(pairs)))
        runs = [pair for k, pair in enumerate(pairs[found]) if k == 0 or pairs[found][k - 1] != pair]
        assert len(runs) == len(set(pairs.tolist()))
    # Every pair gets everywhere, and either image comes first.
    assert len({int(found[0]) for found in drawn}) > 20
    ahead = [found.tolist().index(0) < found.tolist().index(1) for found in drawn]
    assert 10 < sum(ahead) < 40


@pytest.mark.parametrize("rows", [1, 5, 10, 17])
def test_places_fill_epoch_after_epoch(rows: int) -> None:
    found = list(islice(places(0, np.arange(5)), rows))

    assert len(found) == rows
    assert [epoch for epoch, _ in found] == [k // 5 for k in range(rows)]
    counts = Counter(example for _, example in found)
    assert max(counts.values()) - min(counts.get(k, 0) for k in range(5)) <= 1


def test_each_epoch_has_personas_of_its_own_and_the_replies_as_they_are(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.epochs=2", rows=8)
    tokenizer = tiny_tokenizer()

    found = write_rows(config, tokenizer, tmp_path / "rows")

    examples = data.load(config.data, "train").examples
    assert len(found.train) == 16
    for row, (epoch, number) in zip(found.train, places(config.seed, np.arange(8)), strict=False):
        example = examples[number]
        persona = personas.draw_persona(example, config.persona, None, config.seed, epoch)
        assert row["prompt"] == prompts.messages("ica", example.prompt, persona)
        assert row["chosen"] == [{"role": "assistant", "content": example.chosen}]
        assert row["rejected"] == [{"role": "assistant", "content": example.rejected}]
    assert found.train["prompt"][:8] != found.train["prompt"][8:]


@pytest.mark.parametrize("together", [True, False])
def test_mirror_images_are_laid_out_together_unless_configured(tmp_path: Path, together: bool) -> None:
    config = small_config(tmp_path, "training.epochs=2", f"data.pairs_together={str(together).lower()}", rows=24)
    rows = orjson.loads(Path(config.data.path).read_bytes())
    for number, row in enumerate(rows):
        row["pair_id"] = f"pair-{number % 12}"
    Path(config.data.path).write_bytes(orjson.dumps(rows))

    found = write_rows(config, tiny_tokenizer(), tmp_path / "rows")

    pair = {row["chosen"]: row["pair_id"] for row in rows}
    laid = [pair[row[0]["content"]] for row in found.train["chosen"]]
    neighbours = [first == second for first, second in zip(laid[::2], laid[1::2], strict=True)]
    assert all(neighbours) if together else not all(neighbours)


def test_a_step_of_even_size_cuts_no_pair() -> None:
    numbers = np.random.default_rng(0)
    for _ in range(50):
        sizes = numbers.integers(1, 3, 40).tolist()
        rows = [(pair, f"{pair}.{row}") for pair, size in enumerate(sizes) for row in range(size)]

        laid = [*keep_together(rows)]

        assert sorted(laid) == sorted(row for _, row in rows)
        steps = [{*laid[start : start + 4]} for start in range(0, len(laid), 4)]
        for pair in (f"{pair}" for pair, size in enumerate(sizes) if size == 2):
            assert sum(f"{pair}.0" in step for step in steps) == 1
            assert all((f"{pair}.0" in step) == (f"{pair}.1" in step) for step in steps)


def test_a_pair_is_left_out_whole_and_rows_without_mirror_image_go_two_by_two() -> None:
    rows = [("a", 1), ("a", None), ("b", 2), ("c", 3), ("c", 4), ("d", 5), ("e", None), ("f", 6)]

    assert [*keep_together(rows)] == [3, 4, 2, 5, 6]


def paired(config: FitConfig, pair_of: Callable[[int], int]) -> list[dict[str, Any]]:
    """Give the rows of a configuration pairs, and return them."""
    path = Path(config.data.path)
    rows: list[dict[str, Any]] = orjson.loads(path.read_bytes())
    for number, row in enumerate(rows):
        row["pair_id"] = f"pair-{pair_of(number)}"
    path.write_bytes(orjson.dumps(rows))
    return rows


@pytest.mark.parametrize("streaming", [False, True])
def test_a_row_that_does_not_fit_takes_its_mirror_image_along(tmp_path: Path, streaming: bool) -> None:
    config = small_config(tmp_path, "training.epochs=1", "persona.method=pba", "data.eval_split=null", rows=24)
    rows = paired(config, lambda number: number // 2)
    # A long direction in words is not cut.
    rows[6]["profile"] = "word " * 500
    Path(config.data.path).write_bytes(orjson.dumps(rows))

    if streaming:
        laid_out = [row["chosen"] for row in islice(stream_rows(config, tiny_tokenizer()).train, 22)]
    else:
        laid_out = write_rows(config, tiny_tokenizer(), tmp_path / "rows").train["chosen"]

    pair = {row["chosen"]: row["pair_id"] for row in rows}
    laid = [pair[row[0]["content"]] for row in laid_out]
    assert sorted(laid) == sorted(f"pair-{number}" for number in range(12) if number != 3 for _ in range(2))
    assert laid[::2] == laid[1::2]


def test_rows_without_a_mirror_image_shift_no_pair(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.epochs=2", rows=25)
    # As of restraint pairs: the last nine rows are alone.
    rows = paired(config, lambda number: number // 2 if number < 16 else number)

    found = write_rows(config, tiny_tokenizer(), tmp_path / "rows")

    pair = {row["chosen"]: row["pair_id"] for row in rows}
    laid = [pair[row[0]["content"]] for row in found.train["chosen"]]
    assert Counter(laid) == Counter(row["pair_id"] for row in rows for _ in range(2))
    steps = [laid[start : start + 4] for start in range(0, 50, 4)]
    mirrored = {f"pair-{number}" for number in range(8)}
    assert all(step.count(name) == 2 for step in steps for name in mirrored & {*step})


def test_rows_are_laid_out_once(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    first = write_rows(config, tiny_tokenizer(), tmp_path / "rows")
    Path(config.data.path).unlink()

    again = write_rows(config, tiny_tokenizer(), tmp_path / "rows")

    assert again.train["prompt"] == first.train["prompt"]
    assert again.facts == first.facts


def test_the_fingerprint_is_of_what_the_rows_say(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    other = config.model_copy(update={"seed": 1})

    prints = [
        write_rows(settings, tiny_tokenizer(), tmp_path / name).facts["train"]["fingerprint"]
        for settings, name in ((config, "a"), (config, "b"), (other, "c"))
    ]

    assert prints[0] == prints[1] != prints[2]


def test_max_steps_decide_how_many_rows(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.max_steps=3")

    assert len(write_rows(config, tiny_tokenizer(), tmp_path / "rows").train) == 12


def test_rows_that_do_not_fit_are_left_out_and_counted(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.epochs=1")
    path = Path(config.data.path)
    rows = orjson.loads(path.read_bytes())
    rows[0]["chosen"] = "word " * 500
    path.write_bytes(orjson.dumps(rows))

    facts = write_rows(config, tiny_tokenizer(), tmp_path / "rows").facts["train"]

    assert (facts["examples"], facts["rows"], facts["too_long"]) == (16, 15, 1)


@pytest.mark.parametrize("long", [1, 12, 15])
def test_rows_that_do_not_fit_are_replaced_if_the_steps_are_counted(tmp_path: Path, long: int) -> None:
    config = small_config(tmp_path, "training.max_steps=5")
    path = Path(config.data.path)
    rows = orjson.loads(path.read_bytes())
    for row in rows[:long]:
        row["chosen"] = "word " * 500
    path.write_bytes(orjson.dumps(rows))

    found = write_rows(config, tiny_tokenizer(), tmp_path / "rows")

    assert len(found.train) == 20
    assert max(len(row[0]["content"]) for row in found.train["chosen"]) < 100


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.max_length=32")

    with pytest.raises(UsageError, match=r"no example of .* fits training.max_length of 32 tokens"):
        write_rows(config, tiny_tokenizer(), tmp_path / "rows")
    assert not (tmp_path / "rows").exists()
    with pytest.raises(UsageError, match="no example of"):
        write_rows(
            small_config(tmp_path, "training.max_length=32", "training.max_steps=3"),
            tiny_tokenizer(),
            tmp_path / "none",
        )
    with pytest.raises(UsageError, match="no example of"):
        stream_rows(config, tiny_tokenizer())


def test_a_template_that_changes_the_prompt_is_refused(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer(TEMPLATE.replace("{% if add", "{% if add_generation_prompt %}>{% endif %}{% if add"))

    with pytest.raises(UserError, match="chat template"):
        write_rows(small_config(tmp_path), tokenizer, tmp_path / "rows")


def test_a_split_to_evaluate_on_is_laid_out_in_its_order(tmp_path: Path) -> None:
    config = with_splits(small_config(tmp_path), tmp_path)

    found = write_rows(config, tiny_tokenizer(), tmp_path / "rows")

    assert found.evaluation is not None
    assert [row["chosen"][0]["content"] for row in found.evaluation] == [
        example.chosen for example in data.load(config.data, "validation").examples
    ]


def test_a_stream_is_endless_and_draws_for_each_epoch(tmp_path: Path) -> None:
    config = with_splits(small_config(tmp_path, "training.max_steps=2", "data.streaming=true"), tmp_path)

    found = stream_rows(config, tiny_tokenizer())
    rows = list(islice(found.train, 32))

    assert [row["chosen"] for row in rows[:16]] == [row["chosen"] for row in rows[16:]]
    assert [row["prompt"] for row in rows[:16]] != [row["prompt"] for row in rows[16:]]
    assert len(found.evaluation or ()) == 4
