from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from transformers import TrainerCallback

from everyuser_train import models
from everyuser_train.arguments import trl_arguments
from everyuser_train.chat import Pair, Sampling
from everyuser_train.config import FitConfig
from everyuser_train.fit import fit
from everyuser_train.personas import NO_PERSONA
from everyuser_train.rows import write_rows
from everyuser_train.score import model_key
from everyuser_train.trainer import make_trainer
from schemas.base import UsageError
from tests.small import Silent, small_config
from tests.test_fit import lines, weights
from tests.tiny import score, tiny_tokenizer

PAIRS = [([{"role": "user", "content": f"post {k}"}], reply) for k in range(3) for reply in ("yes tea", "no dog")]
FAST = ("training.learning_rate=1e-2", "training.max_steps=4")


def scores(model: str | Path) -> Any:
    return score(models.load_model(str(model), dtype="float32"), tiny_tokenizer(), PAIRS, 4096)


def run_on(earlier: Path, folder: Path, *overrides: str) -> tuple[FitConfig, Path]:
    """Train on from an earlier run's model with another seed; return the configuration and the new model."""
    config = small_config(folder, f"model.name={earlier}", "seed=1", *FAST, *overrides)
    return config, fit(config, Silent())


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model of a first run."""
    return fit(small_config(tmp_path_factory.mktemp("first"), *FAST), Silent())


@pytest.fixture(scope="module", params=["fresh", "same"])
def second(request: Any, first: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[FitConfig, Path]:
    """A run that trains on from the first, in both ways: its configuration and its model."""
    folder = tmp_path_factory.mktemp(request.param)
    return run_on(first, folder, f"model.adapters={request.param}", "model.lora_rank=2")


def test_the_reference_is_the_earlier_model(first: Path, second: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config, model = second
    tokenizer = models.load_tokenizer(config.model.name)
    found = write_rows(config, tokenizer, tmp_path / "rows")
    again = config.model_copy(update={"output": str(tmp_path / "out")})
    trainer = make_trainer(again, trl_arguments(again), found, tokenizer, TrainerCallback())

    pairs = [(row["prompt"], row["chosen"][0]["content"]) for row in found.train]
    expected = score(models.load_model(str(first), dtype="float32"), tokenizer, pairs, 4096)
    np.testing.assert_allclose(trainer.train_dataset["ref_chosen_logps"], expected, rtol=1e-4)
    # Training begins at the reference.
    assert lines(Path(config.output))[0]["loss"] == pytest.approx(np.log(2), abs=1e-5)
    np.testing.assert_allclose(scores(models.reference_of(str(model), None).name), scores(first), rtol=1e-5)
    assert not np.allclose(scores(model), scores(first), rtol=1e-3)


def test_the_record_and_the_adapters_tell_what_came_before(first: Path, second: tuple[FitConfig, Path]) -> None:
    config, model = second
    fresh = config.model.adapters == "fresh"
    record = orjson.loads((model / "run.json").read_bytes())

    assert record["earlier"] == orjson.loads((first / "run.json").read_bytes())
    base = models.adapter_base(str(model))
    assert base == ((str(model / "earlier"), None) if fresh else models.adapter_base(str(first)))
    rank = orjson.loads((model / "adapter_config.json").read_bytes())["r"]
    assert rank == (2 if fresh else 4)
    assert sorted(path.name for path in model.iterdir() if path.is_dir()) == ["earlier"]


def test_a_model_needs_only_its_own_folder_and_the_first_base(second: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config, model = second
    expected = scores(model)
    shutil.copytree(model, tmp_path / "moved")
    Path(config.model.name).rename(tmp_path / "hidden")
    try:
        found = scores(tmp_path / "moved")
    finally:
        (tmp_path / "hidden").rename(config.model.name)

    np.testing.assert_array_equal(found, expected)
    assert model_key(str(tmp_path / "moved"), None, "float32") == model_key(str(model), None, "float32")


def test_a_run_on_an_earlier_model_resumes_with_the_same_result(second: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config, model = second
    shutil.copytree(model.parent, tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-4")

    again = fit(config.model_copy(update={"output": str(tmp_path / "out")}), Silent())

    assert weights(again) == weights(model)
    assert lines(tmp_path / "out") == lines(model.parent)


def test_chat_shows_the_earlier_model_beside_the_new_one(first: Path, second: tuple[FitConfig, Path]) -> None:
    sampling = Sampling(max_new_tokens=8, temperature=0)
    pair = Pair(str(second[1]), None, "float32")

    _, theirs = pair.replies("ica", "post", NO_PERSONA, sampling)

    ours, _ = Pair(str(first), None, "float32").replies("ica", "post", NO_PERSONA, sampling)
    assert theirs == ours


def test_a_chain_of_three_runs_loads_from_the_last_folder(second: tuple[FitConfig, Path], tmp_path: Path) -> None:
    _, third = run_on(second[1], tmp_path)

    record = orjson.loads((third / "run.json").read_bytes())
    assert "earlier" in record["earlier"]
    assert models.reference_of(str(third), None).name == str(third / "earlier")
    np.testing.assert_allclose(scores(third / "earlier"), scores(second[1]), rtol=1e-5)
    assert not np.allclose(scores(third), scores(second[1]), rtol=1e-3)


def test_the_same_adapters_stay_on_their_base_however_long_the_chain(first: Path, tmp_path: Path) -> None:
    _, second = run_on(first, tmp_path / "second")

    # So small a rate changes nothing: the third model is the second, if its adapters find their base.
    _, third = run_on(second, tmp_path / "third", "model.adapters=same", "training.learning_rate=1e-12")

    assert models.adapter_base(str(third)) == (str(third / "earlier" / "earlier"), None)
    np.testing.assert_allclose(scores(third), scores(second), rtol=1e-5)


def test_of_a_checkpoint_only_the_adapters_are_copied(first: Path, tmp_path: Path) -> None:
    checkpoint = first.parent / "checkpoint-4"
    assert (checkpoint / "optimizer.pt").is_file()

    _, model = run_on(checkpoint, tmp_path)

    assert {path.name for path in (model / "earlier").iterdir()} <= {path.name for path in first.iterdir()}


def test_small_updates_survive_a_merge_in_half_precision(first: Path) -> None:
    merged = models.load_merged("causal", str(first), None, "bfloat16", None)
    base = models.load_model(str(first), dtype="float32").merge_and_unload()

    for name, weight in merged.named_parameters():
        expected = base.get_parameter(name).bfloat16()
        np.testing.assert_array_equal(weight.float().detach().numpy(), expected.float().detach().numpy())


def test_a_reward_model_is_trained_on_from_its_head(tmp_path: Path) -> None:
    reward = "training.objective=reward"
    first = fit(small_config(tmp_path / "first", *FAST, reward), Silent())

    # So small a rate changes nothing: the second model is the first, if its head is the first's.
    _, second = run_on(first, tmp_path / "second", reward, "training.learning_rate=1e-12")

    before, after = (models.load_reward_model(str(model), dtype="float32") for model in (first, second))
    ids = torch.arange(20)[None] + 10
    with torch.no_grad():
        assert after(input_ids=ids).logits.item() == pytest.approx(before(input_ids=ids).logits.item(), rel=1e-4)


def test_a_base_that_is_gone_is_named(first: Path, tmp_path: Path) -> None:
    shutil.copytree(first, tmp_path / "model")
    path = tmp_path / "model" / "adapter_config.json"
    config = orjson.loads(path.read_bytes())
    path.write_bytes(orjson.dumps(config | {"base_model_name_or_path": str(tmp_path / "gone")}))

    with pytest.raises(UsageError, match=r"its base model .*gone is not there; copy it, and name it by"):
        models.load_model(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.tuning=full"], r"model\.tuning: full cannot train on from adapters"),
        (["training.objective=reward"], r"has the adapters of a language model"),
    ],
)
def test_ways_to_train_on_that_do_not_work_are_named(
    first: Path, tmp_path: Path, overrides: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        run_on(first, tmp_path, *overrides)


def test_a_model_without_adapters_has_none_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"model\.adapters: '.*' is not a folder of adapters"):
        fit(small_config(tmp_path, "model.adapters=same"), Silent())
