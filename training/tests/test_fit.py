from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
import torch
from transformers import TrainerCallback

from everyuser_train import models
from everyuser_train.arguments import trl_arguments
from everyuser_train.config import FitConfig
from everyuser_train.fit import fit
from everyuser_train.loader import load_config
from everyuser_train.rows import write_rows
from everyuser_train.trainer import make_trainer
from schemas import packaged_models
from schemas.base import UsageError
from tests.small import Silent, prepare, small_config, with_splits
from tests.tiny import score


def lines(output: Path) -> list[dict[str, float]]:
    """The metrics of a run, without the times."""
    read = [orjson.loads(line) for line in (output / "metrics.jsonl").read_bytes().splitlines()]
    timed = ("seconds", "peak_memory", "eval_runtime", "eval_samples_per_second", "eval_steps_per_second")
    return [{name: value for name, value in line.items() if name not in timed} for line in read]


def weights(model: Path) -> bytes:
    return (model / "adapter_model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FitConfig, Path]]:
    """A run of six steps and its output folder; tests copy what they change."""
    config = small_config(tmp_path_factory.mktemp("finished"))
    fit(config, Silent())
    yield config, Path(config.output)


def copied(finished: tuple[FitConfig, Path], folder: Path) -> FitConfig:
    config, output = finished
    shutil.copytree(output, folder / "out")
    return config.model_copy(update={"output": str(folder / "out")})


def test_a_run_leaves_a_model_metrics_and_a_record(finished: tuple[FitConfig, Path]) -> None:
    config, output = finished
    metrics = lines(output)

    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    assert metrics[0]["loss"] == pytest.approx(np.log(2), abs=1e-6)
    assert metrics[-1]["epoch"] == 1.5
    last = orjson.loads((output / "metrics.jsonl").read_bytes().splitlines()[-1])
    assert last["peak_memory"] > 2**20
    assert all({"loss", "rewards/margins", "rewards/accuracies", "num_tokens"} <= line.keys() for line in metrics)
    record = orjson.loads((output / "run.json").read_bytes())
    assert record["config"] == config.model_dump(mode="json")
    assert record["dataset"]["train"]["rows"] == 24
    assert 0 < record["parameters"]["trained"] < record["parameters"]["all"] / 2
    assert models.trained_method(str(output / "model")) == "ica"
    assert models.adapter_base(str(output / "model")) == (config.model.name, None)


def test_training_raises_the_margin_of_what_it_saw(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config = copied(finished, tmp_path)
    longer = config.model_copy(
        update={
            "output": str(tmp_path / "longer"),
            "training": config.training.model_copy(update={"epochs": 2.0, "learning_rate": 1e-2, "log_steps": 2}),
        }
    )

    observer = Silent()
    fit(longer, observer)

    assert observer.lines[-1]["rewards/accuracies"] > 0.8
    assert observer.lines[-1]["rewards/margins"] > observer.lines[0]["rewards/margins"] + 0.1


def test_precomputed_reference_scores_belong_to_their_rows(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.epochs=2", rows=8)
    tokenizer = models.load_tokenizer(config.model.name)
    found = write_rows(config, tokenizer, tmp_path / "rows")
    trainer = make_trainer(config, trl_arguments(config), found, tokenizer, TrainerCallback())

    base = models.load_model(config.model.name, dtype="float32")
    for side in ("chosen", "rejected"):
        pairs = [(row["prompt"], row[side][0]["content"]) for row in found.train]
        expected = score(base, tokenizer, pairs, 4096)
        np.testing.assert_allclose(trainer.train_dataset[f"ref_{side}_logps"], expected, rtol=1e-4)
    # Another epoch, another prompt, another score.
    assert len(set(trainer.train_dataset["ref_chosen_logps"])) > 8


@pytest.mark.parametrize("precomputed", [True, False], ids=["precomputed", "as it goes"])
def test_shared_prompts_train_the_same_model(tmp_path: Path, precomputed: bool) -> None:
    metrics = []
    for shared in (True, False):
        keys = [f"training.share_prompts={shared}", f"training.precompute_reference={precomputed}"]
        config = small_config(tmp_path / str(shared), *keys, "training.device_batch_size=2")
        fit(config, Silent())
        metrics.append(lines(Path(config.output)))

    for ours, theirs in zip(*metrics, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-4)
    assert abs(metrics[0][-1]["rewards/margins"]) > 1e-3


def test_rows_are_trained_on_in_their_order(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    tokenizer = models.load_tokenizer(config.model.name)
    found = write_rows(config, tokenizer, tmp_path / "rows")
    trainer = make_trainer(config, trl_arguments(config), found, tokenizer, TrainerCallback())

    seen: list[str] = []
    for batch in trainer.get_train_dataloader():
        chosen = batch["input_ids"][: len(batch["input_ids"]) // 2]
        seen += tokenizer.batch_decode(chosen, skip_special_tokens=True)

    assert len(seen) == len(found.train)
    for text, row in zip(seen, found.train, strict=True):
        assert row["prompt"][1]["content"] in text
        assert row["chosen"][0]["content"] in text


@pytest.mark.slow
def test_a_killed_run_resumes_with_the_same_result(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    command = [sys.executable, "-m", "everyuser_train.cli", "fit", str(path), "--set", "training.epochs=5"]
    environment = os.environ | {"HF_HUB_OFFLINE": "1"}

    def run(output: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*command, "--output", str(output)],
            cwd=Path(__file__).parents[1],
            env=environment,
            stdout=subprocess.DEVNULL,
        )

    calm, shot = tmp_path / "calm", tmp_path / "shot"
    assert run(calm).wait(120) == 0
    for step in (5, 11):
        process = run(shot)
        deadline = time.monotonic() + 120
        while b'"step":%d,' % step not in (read(shot / "metrics.jsonl")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    # What a kill in the middle of writing leaves.
    torn = shot / "checkpoint-16"
    torn.mkdir(exist_ok=True)
    (torn / "trainer_state.json").write_text('{"global_')
    assert not (shot / "model").exists()
    assert run(shot).wait(120) == 0

    assert lines(shot) == lines(calm)
    assert weights(shot / "model") == weights(calm / "model")


def read(path: Path) -> bytes:
    return path.read_bytes() if path.exists() else b""


def test_a_run_that_lost_its_end_resumes_from_the_last_complete_checkpoint(
    finished: tuple[FitConfig, Path], tmp_path: Path
) -> None:
    config = copied(finished, tmp_path)
    output = Path(config.output)
    shutil.rmtree(output / "model")
    (output / "checkpoint-6" / "trainer_state.json").unlink()
    with (output / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step":7,"lo')

    observer = Silent()
    fit(config, observer)

    assert "resuming from checkpoint-4" in observer.notes
    assert [line["step"] for line in observer.lines] == [5, 6]
    assert lines(output) == lines(finished[1])
    assert weights(output / "model") == weights(finished[1] / "model")


def test_a_run_that_lost_only_its_model_writes_it_again(finished: tuple[FitConfig, Path], tmp_path: Path) -> None:
    config = copied(finished, tmp_path)
    shutil.rmtree(Path(config.output) / "model")

    model = fit(config, Silent())

    assert weights(model) == weights(finished[1] / "model")
    assert lines(Path(config.output)) == lines(finished[1])


def test_a_finished_run_is_left_alone(finished: tuple[FitConfig, Path]) -> None:
    config, output = finished
    before = (output / "model" / "adapter_model.safetensors").stat().st_mtime_ns

    observer = Silent()

    assert fit(config, observer) == output / "model"
    assert observer.notes == ["this run is finished: nothing to do"]
    assert (output / "model" / "adapter_model.safetensors").stat().st_mtime_ns == before


def test_another_configuration_is_refused_by_the_key(finished: tuple[FitConfig, Path]) -> None:
    config, _ = finished
    training = config.training.model_copy(update={"beta": 0.5, "save_steps": 1})

    with pytest.raises(UsageError, match=r"training\.beta 0\.1, but now it is 0\.5"):
        fit(config.model_copy(update={"training": training}), Silent())


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    Path(config.output).mkdir()
    (Path(config.output) / "thesis.tex").touch()

    with pytest.raises(UsageError, match="holds other files"):
        fit(config, Silent())


def test_a_wrong_model_leaves_the_folder_free(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    wrong = config.model_copy(update={"model": config.model.model_copy(update={"name": str(tmp_path / "none")})})
    with pytest.raises(UsageError, match="no model there"):
        fit(wrong, Silent())

    assert fit(config, Silent()).is_dir()


def test_a_second_run_is_kept_out(tmp_path: Path) -> None:
    config = small_config(tmp_path)
    Path(config.output).mkdir()
    with (Path(config.output) / ".lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="in use by another run"):
            fit(config, Silent())


@pytest.mark.parametrize("streaming", [False, True])
def test_an_evaluation_comes_at_its_steps_and_at_the_end(tmp_path: Path, streaming: bool) -> None:
    settings = ["training.max_steps=3", "training.eval_steps=2", f"data.streaming={streaming}"]
    config = with_splits(small_config(tmp_path, *settings, f"training.precompute_reference={not streaming}"), tmp_path)

    observer = Silent()
    fit(config, observer)

    assert [line["step"] for line in observer.lines if "eval_loss" in line] == [2, 3]


def test_full_tuning_keeps_the_weights_in_float32(tmp_path: Path) -> None:
    config = small_config(tmp_path, "model.tuning=full", "model.dtype=bfloat16", "training.max_steps=1")

    model = fit(config, Silent())

    assert models.load_model(str(model), dtype="float32").dtype == torch.float32
    assert not (model / "adapter_config.json").exists()
    assert trl_arguments(config).model_init_kwargs["dtype"] == "float32"
    assert trl_arguments(config).bf16


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["training.batch_size=5"], r"5 is not a multiple of .* \(2 x 1\)"),
        (["training.extra.los_type=[ipo]"], r"has no 'los_type'; did you mean 'loss_type'\?"),
        (["training.extra.beta=0.3"], r"'beta' is set by the key .training\.beta"),
        (["training.extra.train_sampling_strategy=random"], r"'train_sampling_strategy' is fixed"),
        (["training.extra.eval_strategy=epoch"], r"'eval_strategy' is fixed"),
        (["training.extra.disable_dropout=false"], r"'disable_dropout' is fixed"),
        (["training.scheduler=steep"], r"training: TRL"),
        (["data.streaming=true"], r"set training\.max_steps"),
        (["data.streaming=true", "training.max_steps=2"], "set training.precompute_reference"),
        (["model.tuning=qlora"], "needs a CUDA GPU"),
    ],
)
def test_settings_that_do_not_go_together_are_named(tmp_path: Path, overrides: list[str], message: str) -> None:
    if torch.cuda.is_available():
        pytest.skip("the messages are those of a machine without a GPU")
    with pytest.raises(UsageError, match=message):
        fit(small_config(tmp_path, *overrides), Silent())


def test_extra_fields_reach_trl(tmp_path: Path) -> None:
    config = small_config(tmp_path, "training.extra={loss_type: [ipo], weight_decay: 0.1}")

    arguments: Any = trl_arguments(config)

    assert arguments.loss_type == ["ipo"]
    assert arguments.weight_decay == 0.1


@pytest.mark.slow
def test_the_packaged_model_learns_pba(tmp_path: Path) -> None:
    path = prepare(tmp_path, rows=4)
    overrides = [
        f"model.name={packaged_models.SMALL}",
        "persona.method=pba",
        "training.epochs=4",
        "training.learning_rate=1e-3",
    ]
    config = load_config(FitConfig, path, {}, overrides)

    observer = Silent()
    fit(config, observer)

    assert observer.lines[-1]["loss"] < observer.lines[0]["loss"] - 0.1
