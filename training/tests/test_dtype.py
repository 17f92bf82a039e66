from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch
import yaml

from everyuser_train import models
from everyuser_train.config import EvaluateConfig, FitConfig, ModelConfig
from everyuser_train.evaluate import evaluate
from everyuser_train.fit import fit
from everyuser_train.infer import LocalModel
from everyuser_train.judge import JudgeConfig
from everyuser_train.loader import load_config
from schemas.base import UsageError
from tests.small import Silent, prepare
from tests.test_evaluate import rows_of, settings_of, write
from tests.tiny import save_tiny

CONFIGS = Path(__file__).parents[1] / "configs"


def machine(monkeypatch: pytest.MonkeyPatch, device: str, has_bfloat16: bool) -> None:
    """Let PyTorch find this device, with instructions for bfloat16 or without."""
    monkeypatch.setattr(models, "best_device", lambda: device)
    flags = {"avx2": True, "avx512_bf16": has_bfloat16 and device == "cpu"}
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: flags)
    # PyTorch also emulates bfloat16 on older GPUs.
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or has_bfloat16
    )


@pytest.mark.parametrize(
    ("device", "has_bfloat16", "dtype"),
    [
        ("cpu", True, "bfloat16"),
        ("cpu", False, "float32"),
        ("cuda", True, "bfloat16"),
        ("cuda", False, "float32"),
        ("mps", True, "float32"),
    ],
)
def test_auto_is_what_the_machine_computes_in(
    monkeypatch: pytest.MonkeyPatch, device: str, has_bfloat16: bool, dtype: str
) -> None:
    machine(monkeypatch, device, has_bfloat16)

    assert models.resolve_dtype("auto") == dtype
    assert models.resolve_dtype("float16") == "float16"


@pytest.mark.parametrize("flag", ["avx512_bf16", "amx_bf16", "bf16"])
def test_each_instruction_set_for_bfloat16_counts(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    machine(monkeypatch, "cpu", False)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {flag: True, "avx512_fp16": True})

    assert models.resolve_dtype("auto") == "bfloat16"


@pytest.mark.parametrize("record", [ModelConfig, LocalModel, JudgeConfig, EvaluateConfig])
def test_auto_is_the_default_and_no_record_holds_it(monkeypatch: pytest.MonkeyPatch, record: Any) -> None:
    machine(monkeypatch, "cpu", True)
    data, judge = {"path": "x"}, {"base_url": "http://x/v1", "model": "x"}
    required = {
        "kind": "local",
        "name": "x",
        "model": "x",
        "method": "ica",
        "data": data,
        "judge": judge,
        "output": "x",
    }
    required = {name: value for name, value in required.items() if name in record.model_fields}

    default = "float32" if record is EvaluateConfig else "bfloat16"
    assert record.model_validate(required).dtype == default
    assert record.model_validate(required | {"dtype": "auto"}).dtype == "bfloat16"
    assert record.model_validate(required | {"dtype": "float32"}).dtype == "float32"


def test_a_model_loads_in_what_the_machine_computes_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = save_tiny(tmp_path / "model")
    for has_bfloat16, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        machine(monkeypatch, "cpu", has_bfloat16)
        assert models.load_model(name).dtype == dtype


def test_small_recipes_leave_the_type_to_the_machine_and_the_papers_do_not() -> None:
    for path in CONFIGS.glob("*-*.yaml"):
        if (model := yaml.safe_load(path.read_text()).get("model")) is not None:
            assert model.get("dtype") == ("bfloat16" if path.name.startswith("paper") else None), path


def test_a_run_is_not_resumed_in_another_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = prepare(tmp_path, rows=4)
    path.write_text(path.read_text().replace("dtype: float32, ", ""))
    keys = ["training.max_steps=1"]
    machine(monkeypatch, "cpu", False)
    first = load_config(FitConfig, path, {}, keys)
    fit(first, Silent())
    assert orjson.loads((tmp_path / "out" / "run.json").read_bytes())["config"]["model"]["dtype"] == "float32"

    machine(monkeypatch, "cpu", True)
    advice = "--set 'model.dtype=\"float32\"'"
    with pytest.raises(UsageError) as refused:
        fit(load_config(FitConfig, path, {}, keys), Silent())
    assert "holds a run with model.dtype 'float32', but now it is 'bfloat16'" in str(refused.value)
    assert str(refused.value).endswith(f"or resume by {advice}")

    resumed = load_config(FitConfig, path, {}, [*keys, advice.split("'")[1]])
    assert resumed == first
    fit(resumed, Silent())


def test_an_evaluation_reports_its_type_and_reuses_no_score_of_another(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    names = [save_tiny(tmp_path / f"model{seed}", seed) for seed in (0, 1)]
    settings = settings_of(names, write(tmp_path, rows_of(2)), str(tmp_path / "cache"))
    given = settings.model_dump() | {"dtype": "auto"}
    reports = []
    for has_bfloat16 in (False, True):
        machine(monkeypatch, "cpu", has_bfloat16)
        reports.append(evaluate(EvaluateConfig.model_validate(given)))

    assert [report.dtype for report in reports] == ["float32", "bfloat16"]
    first, second = (report.results[0].metrics["margin"].value for report in reports)
    assert first != second
