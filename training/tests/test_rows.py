from __future__ import annotations

from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np
import orjson
import pytest

from everyuser_train import data, personas, prompts
from everyuser_train.rows import order, places, stream_rows, write_rows
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
    found = list(places(0, np.arange(5), rows))

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
    for row, (epoch, number) in zip(found.train, places(config.seed, np.arange(8), 16), strict=True):
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


def test_nothing_that_fits_is_an_error(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.max_length=32")

    with pytest.raises(UsageError, match=r"no example of .* fits training.max_length of 32 tokens"):
        write_rows(config, tiny_tokenizer(), tmp_path / "rows")
    assert not (tmp_path / "rows").exists()


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
