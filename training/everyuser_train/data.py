"""Readers of datasets: a folder of the pipeline, a Hub dataset, or a JSON file with AlignX's columns."""

from __future__ import annotations

import codecs
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, overload

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everyuser_train.config import DataSource
from everyuser_train.directions import Inferred, read_directions, with_directions
from everyuser_train.examples import Example, PairItem, UgcItem
from preference_space.direction import Direction, from_released
from preference_space.space import PreferenceSpace, load_space
from schemas import SCHEMA_VERSION
from schemas.base import UsageError
from schemas.problems import describe_errors

_PAIR_ID = "pair_id"
_MANIFEST = "manifest.json"
_SPACE = "preference_space.yaml"
_FILES = (".json", ".jsonl")
_HUB_ID = re.compile(r"[\w.-]+(?:/[\w.-]+)?")


class Loaded(NamedTuple):
    """A split of a dataset with N rows, and the space of its directions, if it has one.

    `pairs` (N,) is the number of each row's pair. Two rows of a pair are mirror images. Without a `pair_id` each row is
    a pair.
    """

    space: PreferenceSpace | None
    examples: Sequence[Example]
    pairs: npt.NDArray[np.int64]


_Published = Annotated[list[float] | None, Field(alias="Preference Direction")]


class _Columns(BaseModel):
    """Columns of AlignX; others are ignored."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class _Ugc(_Columns):
    prompt: str
    comment: str
    direction: _Published = None


class _Pair(_Columns):
    prompt: str
    chosen: str
    rejected: str
    direction: _Published = None


class _Row(_Columns):
    prompt: str
    chosen: str
    rejected: str
    direction: _Published = None
    portrait: str | None = Field(None, alias="Demographic Information")
    ugc: list[_Ugc] | None = Field(None, alias="User-Generated Content")
    pair: list[_Pair] | None = Field(None, alias="Pair-wise Comparative Feedback")
    profile: str | None = None
    id: str | int | None = None
    post_id: str | int | None = None
    pair_id: str | int | None = None


def load(source: DataSource, split: str) -> Loaded:
    """Return a split, with the inferred directions in `source.directions`.

    Rows of a folder or Hub dataset stay on disk until they are read. A file has one split, under any name.

    Raises:
        UsageError: The dataset is missing, empty or of an unknown schema, or a row lacks AlignX's columns. Rows on disk
            are checked when they are read.
    """
    reader = _reader(source)
    examples: Sequence[Example]
    if _is_file(source.path):
        examples = tuple(islice(_file_examples(Path(source.path), reader), source.limit))
        pairs = _numbered([example.pair_id for example in examples])
    else:
        dataset = _dataset(source, split, streaming=False)
        examples = _Rows(dataset, range(len(dataset))[: source.limit], reader)
        known = _PAIR_ID in dataset.column_names
        pairs = _numbered(dataset[_PAIR_ID][: len(examples)] if known else [None] * len(examples))
    if not examples:
        raise UsageError(f"{source.path}: has no rows")
    return Loaded(reader.space, examples, pairs)


def stream(source: DataSource, split: str) -> Iterator[Example]:
    """Yield the examples of `load` without loading the split. Raises `UsageError` as `load` does, some of it late."""
    reader = _reader(source)
    if _is_file(source.path):
        return islice(_file_examples(Path(source.path), reader), source.limit)
    return islice(_streamed(_dataset(source, split, streaming=True), split, reader), source.limit)


def read_space(source: DataSource) -> PreferenceSpace | None:
    """Return the preference space that `source` names, else the dataset's own, else None.

    Raises `UsageError` for a missing dataset, an unknown schema, or a space that cannot be read.
    """
    own = None if _is_file(source.path) else _dataset_space(source.path, source.revision)
    path = own if source.space is None else Path(source.space)
    return None if path is None else load_space(path)


class _Reader(NamedTuple):
    """Converter of a dataset's rows to examples."""

    origin: str
    space: PreferenceSpace | None
    inferred: dict[str, Inferred] | None

    def example(self, row: object, number: int) -> Example:
        """Return a row as an example. Raises `UsageError` that names the row and the column."""
        if not isinstance(row, Mapping):
            raise UsageError(f"{self.origin}: row {number + 1} is not a JSON object")
        try:
            checked = _Row.model_validate(row)
        except ValidationError as error:
            raise UsageError(f"{self.origin}: row {number + 1}, {describe_errors(_Row, row, error)}") from None
        try:
            example = self._to_example(checked, number)
        except ValueError as error:
            raise UsageError(f"{self.origin}: row {number + 1}, 'Preference Direction': {error}") from None
        if self.inferred is None:
            return example
        try:
            return with_directions(example, self.inferred)
        except ValueError as error:
            raise UsageError(f"{self.origin}: {error}") from None

    def _to_example(self, row: _Row, number: int) -> Example:
        return Example(
            number=number,
            id=str(number if row.id is None else row.id),
            pair_id=None if row.pair_id is None else str(row.pair_id),
            post=_hash(row.prompt) if row.post_id is None else str(row.post_id),
            prompt=row.prompt,
            chosen=row.chosen,
            rejected=row.rejected,
            direction=self._direction(row.direction),
            profile=row.profile or None,
            portrait=row.portrait or "",
            ugc=tuple(UgcItem(item.prompt, item.comment, self._direction(item.direction)) for item in row.ugc or ()),
            pair=tuple(
                PairItem(item.prompt, item.chosen, item.rejected, self._direction(item.direction))
                for item in row.pair or ()
            ),
        )

    def _direction(self, values: list[float] | None) -> Direction | None:
        if values is None:
            return None
        if self.space is not None and len(values) != len(self.space.dimensions):
            known = f"space {self.space.name} has {len(self.space.dimensions)} dimensions"
            raise ValueError(f"{len(values)} numbers, where {known}")
        return from_released(values)


def _reader(source: DataSource) -> _Reader:
    space = read_space(source)
    inferred = read_directions(source.directions) if source.directions else None
    return _Reader(source.path, space, inferred)


class _Rows(Sequence[Example]):
    """Rows `numbers` of a dataset on disk, converted to examples when read."""

    def __init__(self, dataset: Any, numbers: range, reader: _Reader) -> None:
        self._dataset = dataset
        self._numbers = numbers
        self._reader = reader

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Example: ...

    @overload
    def __getitem__(self, index: slice) -> _Rows: ...

    def __getitem__(self, index: int | slice) -> Example | _Rows:
        if isinstance(index, slice):
            return _Rows(self._dataset, self._numbers[index], self._reader)
        number = self._numbers[index]
        return self._reader.example(self._dataset[number], number)


def _is_file(path: str) -> bool:
    """Return True for a JSON file. Raises `UsageError` for one that does not exist."""
    if not path.endswith(_FILES) or Path(path).is_dir():
        return False
    if not Path(path).is_file():
        raise UsageError(f"{path}: no such file")
    return True


def _dataset_space(path: str, revision: str | None) -> Path | None:
    """Return the space file of a folder or a Hub dataset, after a check of the manifest."""
    manifest = _metadata_file(path, _MANIFEST, revision)
    digest = _check_manifest(path, manifest) if manifest is not None else None
    space = _metadata_file(path, _SPACE, revision)
    if space is not None and digest is not None and hashlib.sha256(space.read_bytes()).hexdigest() != digest:
        raise UsageError(f"{path}: its {_SPACE} is not the file that the dataset was built with; restore that file")
    return space


def _metadata_file(path: str, name: str, revision: str | None) -> Path | None:
    """Return the path of a file of the dataset, or None if there is no such file."""
    if Path(path).is_dir():
        return Path(path, name) if Path(path, name).is_file() else None
    if not _HUB_ID.fullmatch(path):
        raise UsageError(f"{path}: no such folder; give a folder, a Hub id or a file that ends in .json or .jsonl")
    from huggingface_hub import _CACHED_NO_EXIST, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.errors import LocalEntryNotFoundError, RemoteEntryNotFoundError

    try:
        return Path(hf_hub_download(path, name, repo_type="dataset", revision=revision))
    except RemoteEntryNotFoundError:
        return None
    except LocalEntryNotFoundError:
        # Offline. The Hub's cache also records which files a dataset lacks.
        known = try_to_load_from_cache(path, name, revision=revision, repo_type="dataset")
        if known is _CACHED_NO_EXIST:
            return None
        raise UsageError(f"{path}: no such folder, and the Hub cannot be reached") from None
    except Exception as error:  # The Hub's client does not wrap the errors of its HTTP library.
        raise UsageError(f"{path}: neither a folder nor readable from the Hub: {_first_line(error)}") from None


def _check_manifest(origin: str, path: Path) -> str | None:
    """Return the hash of the dataset's space, if the manifest names one.

    Raises `UsageError` for an unknown schema or an unfinished build.
    """
    try:
        manifest = orjson.loads(path.read_bytes())
    except (OSError, orjson.JSONDecodeError) as error:
        raise UsageError(f"{origin}: its {_MANIFEST} cannot be read: {error}") from None
    # Another tool's manifest has no schema version of ours.
    if not isinstance(manifest, dict) or "schema_version" not in manifest:
        return None
    version = manifest["schema_version"]
    if version != SCHEMA_VERSION:
        raise UsageError(
            f"{origin}: has schema version {version!r}, but this everyuser reads {SCHEMA_VERSION!r}; install the "
            "version that built it"
        )
    status = manifest.get("status", "complete")
    if status == "missed_gate":
        raise UsageError(f"{origin}: the build misses a gate of its limits; run `everyuser build` with other limits")
    if status != "complete":
        raise UsageError(f"{origin}: the build has status '{status}'; finish it with `everyuser build`")
    inputs = manifest.get("inputs")
    return inputs.get(_SPACE) if isinstance(inputs, dict) else None


def _dataset(source: DataSource, split: str, *, streaming: bool) -> Any:
    # A slow import that JSON files do not need.
    from datasets import load_dataset

    try:
        return load_dataset(source.path, split=split, revision=source.revision, streaming=streaming)
    except Exception as error:  # As above; a dataset's reader can also raise anything.
        detail = _first_line(error.__cause__ or error)
        raise UsageError(f"{source.path}: cannot load split '{split}': {detail}") from None


def _streamed(dataset: Any, split: str, reader: _Reader) -> Iterator[Example]:
    rows = iter(dataset)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # As above.
            raise UsageError(
                f"{reader.origin}: cannot read the rest of split '{split}': {_first_line(error)}"
            ) from None
        yield reader.example(row, number)
        number += 1


def _file_examples(path: Path, reader: _Reader) -> Iterator[Example]:
    for number, row in enumerate(_file_rows(path)):
        yield reader.example(row, number)


def _file_rows(path: Path) -> Iterator[Any]:
    """Yield the rows of a JSON list or of JSON lines. The content decides, not the file's name."""
    try:
        with path.open("rb") as file:
            first = file.readline().removeprefix(codecs.BOM_UTF8).strip()
            if first.startswith(b"["):
                yield from orjson.loads(first + file.read())
                return
            for number, line in enumerate(chain((first,), file), 1):
                if line.strip():
                    yield _json_line(path, number, line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path}: is not JSON: {error}") from None
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror or error}") from None


def _json_line(path: Path, number: int, line: bytes) -> Any:
    try:
        return orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{path}: line {number} is not JSON: {error}") from None


def _numbered(names: Sequence[object]) -> npt.NDArray[np.int64]:
    """Return a number for each name, shape (N,): equal for equal names, unique for each None."""
    numbers: dict[object, int] = {}
    keys = (row if name is None else (name,) for row, name in enumerate(names))
    return np.array([numbers.setdefault(key, row) for row, key in enumerate(keys)], dtype=np.int64)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
