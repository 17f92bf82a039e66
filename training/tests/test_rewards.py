from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from transformers import LlamaForSequenceClassification, TrainerCallback

from everyuser_train import models
from everyuser_train.arguments import trl_arguments
from everyuser_train.chat import Pair
from everyuser_train.config import EvaluateConfig, FitConfig
from everyuser_train.data import load
from everyuser_train.evaluate import evaluate
from everyuser_train.fit import fit
from everyuser_train.personas import evaluation_persona
from everyuser_train.prompts import messages
from everyuser_train.report import save, show
from everyuser_train.rewards import reward_batches
from everyuser_train.rows import write_rows
from everyuser_train.score import encode
from everyuser_train.scorers import scorers
from everyuser_train.trainer import make_trainer
from schemas.base import UsageError
from tests.small import Silent, small_config
from tests.test_evaluate import rows_of, write
from tests.test_fit import lines, weights
from tests.tiny import tiny_model, tiny_tokenizer

REWARD = ("training.objective=reward", "training.learning_rate=1e-2", "training.epochs=10", "training.save_steps=20")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[FitConfig, Path]:
    """A run of forty steps and its output folder."""
    config = small_config(tmp_path_factory.mktemp("reward"), *REWARD)
    fit(config, Silent())
    return config, Path(config.output)


def rewards(model: Any, tokenizer: Any, pairs: list[tuple[Any, str]], batch_tokens: int) -> Any:
    found = np.full(len(pairs), np.nan)
    for rows, values in reward_batches(model, encode(tokenizer, pairs), batch_tokens):
        found[rows] = values
    return found


def test_a_reward_model_learns_and_is_saved_with_its_head(finished: tuple[FitConfig, Path]) -> None:
    config, output = finished
    metrics = lines(output)

    assert [line["step"] for line in metrics] == [*range(1, 41)]
    assert np.mean([line["accuracy"] for line in metrics[-5:]]) > 0.8
    assert metrics[-1]["margin"] > metrics[0]["margin"] + 0.1
    model = str(output / "model")
    assert models.is_reward_model(model)
    assert not models.is_reward_model(config.model.name)
    assert models.trained_method(model) == "ica"
    saved = load_file(output / "model" / "adapter_model.safetensors")["base_model.model.score.weight"]
    assert torch.equal(models.load_reward_model(model, dtype="float32").score.weight, saved)


def test_a_reward_run_resumes_with_the_same_result(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    shutil.copytree(finished[1], tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "checkpoint-40")

    model = fit(finished[0].model_copy(update={"output": str(tmp_path / "out")}), Silent())

    assert weights(model) == weights(finished[1] / "model")
    assert lines(tmp_path / "out") == lines(finished[1])


def test_rewards_are_those_of_the_trainer_in_any_batch(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config = finished[0].model_copy(update={"output": str(tmp_path / "out")})
    tokenizer = models.load_tokenizer(config.model.name)
    found = write_rows(config, tokenizer, tmp_path / "rows")
    trainer = make_trainer(config, trl_arguments(config), found, tokenizer, TrainerCallback())
    model = models.load_reward_model(str(finished[1] / "model"), dtype="float32")
    pairs = [(row["prompt"], row["chosen"][0]["content"]) for row in found.train]

    with torch.no_grad():
        inputs = [torch.tensor([ids]) for ids in trainer.train_dataset["chosen_ids"]]
        expected = [model(input_ids=ids).logits.item() for ids in inputs]

    np.testing.assert_allclose(rewards(model, tokenizer, pairs, 1), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(rewards(model, tokenizer, pairs, 2000), expected, rtol=1e-4, atol=1e-5)


def test_an_evaluation_of_rewards_is_what_plain_loops_find(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    data = write(tmp_path, rows_of(12))
    name = str(finished[1] / "model")
    settings = EvaluateConfig(
        model=name, data=data, method="ica", dtype="float32", cache=str(tmp_path / "cache"), items=2
    )

    report = evaluate(settings)

    model, tokenizer = models.load_reward_model(name, dtype="float32"), tiny_tokenizer()
    margins = []
    for example in load(data, "").examples:
        persona = evaluation_persona(example, ("ugc", "pair", "demo"), 2, "ica", "target", None)
        prompt = messages("ica", example.prompt, persona)
        chosen, rejected = rewards(model, tokenizer, [(prompt, example.chosen), (prompt, example.rejected)], 10**6)
        margins.append(chosen - rejected)
    assert report.reference is None
    assert set(report.results[0].metrics) == {"accuracy", "margin"}
    assert report.results[0].metrics["accuracy"].value == np.mean(np.array(margins) > 0)
    assert report.results[0].metrics["margin"].value == pytest.approx(np.mean(margins), abs=1e-5)
    # Mirrored persons: without a persona, the same reply wins for both.
    (plain,) = (entry for entry in report.results if entry.kind == "none")
    assert plain.metrics["accuracy"].value == 0.5
    assert set(report.flips[0].metrics) == {"reversed", "followed"}
    assert evaluate(settings).results == report.results


def test_the_report_of_a_reward_model_names_no_reference(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    settings = EvaluateConfig(
        model=str(finished[1] / "model"),
        data=write(tmp_path, rows_of(2)),
        method="ica",
        cache=str(tmp_path / "cache"),
    )
    report = evaluate(settings)
    console = Console(record=True, width=200)

    save(report, tmp_path / "report")
    show(report, console)

    shown = console.export_text()
    assert shown.strip().startswith("reward model")
    assert "accuracy" in shown
    assert "alignment" not in shown
    assert "against" not in shown
    assert (tmp_path / "report" / "report.png").is_file()


def test_a_reward_model_has_no_reference_and_writes_nothing(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    name, data = str(finished[1] / "model"), write(tmp_path, rows_of(2))
    settings = EvaluateConfig(
        model=name, reference=name, data=data, method="ica", dtype="float32", cache=str(tmp_path / "cache")
    )

    with pytest.raises(UsageError, match="no common scale"):
        evaluate(settings)
    with pytest.raises(UsageError, match=r"reference: '.*' is a reward model, and .* is none"):
        scorers(settings.model_copy(update={"model": finished[0].model.name}))
    with pytest.raises(UsageError, match="is a reward model: it scores replies and writes none"):
        Pair(name, None, "float32")


def test_a_reward_model_of_all_weights_is_read_too(tmp_path: Path) -> None:
    config = tiny_model().config
    config.num_labels, config.pad_token_id = 1, None
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "model")
    tiny_tokenizer().save_pretrained(tmp_path / "model")
    name = str(tmp_path / "model")

    assert models.is_reward_model(name)
    report = evaluate(
        EvaluateConfig(
            model=name, data=write(tmp_path, rows_of(2)), method="ica", dtype="float32", cache=str(tmp_path / "cache")
        )
    )
    assert report.reference is None


def test_a_classifier_is_no_reward_model(tmp_path: Path) -> None:
    config = tiny_model().config
    config.num_labels, config.pad_token_id = 3, None
    LlamaForSequenceClassification(config).save_pretrained(tmp_path)

    with pytest.raises(UsageError, match="is a classifier of 3 labels"):
        models.load_model(str(tmp_path))


def test_settings_of_rewards_that_do_not_go_together_are_named(
    finished: tuple[FitConfig, Path], tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=r"TRL's RewardConfig has no 'loss_type'"):
        fit(small_config(tmp_path, *REWARD, "training.extra.loss_type=[ipo]"), Silent())
    with pytest.raises(UsageError, match=r"is a reward model; set training\.objective to reward"):
        fit(small_config(tmp_path, f"model.name={finished[1] / 'model'}"), Silent())
