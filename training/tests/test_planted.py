"""The packaged recipe of ICA learns planted truth: rows, prompts, training and evaluation fit together.

`benchmarks.planted` is the whole proof, on datasets of the pipeline. Here the rows are made on the spot.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import orjson
import pytest

from benchmarks.planted.grammar import Half, Pole, posts, reply, turns
from everyuser_train.config import EvaluateConfig, FitConfig
from everyuser_train.evaluate import evaluate
from everyuser_train.fit import fit
from everyuser_train.loader import load_config
from tests.small import Silent

STEPS, BATCH, CASES = 24, 4, 32


def write_rows(path: Path, pairs: int, half: Half, seed: int) -> Path:
    """Write two rows a pair: of a person with two poles, and of the opposite one."""
    draw, rows = random.Random(seed), []
    slugs = sorted({slug for slug, _ in turns()})
    every = iter(posts(3 * pairs, seed))
    for number, (post, *past) in enumerate(zip(every, every, every, strict=True)):
        poles = [(slug, draw.choice((1, -1))) for slug in draw.sample(slugs, 2)]
        opposite = [(slug, -level) for slug, level in poles]
        for person, other in ((poles, opposite), (opposite, poles)):
            rows.append(row(post, past, person, other, half) | {"pair_id": str(number), "post_id": str(number)})
    path.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))
    return path


def row(post: str, past: list[str], person: list[Pole], other: list[Pole], half: Half) -> dict[str, Any]:
    """Return a row in AlignX's columns."""

    def preference(post: str) -> dict[str, str]:
        return {"prompt": post, "chosen": reply(post, person, half), "rejected": reply(post, other, half)}

    return preference(post) | {
        "User-Generated Content": [{"prompt": past[0], "comment": reply(past[0], person, half)}],
        "Pair-wise Comparative Feedback": [preference(past[1])],
    }


@pytest.mark.slow
def test_ica_learns_what_a_history_says_and_carries_it_to_new_posts_and_words(tmp_path: Path) -> None:
    rows = write_rows(tmp_path / "train.jsonl", STEPS * BATCH // 2, "known", seed=1)
    unheard = write_rows(tmp_path / "test.jsonl", CASES // 2, "held_out", seed=2)
    keys = [f"data.path={rows}", "data.eval_split=null", f"output={tmp_path / 'out'}", "model.dtype=float32"]
    smaller = ["persona.items_min=1", "persona.items_max=1", f"training.batch_size={BATCH}"]
    config = load_config(FitConfig, Path("configs/small-ica.yaml"), {}, [*keys, *smaller])

    model = fit(config, Silent())
    settings = EvaluateConfig.model_validate(
        {"model": str(model), "method": "ica", "data": {"path": str(unheard)}, "lengths": (), "flip": False}
        | {"parts": (("ugc", "pair"),), "dtype": "float32", "cache": str(tmp_path / "scores")}
    )
    found = {result.kind: result.metrics["alignment"].value for result in evaluate(settings).results}

    assert found["persona"] >= 0.8
    assert found["none"] == 0.5
    assert 0.25 < found["shuffled"] < 0.75
