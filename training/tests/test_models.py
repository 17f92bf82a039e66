from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import torch

from everyuser_train.models import adapter_base, load_model, load_tokenizer, resolve, trained_method
from schemas import packaged_models
from schemas.base import UsageError
from tests.tiny import save_adapters, save_tiny, tiny_tokenizer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "base")
    return tmp_path


def test_a_folder_loads_in_the_asked_dtype_ready_to_evaluate(folder: Path) -> None:
    model = load_model(str(folder / "base"), dtype="bfloat16")

    assert model.dtype == torch.bfloat16
    assert not model.training


def test_adapters_load_with_their_base_and_its_tokenizer(folder: Path) -> None:
    save_adapters(folder / "adapters", str(folder / "base"), trained=False)

    model = load_model(str(folder / "adapters"), dtype="float32")

    assert adapter_base(str(folder / "adapters")) == (str(folder / "base"), None)
    assert adapter_base(str(folder / "base")) is None
    assert any("lora_A" in name for name, _ in model.named_parameters())
    assert load_tokenizer(str(folder / "adapters")).chat_template is not None


def test_the_packaged_model_is_known_under_adapters_of_another_machine(tmp_path: Path) -> None:
    path = tmp_path / "adapter_config.json"
    path.write_bytes(
        orjson.dumps({"base_model_name_or_path": "/elsewhere/everyuser/smollm2-135m-instruct", "revision": None})
    )

    assert adapter_base(str(tmp_path)) == (packaged_models.SMALL, None)


def test_a_tokenizer_gets_a_padding_token(folder: Path) -> None:
    tokenizer = tiny_tokenizer()
    tokenizer.pad_token = None
    tokenizer.save_pretrained(folder / "base")

    assert load_tokenizer(str(folder / "base")).pad_token == "</s>"


def test_a_model_without_chat_template_is_refused(folder: Path) -> None:
    (folder / "base" / "chat_template.jinja").unlink()

    with pytest.raises(UsageError, match="has no chat template"):
        load_tokenizer(str(folder / "base"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("packaged:other", packaged_models.SMALL),
        (packaged_models.SMALL.capitalize(), packaged_models.SMALL),
        ("./no-such-folder", "no model there"),
        ("~/no-such-folder", "no model there"),
    ],
)
def test_what_is_no_model_is_named(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        resolve(name)


def test_the_folder_of_a_run_names_its_model(tmp_path: Path) -> None:
    model = save_tiny(tmp_path / "model")

    with pytest.raises(UsageError, match=f"no model there .*; the run's model is {model}"):
        resolve(str(tmp_path))


def test_a_broken_folder_is_one_line(folder: Path) -> None:
    (folder / "base" / "model.safetensors").unlink()

    with pytest.raises(UsageError, match="cannot be loaded") as caught:
        load_model(str(folder / "base"))
    assert "\n" not in str(caught.value)


def test_the_method_is_read_from_the_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_bytes(orjson.dumps({"config": {"persona": {"method": "pba"}}}))

    assert trained_method(str(tmp_path)) == "pba"
    assert trained_method("owner/model") is None


def test_code_beside_the_weights_is_never_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    (folder / "base" / "code.py").write_text(f"open({str(ran)!r}, 'w')\nclass Config: pass\nclass Model: pass\n")
    config = orjson.loads((folder / "base" / "config.json").read_bytes())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (folder / "base" / "config.json").write_bytes(orjson.dumps(config))

    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(str(folder / "base"), dtype="float32")
    assert not ran.exists()


def test_weights_that_are_a_pickle_of_code_are_never_run(folder: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    class Code:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(ran), "w")

    for path in (folder / "base").glob("*.safetensors"):
        path.unlink()
    torch.save({"x": Code()}, folder / "base" / "pytorch_model.bin")

    with pytest.raises(UsageError, match="cannot be loaded"):
        load_model(str(folder / "base"), dtype="float32")
    assert not ran.exists()
