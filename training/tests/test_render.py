from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import orjson
import pytest
import yaml
from typer.testing import CliRunner

from everyuser_train import data, render
from everyuser_train.cli import app
from everyuser_train.config import DataConfig, FitConfig, RenderConfig, Trainer
from everyuser_train.formats import FORMATS
from everyuser_train.loader import load_config
from everyuser_train.rows import write_rows
from schemas.base import UsageError, UserError
from tests.small import prepare, small_config, with_splits
from tests.tiny import tiny_model, tiny_tokenizer

ROW: Any = {
    "prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "u"}],
    "chosen": [{"role": "assistant", "content": " good\n"}],
    "rejected": [{"role": "assistant", "content": "bad"}],
}


def config_of(fit: FitConfig, folder: Path, **more: Any) -> RenderConfig:
    settings = fit.model_dump() | {"format": "trl", "output": str(folder / "rendered")} | more
    return RenderConfig.model_validate(settings)


def lines(folder: Path, split: str) -> list[Any]:
    return [orjson.loads(line) for path in sorted((folder / split).iterdir()) for line in path.open("rb")]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_every_trainer_of_the_configuration_has_a_format() -> None:
    assert {*FORMATS} == {*get_args(Trainer)}


@pytest.mark.parametrize("trainer", ["trl", "reward"])
def test_rows_for_trl_are_conversational_with_an_explicit_prompt(trainer: Trainer) -> None:
    assert FORMATS[trainer].row(ROW, "ica") == ROW


@pytest.mark.parametrize("method", ["ica", "pba"])
def test_rows_for_openrlhf_name_the_prompt_as_the_scripts_of_alignx_do(method: Any) -> None:
    found = FORMATS["openrlhf"].row(ROW, method)

    assert found == {f"{method}_prompt": ROW["prompt"], "chosen": ROW["chosen"], "rejected": ROW["rejected"]}


def test_rows_for_axolotl_have_one_message_a_reply_without_outer_spaces() -> None:
    assert FORMATS["axolotl"].row(ROW, "ica") == {
        "messages": ROW["prompt"],
        "chosen": {"role": "assistant", "content": "good"},
        "rejected": {"role": "assistant", "content": "bad"},
    }


def test_rows_for_llamafactory_have_one_message_a_reply() -> None:
    assert FORMATS["llamafactory"].row(ROW, "ica") == {
        "messages": ROW["prompt"],
        "chosen": {"role": "assistant", "content": " good\n"},
        "rejected": {"role": "assistant", "content": "bad"},
    }


@pytest.mark.parametrize(
    ("splits", "used"),
    [
        (["train", "validation", "test"], {"datasets": "train", "test_datasets": "validation"}),
        (["test", "validation", "train"], {"datasets": "train", "test_datasets": "validation"}),
        (["train"], {"datasets": "train"}),
        (["test", "validation"], {"test_datasets": "validation"}),
    ],
)
def test_axolotl_trains_and_evaluates_on_the_splits_of_fit(splits: list[str], used: dict[str, str]) -> None:
    files = FORMATS["axolotl"].files("mine", splits, DataConfig(path="mine"))

    assert yaml.safe_load(files["axolotl.yaml"]) == {
        "rl": "dpo",
        **{role: [{"path": "mine", "split": split, "type": "chat_template.default"}] for role, split in used.items()},
    }


def test_llamafactory_is_told_of_each_split_as_a_ranked_dataset() -> None:
    info = orjson.loads(
        FORMATS["llamafactory"].files("mine", ["train", "test"], DataConfig(path="mine"))["dataset_info.json"]
    )

    assert [(name, entry["file_name"]) for name, entry in info.items()] == [("train", "train"), ("test", "test")]
    for entry in info.values():
        assert (entry["formatting"], entry["ranking"]) == ("sharegpt", True)
        # Names that are not given mean `conversations`, `from`, `value`, `human` and `gpt` there.
        assert entry["columns"] == {"messages": "messages", "chosen": "chosen", "rejected": "rejected"}
        assert entry["tags"] == {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
            "system_tag": "system",
        }


def test_rows_are_those_that_fit_trains_on_and_evaluates(tmp_path: Path) -> None:
    fit = with_splits(small_config(tmp_path, "training.epochs=2", "training.max_length=500"), tmp_path)
    trained = write_rows(fit, tiny_tokenizer(), tmp_path / "rows")

    facts = render.render(config_of(fit, tmp_path))

    assert lines(tmp_path / "rendered", "train") == [*trained.train]
    assert lines(tmp_path / "rendered", "validation") == [*(trained.evaluation or ())]
    assert [*facts.values()] == [*trained.facts.values()]
    # Otherwise nothing was cut.
    whole = write_rows(
        fit.model_copy(update={"training": fit.training.model_copy(update={"max_length": 5000})}),
        tiny_tokenizer(),
        tmp_path / "whole",
    )
    assert whole.facts["train"]["fingerprint"] != facts["train"]["fingerprint"]


def test_without_a_model_nothing_is_cut(tmp_path: Path) -> None:
    fit = small_config(tmp_path, "training.max_length=32", "persona.items_min=3", "data.pairs_together=false")

    render.render(config_of(fit, tmp_path, model=None))

    rows = lines(tmp_path / "rendered", "train")
    assert len(rows) == 24
    assert all(row["prompt"][1]["content"].count("Comment: ") == 3 for row in rows)


def test_splits_are_chosen_by_name_and_held_out_ones_keep_their_order(tmp_path: Path) -> None:
    fit = with_splits(small_config(tmp_path, "training.epochs=2"), tmp_path)

    facts = render.render(config_of(fit, tmp_path, splits=("validation",)))

    rows = lines(tmp_path / "rendered", "validation")
    assert [row["chosen"][0]["content"] for row in rows] == [
        example.chosen for example in data.load(fit.data, "validation").examples
    ]
    assert {*facts} == {"validation"}
    assert not (tmp_path / "rendered" / "train").exists()


@pytest.mark.parametrize("trainer", get_args(Trainer))
def test_the_folder_is_a_dataset_of_shards_with_a_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, trainer: Trainer
) -> None:
    from datasets import load_dataset

    monkeypatch.setattr(render, "SHARD", 10)
    fit = with_splits(small_config(tmp_path), tmp_path)
    # The name of a split that holds another one's name.
    (tmp_path / "splits" / "data" / "validation-00000-of-00001.parquet").rename(
        tmp_path / "splits" / "data" / "train_more-00000-of-00001.parquet"
    )

    config = config_of(fit, tmp_path, format=trainer, splits=("train", "train_more"))

    facts = render.render(config)

    folder = tmp_path / "rendered"
    assert sorted(path.name for path in (folder / "train").iterdir()) == [
        f"train-{shard:05}-of-00003.jsonl" for shard in range(3)
    ]
    loaded = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert {split: len(rows) for split, rows in loaded.items()} == {"train": 24, "train_more": 4}
    assert [*loaded["train"]] == lines(folder, "train")
    record = orjson.loads((folder / "render.json").read_bytes())
    assert record["splits"] == facts
    assert {**record["config"], "output": config.output} == config.model_dump(mode="json")
    assert "numpy" in record["versions"]


def test_a_second_run_writes_the_same_bytes(tmp_path: Path) -> None:
    fit = small_config(tmp_path)

    for parent in ("one", "two"):
        render.render(config_of(fit, tmp_path, output=str(tmp_path / parent / "rows"), format="axolotl"))

    found = tree(tmp_path / "one" / "rows")
    assert found == tree(tmp_path / "two" / "rows")
    assert {*found} == {
        "README.md",
        "axolotl.yaml",
        "render.json",
        "train/train-00000-of-00001.jsonl",
    }


def test_a_folder_with_files_is_refused_and_an_empty_one_is_used(tmp_path: Path) -> None:
    config = config_of(small_config(tmp_path), tmp_path)
    (tmp_path / "rendered").mkdir()

    render.render(config)

    before = tree(tmp_path / "rendered")
    with pytest.raises(UsageError, match="holds other files"):
        render.render(config)
    assert tree(tmp_path / "rendered") == before


def test_nothing_is_left_of_a_run_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(small_config(tmp_path), tmp_path)
    before = {*tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(render, "_write_files", full)

    with pytest.raises(UserError, match=r"rendered cannot be written \(No space left on device\)"):
        render.render(config)

    assert {*tmp_path.iterdir()} == before


def test_a_run_after_a_kill_leaves_nothing_of_the_killed_one(tmp_path: Path) -> None:
    config = config_of(small_config(tmp_path), tmp_path)
    before = {*tmp_path.iterdir()}
    command = "import os; from everyuser_train import render; render._write_files = lambda *_: os.kill(os.getpid(), 9);"
    killed = f"{command} render.render(render.RenderConfig.model_validate({config.model_dump()!r}))"
    done = subprocess.run([sys.executable, "-c", killed], cwd=Path(__file__).parents[1], check=False)
    assert done.returncode == -signal.SIGKILL
    assert {*tmp_path.iterdir()} - before == {tmp_path / "rendered.partial"}

    render.render(config)

    assert {*tmp_path.iterdir()} - before == {tmp_path / "rendered"}
    assert len(lines(tmp_path / "rendered", "train")) == 24


def test_a_second_run_at_the_same_time_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config, write = config_of(small_config(tmp_path), tmp_path), render._write_files

    def meanwhile(*given: Any) -> None:
        with pytest.raises(UsageError, match=r"rendered\.partial: in use by another run"):
            render.render(config)
        write(*given)

    monkeypatch.setattr(render, "_write_files", meanwhile)

    assert render.render(config)["train"]["rows"] == 24


def test_a_file_has_one_split(tmp_path: Path) -> None:
    config = config_of(small_config(tmp_path), tmp_path, splits=("train", "test"))

    with pytest.raises(
        UsageError, match=r"data\.json is a file, and all its rows are one split; name one, not train, "
    ):
        render.render(config)


def test_a_stream_is_refused(tmp_path: Path) -> None:
    fit = small_config(tmp_path, "data.streaming=true")

    with pytest.raises(UsageError, match=r"data\.streaming"):
        render.render(config_of(fit, tmp_path))


def test_trl_trains_on_the_rows_with_the_prompts_as_rendered(tmp_path: Path) -> None:
    from datasets import load_dataset
    from trl import DPOConfig, DPOTrainer

    render.render(config_of(small_config(tmp_path), tmp_path))
    rows = load_dataset(str(tmp_path / "rendered"), split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer = tiny_tokenizer()

    settings = DPOConfig(str(tmp_path / "trl"), report_to="none", use_cpu=True, bf16=False, max_length=None)
    trainer = DPOTrainer(str(tmp_path / "model"), args=settings, train_dataset=rows, processing_class=tokenizer)

    for tokens, row in zip(trainer.train_dataset, rows, strict=True):
        prompt = tokenizer.apply_chat_template(row["prompt"], tokenize=False, add_generation_prompt=True)
        assert tokenizer.decode(tokens["prompt_ids"]) == prompt
        assert tokenizer.decode(tokens["chosen_ids"]).startswith(row["chosen"][0]["content"])
        assert tokenizer.decode(tokens["rejected_ids"]).startswith(row["rejected"][0]["content"])


def test_trl_trains_rewards_on_the_rows(tmp_path: Path) -> None:
    from datasets import load_dataset
    from transformers import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    render.render(config_of(small_config(tmp_path), tmp_path, format="reward"))
    rows = load_dataset(str(tmp_path / "rendered"), split="train", cache_dir=str(tmp_path / "cache"))
    tokenizer, shape = tiny_tokenizer(), tiny_model().config
    shape.num_labels = 1

    settings = RewardConfig(str(tmp_path / "trl"), report_to="none", use_cpu=True, bf16=False, max_length=None)
    model = LlamaForSequenceClassification(shape)
    trainer = RewardTrainer(model, args=settings, train_dataset=rows, processing_class=tokenizer)

    for tokens, row in zip(trainer.train_dataset, rows, strict=True):
        whole = tokenizer.apply_chat_template(row["prompt"] + row["rejected"], tokenize=False)
        assert tokenizer.decode(tokens["rejected_ids"]) == whole


def test_the_command_takes_a_configuration_of_fit(tmp_path: Path) -> None:
    path = prepare(tmp_path)
    command = ["render", str(path), "--format", "trl", "-o", str(tmp_path / "rendered"), "--epochs", "1"]

    done = CliRunner().invoke(app, command)

    assert done.exit_code == 0, done.output
    assert done.output == f"train: 16 rows of 16 examples\nwritten to {tmp_path / 'rendered'}\n"
    fit = load_config(FitConfig, path, {}, ["training.epochs=1"])
    assert lines(tmp_path / "rendered", "train") == [*write_rows(fit, tiny_tokenizer(), tmp_path / "rows").train]


def test_the_command_needs_data_and_a_method_alone(tmp_path: Path) -> None:
    prepare(tmp_path, rows=4)
    command = ["render", "-d", str(tmp_path / "data.json"), "--method", "pba", "-f", "openrlhf"]

    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "rendered"), "--split", "test"])

    assert done.exit_code == 0, done.output
    first = orjson.loads((tmp_path / "data.json").read_bytes())[0]
    prompt = lines(tmp_path / "rendered", "test")[0]["pba_prompt"]
    assert [turn["role"] for turn in prompt] == ["system", "user"]
    assert first["prompt"] in prompt[1]["content"]
    assert first["profile"] in prompt[1]["content"]


def test_without_a_method_the_command_names_the_option(tmp_path: Path) -> None:
    prepare(tmp_path, rows=4)
    command = ["render", "-d", str(tmp_path / "data.json"), "-f", "trl", "-o", str(tmp_path / "rendered")]

    done = CliRunner().invoke(app, command)

    assert done.exit_code == 2
    expected = "'persona.method' (--method) is required: 'ica' or 'pba'\n"
    assert " ".join(done.output.split()) == f"error: the command line: {expected.strip()}"


def test_no_epochs_are_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["render", str(prepare(tmp_path)), "-f", "trl", "-o", str(tmp_path / "rendered"), "--epochs", "0"]
    )

    assert done.exit_code == 2
    assert "training.epochs" in done.output


def test_the_method_is_that_of_the_file_and_of_the_model_only_without_one(tmp_path: Path) -> None:
    path, model = prepare(tmp_path, rows=4), tmp_path / "model"
    (model / "run.json").write_bytes(orjson.dumps({"config": {"persona": {"method": "pba"}}}))
    runs = {"by_file": [str(path)], "by_model": ["-d", str(tmp_path / "data.json")]}

    for name, source in runs.items():
        command = ["render", *source, "-m", str(model), "-f", "openrlhf", "-o", str(tmp_path / name)]
        done = CliRunner().invoke(app, command)
        assert done.exit_code == 0, done.output

    assert "ica_prompt" in lines(tmp_path / "by_file", "train")[0]
    assert "pba_prompt" in lines(tmp_path / "by_model", "train")[0]


def test_a_split_that_is_no_name_is_refused(tmp_path: Path) -> None:
    done = CliRunner().invoke(
        app, ["render", str(prepare(tmp_path)), "-f", "trl", "-o", str(tmp_path / "rendered"), "--split", "../x"]
    )

    assert done.exit_code == 2
    assert "expected the name of a split, such as 'train'" in done.output
