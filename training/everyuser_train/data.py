"""Readers of datasets: a folder of the pipeline, a Hub dataset, or a JSON file with AlignX's columns."""

from __future__ import annotations

import codecs
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Annotated, Any, NamedTuple, get_args, overload

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from everyuser_train.config import DataSource
from everyuser_train.directions import Inferred, read_directions, with_directions
from everyuser_train.examples import Example, PairItem, UgcItem, user_of
from everyuser_train.sources import first_line, is_file, open_dataset, read_space
from preference_space.direction import Direction, from_released
from preference_space.space import PreferenceSpace
from schemas.base import UsageError
from schemas.problems import describe_errors
from schemas.records import Kind as PairKind


class Loaded(NamedTuple):
    """A split of a dataset with N rows, and the space of its directions, if it has one.

    `pairs` (N,) is the number of each row's pair. Two rows of a pair are mirror images. Without a `pair_id` each row is
    a pair. `users` (N,) is the number of each row's user, equal for a user and its mirror image; None without users.
    """

    space: PreferenceSpace | None
    examples: Sequence[Example]
    pairs: npt.NDArray[np.int64]
    users: npt.NDArray[np.int64] | None = None

    @property
    def groups(self) -> npt.NDArray[np.int64]:
        """Return what is sampled together, (N,): the number of each row's user, or else of its pair."""
        return self.pairs if self.users is None else self.users

    def take(self, rows: Sequence[int]) -> Loaded:
        """Return some rows, read into memory."""
        examples = [self.examples[row] for row in rows]
        return Loaded(self.space, examples, self.pairs[rows], None if self.users is None else self.users[rows])


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
    kind: Any = None
    user_id: str | int | None = None
    user_direction: list[float] | None = None


def load(source: DataSource, split: str) -> Loaded:
    """Return a split, or its rows of `source.kinds`, with the inferred directions in `source.directions`.

    Rows of a folder or Hub dataset stay on disk until they are read. A file has one split, under any name.

    Raises:
        UsageError: The dataset is missing, empty or of an unknown schema, or a row lacks AlignX's columns. Rows on disk
            are checked when they are read.
    """
    reader = _reader(source)
    examples: Sequence[Example]
    if is_file(source.path):
        examples = tuple(_wanted(source, _file_examples(Path(source.path), reader)))
        pairs, users = [example.pair_id for example in examples], [example.user_id for example in examples]
    else:
        dataset = open_dataset(source, split, streaming=False)

        def column(name: str, rows: Sequence[int]) -> list[Any]:
            values = dataset[name][: rows[-1] + 1] if name in dataset.column_names and rows else None
            return [None if values is None else values[row] for row in rows]

        numbers: Sequence[int] = range(len(dataset))
        if source.kinds is not None:
            kinds = column("kind", numbers)
            numbers = [number for number in numbers if kinds[number] in source.kinds]
        numbers = numbers[: source.limit]
        examples = _Rows(dataset, numbers, reader)
        pairs, users = column("pair_id", numbers), column("user_id", numbers)
    if not examples:
        raise UsageError(_no_rows(source, split))
    known = [None if not user else user_of(str(user)) for user in users]
    return Loaded(reader.space, examples, _numbered(pairs), None if None in known else _numbered(known))


def stream(source: DataSource, split: str) -> Iterator[Example]:
    """Yield the examples of `load` without loading the split. Raises `UsageError` as `load` does, some of it late."""
    reader = _reader(source)
    if is_file(source.path):
        return _wanted(source, _file_examples(Path(source.path), reader))
    return _wanted(source, _streamed(open_dataset(source, split, streaming=True), split, reader))


def _wanted(source: DataSource, examples: Iterator[Example]) -> Iterator[Example]:
    """Return an iterator of the first `source.limit` examples of `source.kinds`."""
    kinds = source.kinds
    return islice((example for example in examples if kinds is None or example.kind in kinds), source.limit)


def _no_rows(source: DataSource, split: str) -> str:
    if source.kinds is None:
        return f"{source.path}: has no rows"
    return f"{source.path}: split '{split}' has no rows of kind {' or '.join(source.kinds)}; set data.kinds to others"


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
            kind=row.kind if row.kind in get_args(PairKind) else None,
            user_id=None if not row.user_id else str(row.user_id),
            user_direction=self._direction(row.user_direction or None),
            # With users, a portrait is of the whole user.
            portrait_direction=self._direction(row.user_direction or None),
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

    def __init__(self, dataset: Any, numbers: Sequence[int], reader: _Reader) -> None:
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


def _streamed(dataset: Any, split: str, reader: _Reader) -> Iterator[Example]:
    rows = iter(dataset)
    number = 0
    while True:
        try:
            row = next(rows)
        except StopIteration:
            return
        except Exception as error:  # A dataset's reader can raise anything.
            raise UsageError(f"{reader.origin}: cannot read the rest of split '{split}': {first_line(error)}") from None
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
