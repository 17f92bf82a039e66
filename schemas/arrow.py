"""Arrow schemas and Hugging Face features, derived from the Pydantic records."""

from __future__ import annotations

import json
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pyarrow as pa

from schemas.base import Record

_SCALARS: dict[Any, pa.DataType] = {str: pa.string(), int: pa.int64(), float: pa.float64(), bool: pa.bool_()}


def arrow_schema(model: type[Record]) -> pa.Schema:
    """Return the Arrow schema of a record. Columns have the aliases ("Preference Direction"), as in the release."""
    return pa.schema(list(_fields(model)))


def hf_metadata(schema: pa.Schema) -> dict[str, str]:
    """Return the Parquet metadata from which `datasets` restores its `Features` without reading a row."""
    features = {field.name: _feature(field.type) for field in schema}
    return {"huggingface": json.dumps({"info": {"features": features}})}


def card_features(schema: pa.Schema) -> list[dict[str, Any]]:
    """Return the columns as a dataset card lists them (`dataset_info.features`)."""
    return [{"name": field.name} | _card_feature(field.type) for field in schema]


def to_table(records: Iterable[Record], schema: pa.Schema) -> pa.Table:
    """Return flat records as a table, in their order. Built by column, which is ten times faster than by row."""
    rows = [record.model_dump(by_alias=True) for record in records]
    return pa.Table.from_arrays(
        [pa.array([row[field.name] for row in rows], field.type) for field in schema], schema=schema
    )


def _fields(model: type[Record]) -> Iterable[pa.Field]:
    for name, field in model.model_fields.items():
        annotation: Any = field.annotation
        for extra in field.metadata:
            if isinstance(extra, str):
                annotation = Annotated[annotation, extra]
        yield pa.field(field.alias or name, _type(annotation), nullable=None in _options(annotation))


def _type(annotation: Any) -> pa.DataType:
    if annotation in _SCALARS:
        return _SCALARS[annotation]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        named = next((a for a in arguments[1:] if isinstance(a, str)), None)
        return pa.type_for_alias(named) if named else _type(arguments[0])
    if options := _options(annotation):
        (inner,) = options - {None}
        return _type(inner)
    if origin is Literal:
        return _SCALARS[type(arguments[0])]
    if origin is tuple and arguments[1:] == (Ellipsis,):
        return pa.list_(pa.field("element", _type(arguments[0])))
    if isinstance(annotation, type) and issubclass(annotation, Record):
        return pa.struct(list(_fields(annotation)))
    raise TypeError(f"no Arrow type for {annotation!r}")


def _options(annotation: Any) -> set[Any]:
    """Return the types of a union, with None for that of null; empty for another annotation."""
    if get_origin(annotation) not in (Union, types.UnionType):
        return set()
    return {None if kind is types.NoneType else kind for kind in get_args(annotation)}


def _feature(arrow: pa.DataType) -> Mapping[str, Any]:
    if pa.types.is_list(arrow):
        return {"feature": _feature(arrow.value_type), "_type": "List"}
    if pa.types.is_struct(arrow):
        return {field.name: _feature(field.type) for field in arrow}
    names = {"double": "float64", "float": "float32"}
    return {"dtype": names.get(str(arrow), str(arrow)), "_type": "Value"}


def _card_feature(arrow: pa.DataType) -> dict[str, Any]:
    if not pa.types.is_list(arrow):
        return {"dtype": _feature(arrow)["dtype"]}
    inner = arrow.value_type
    return {"list": card_features(inner) if pa.types.is_struct(inner) else _feature(inner)["dtype"]}
