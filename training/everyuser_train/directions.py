"""The file of inferred directions: `infer` writes it, and every reader of a dataset can apply it to examples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import orjson

from everyuser_train.examples import Example, PairItem, UgcItem
from everyuser_train.files import replacing
from preference_space.direction import Direction, from_released, to_released, verbalise
from preference_space.space import PreferenceSpace
from schemas.base import UsageError

Item = TypeVar("Item", UgcItem, PairItem)


class Inferred(NamedTuple):
    """Directions of an example's persona, each of shape (D,); None for a part that was not judged.

    `direction` aggregates all judged parts; it is neutral if there is none.
    """

    direction: Direction
    ugc: tuple[Direction | None, ...]
    pair: tuple[Direction | None, ...]
    portrait: Direction | None

    @property
    def judged(self) -> int:
        """Return the number of parts with a direction."""
        return sum(part is not None for part in (*self.ugc, *self.pair, self.portrait))


def write_directions(
    path: Path, examples: Sequence[Example], results: Sequence[Inferred], space: PreferenceSpace
) -> None:
    """Write a row for each example: its id, its directions in published values (0, 0.5, 1), and their labels."""
    rows = [
        {
            "id": example.id,
            "Preference Direction": _released(result.direction),
            "profile": verbalise(space, result.direction),
            "ugc": [_released(part) for part in result.ugc],
            "pair": [_released(part) for part in result.pair],
            "portrait": _released(result.portrait),
        }
        for example, result in zip(examples, results, strict=True)
    ]
    with replacing(path) as scratch:
        if path.suffix == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            direction = pa.list_(pa.float32())
            fields = {"id": pa.string(), "Preference Direction": direction, "profile": pa.string()}
            fields |= {"ugc": pa.list_(direction), "pair": pa.list_(direction), "portrait": direction}
            pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields.items())), scratch)
        else:
            scratch.write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in rows))


def read_directions(paths: Sequence[str]) -> dict[str, Inferred]:
    """Return the directions in files of `write_directions`, by example id. Raises `UsageError` for another file."""
    found: dict[str, Inferred] = {}
    for path in map(Path, paths):
        try:
            found |= {
                row["id"]: Inferred(
                    from_released(row["Preference Direction"]),
                    tuple(map(_level, row["ugc"])),
                    tuple(map(_level, row["pair"])),
                    _level(row["portrait"]),
                )
                for row in _rows(path)
            }
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{path} is not a file of inferred directions: {type(error).__name__}: {error}") from None
    return found


def check_replaceable(path: Path) -> None:
    """Raise `UsageError` for a path that has another file than one of directions, since its content would be lost."""
    if path.exists():
        try:
            read_directions([str(path)])
        except UsageError as error:
            raise UsageError(f"{error}; name another output, or remove it") from None


def with_directions(example: Example, found: Mapping[str, Inferred]) -> Example:
    """Return the example with its inferred directions.

    Judged history items and portraits take the inferred direction. The example's own direction is filled in only if the
    data have none. Raises `ValueError` if `found` lacks this example, or was inferred from another history.
    """
    try:
        theirs = found[example.id]
    except KeyError:
        raise ValueError(f"example {example.id} has no inferred direction; infer those of the same split") from None
    if (theirs.ugc and len(theirs.ugc) != len(example.ugc)) or (theirs.pair and len(theirs.pair) != len(example.pair)):
        raise ValueError(f"example {example.id} has another history than the one its directions were inferred from")
    return replace(
        example,
        direction=theirs.direction if example.direction is None else example.direction,
        portrait_direction=example.portrait_direction if theirs.portrait is None else theirs.portrait,
        ugc=_filled(example.ugc, theirs.ugc),
        pair=_filled(example.pair, theirs.pair),
    )


def _filled(items: tuple[Item, ...], directions: Sequence[Direction | None]) -> tuple[Item, ...]:
    if not directions:
        return items
    return tuple(
        item if direction is None else item._replace(direction=direction)
        for item, direction in zip(items, directions, strict=True)
    )


def _rows(path: Path) -> Iterator[Any]:
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches():
                yield from batch.to_pylist()
        return
    with path.open("rb") as lines:
        yield from (orjson.loads(line) for line in lines)


def _released(direction: Direction | None) -> list[float] | None:
    return None if direction is None else to_released(direction).tolist()


def _level(values: Sequence[float] | None) -> Direction | None:
    return None if values is None else from_released(values)
