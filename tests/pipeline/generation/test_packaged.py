from __future__ import annotations

import uuid
from pathlib import Path

import pytest
from upath import UPath

from pipeline.build import build
from pipeline.generation.packaged import model_path
from pipeline.io import storage
from schemas.base import UsageError, UserError
from schemas.packaged_models import SMALL, folder_name
from tests.forks import python
from tests.object_stores import ObjectStore
from tests.pipeline.helpers import tiny


def test_a_hub_id_is_used_as_it_is() -> None:
    assert model_path("Qwen/Qwen3-8B") == "Qwen/Qwen3-8B"


def test_a_folder_with_a_model_is_used(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert model_path(str(tmp_path)) == str(tmp_path)


def test_a_folder_may_begin_with_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")

    assert model_path("~/model") == str(tmp_path / "model")


@pytest.mark.parametrize("name", ["missing", "empty"])
def test_a_folder_without_a_model_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()

    with pytest.raises(UserError) as caught:
        model_path(str(tmp_path / name))

    assert "generation.model" in str(caught.value)
    assert str(tmp_path / name) in str(caught.value)


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ("./nothing", "nothing holds no model (no config.json there)"),
        ("smollm2-135m-instruct", "the packaged model is named 'packaged:smollm2-135m-instruct'"),
        ("SmolLM2-135M-Instruct", "the packaged model is named 'packaged:smollm2-135m-instruct'"),
    ],
)
def test_a_wrong_model_is_found_before_the_build_begins(tmp_path: Path, model: str, said: str) -> None:
    engine = {"kind": "vllm", "command": ["vllm"]}

    with pytest.raises(UsageError) as caught:
        build(tiny(generation={"model": model}, engine=engine), tmp_path / "out")

    assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_the_packaged_model_is_taken_from_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoint = tmp_path / "everyuser" / folder_name(SMALL)
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    assert model_path(SMALL) == str(checkpoint)


# A model of a bucket

MODEL = {"config.json": b"{}", "model.safetensors": bytes(1_000_000), "original/params.json": b"[]"}
COPY_SLOWLY = """
import sys, time
from pipeline.io import storage
from pipeline.build import build
from pipeline.generation.packaged import model_path
def slowly(folder, target):
    print("copied", flush=True)
    time.sleep(1)
    download(folder, target)
download, storage.download = storage.download, slowly
print("ready", flush=True)
sys.stdin.readline()
print(model_path(sys.argv[1]))
"""


@pytest.fixture(params=["s3", "gs"])
def store(request: pytest.FixtureRequest) -> ObjectStore:
    found: ObjectStore = request.getfixturevalue(f"{request.param}_store")
    return found


@pytest.fixture
def source(store: ObjectStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> UPath:
    """A folder of a bucket that holds nothing yet; the cache is `tmp_path`."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = storage.parse(f"{store.url}/{uuid.uuid4().hex}/qwen")
    assert not storage.is_local(found)
    return found


def upload(source: UPath, files: dict[str, bytes] = MODEL) -> None:
    for name, content in files.items():
        storage.write_bytes(source / name, content)


def error_of(model: object) -> str:
    """Return the error for a model that does not exist."""
    with pytest.raises(UserError) as caught:
        model_path(str(model))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def folders(cache: Path) -> list[Path]:
    return [path for path in (cache / "everyuser").iterdir() if path.is_dir()]


def test_a_model_of_a_bucket_is_copied_once(source: UPath, tmp_path: Path) -> None:
    upload(source)
    upload(source.parent / "qwen2", {"config.json": b"another"})

    folder = Path(model_path(str(source)))

    assert folder.parent == tmp_path / "everyuser"
    assert folder.name.startswith("qwen-")
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert {name: path.read_bytes() for name, path in found.items()} == MODEL
    assert folders(tmp_path) == [folder]

    storage.remove_tree(source)

    assert model_path(str(source)) == str(folder)
    assert (folder / "config.json").is_file()


def test_models_of_one_name_are_kept_apart(source: UPath, tmp_path: Path) -> None:
    others = [source, source.parent / "other" / "qwen"]
    for number, other in enumerate(others):
        upload(other, {"config.json": b"%d" % number})

    found = [Path(model_path(str(other))) for other in others]

    assert [(folder / "config.json").read_bytes() for folder in found] == [b"0", b"1"]
    assert len(folders(tmp_path)) == 2


def test_a_bucket_that_is_a_model_is_copied(store: ObjectStore, source: UPath) -> None:
    bucket = storage.parse(store.url)
    assert not storage.is_local(bucket)
    upload(bucket)

    folder = Path(model_path(store.url))

    assert (folder / "config.json").read_bytes() == b"{}"


def test_a_model_that_is_not_there_is_told_and_leaves_nothing(source: UPath, tmp_path: Path) -> None:
    upload(source.parent / "qwen2")

    assert error_of(source) == f"generation.model: {source} holds no model: nothing is there"
    assert folders(tmp_path) == []


@pytest.mark.parametrize("files", [{"weights.bin": b"x"}, {"inner/config.json": b"{}"}], ids=["none", "not at the top"])
def test_a_folder_of_a_bucket_without_a_model_is_told_and_leaves_nothing(
    source: UPath, tmp_path: Path, files: dict[str, bytes]
) -> None:
    upload(source, files)

    assert error_of(source) == f"generation.model: {source} holds no model (no config.json there)"
    assert folders(tmp_path) == []

    upload(source)

    assert (Path(model_path(str(source))) / "config.json").is_file()


def test_a_bucket_that_lets_nobody_in_is_told(store: ObjectStore, source: UPath, tmp_path: Path) -> None:
    text = error_of(f"{store.private_url}/qwen")

    assert text.startswith(f"cannot read {store.private_url}/qwen: ")
    assert folders(tmp_path) == []


def test_a_copy_that_breaks_off_leaves_nothing_and_is_made_again(
    source: UPath, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    upload(source)

    def breaking(folder: UPath, target: Path) -> None:
        target.mkdir()
        (target / "config.json").write_text("{}")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "download", breaking)
        text = error_of(source)

    assert "cannot write" in text and "No space left on device" in text
    assert folders(tmp_path) == []
    assert (Path(model_path(str(source))) / "model.safetensors").stat().st_size == 1_000_000


def test_two_processes_at_once_copy_a_model_once(source: UPath, tmp_path: Path) -> None:
    upload(source)
    processes = [python(COPY_SLOWLY, str(source)) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    lines = [process.communicate(timeout=60)[0].splitlines() for process in processes]

    assert sum(found.count("copied") for found in lines) == 1
    assert {found[-1] for found in lines} == {str(folder) for folder in folders(tmp_path)}
    assert len(folders(tmp_path)) == 1


def test_a_local_folder_is_named_by_its_path(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")

    assert error_of(f"file://{tmp_path}") == f"generation.model: file://{tmp_path}: name a local folder by its path"


def test_an_address_that_nobody_knows_is_told() -> None:
    assert error_of("nope://bucket/qwen").startswith("nope://bucket/qwen: cannot be used: ")
