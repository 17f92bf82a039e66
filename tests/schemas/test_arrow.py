from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Features, List, Value, load_dataset

from schemas.arrow import arrow_schema, hf_metadata, to_table
from schemas.base import Record
from schemas.records import Example, Pair, PairItem, Rejection, Response, SeedPost, Thread, UgcItem
from tests.schemas.records import ALIGNX_COLUMNS, example, pair

RECORDS = [Example, Pair, PairItem, Rejection, Response, SeedPost, Thread, UgcItem]


def test_example_begins_with_the_columns_of_alignx_to_the_letter() -> None:
    assert arrow_schema(Example).names[:7] == ALIGNX_COLUMNS


def test_columns_of_ours_are_snake_case() -> None:
    names = arrow_schema(Example).names[7:]

    assert names
    assert all(name.isidentifier() and name == name.lower() for name in names)


def test_history_items_have_the_fields_of_alignx() -> None:
    schema = arrow_schema(Example)

    ugc = schema.field("User-Generated Content").type.value_type
    pairs = schema.field("Pair-wise Comparative Feedback").type.value_type

    assert [field.name for field in ugc] == ["prompt", "comment", "Preference Direction"]
    assert [field.name for field in pairs] == ["prompt", "chosen", "rejected", "Preference Direction"]


def test_released_direction_is_a_list_of_doubles() -> None:
    field = arrow_schema(Example).field("Preference Direction")

    assert pa.types.is_list(field.type)
    assert field.type.value_type == pa.float64()


def test_levels_are_int8() -> None:
    assert arrow_schema(Pair).field("direction").type.value_type == pa.int8()


@pytest.mark.parametrize("model", RECORDS)
def test_only_what_a_judge_may_not_have_said_is_nullable(model: type[Record]) -> None:
    nullable = {field.name for field in arrow_schema(model) if field.nullable}

    assert nullable <= {"verified", "order_agreement", "quality_chosen", "quality_rejected"}


def test_null_is_stored_as_null() -> None:
    verified = pair(direction_margin=(0.5, None, -1.0), quality_chosen=0.75)

    (row,) = to_table([verified], arrow_schema(Pair)).to_pylist()

    assert (row["direction_margin"], row["quality_chosen"], row["quality_rejected"]) == ([0.5, None, -1.0], 0.75, None)


@pytest.mark.parametrize("model", RECORDS)
def test_metadata_restores_the_features_that_datasets_derives(model: type[Record]) -> None:
    schema = arrow_schema(model)

    restored = Features.from_dict(json.loads(hf_metadata(schema)["huggingface"])["info"]["features"])

    assert restored == Features.from_arrow_schema(schema)


@pytest.mark.parametrize("model", RECORDS)
def test_metadata_equals_what_datasets_itself_writes(model: type[Record]) -> None:
    schema = arrow_schema(model)

    theirs = Features.from_arrow_schema(schema).arrow_schema.metadata[b"huggingface"]

    assert json.loads(hf_metadata(schema)["huggingface"]) == json.loads(theirs)


def test_metadata_of_a_history_item_is_spelled_out() -> None:
    schema = arrow_schema(UgcItem)

    restored = Features.from_arrow_schema(schema.with_metadata(hf_metadata(schema)))

    assert restored == Features(
        {"prompt": Value("string"), "comment": Value("string"), "Preference Direction": List(Value("float64"))}
    )


def test_table_round_trips_through_parquet_to_an_equal_record(tmp_path: Path) -> None:
    before = example()

    pq.write_table(to_table([before], arrow_schema(Example)), tmp_path / "rows.parquet")
    row = pq.read_table(tmp_path / "rows.parquet").to_pylist()[0]

    assert Example.model_validate_json(json.dumps(row)) == before


def test_table_has_exactly_the_given_schema() -> None:
    schema = arrow_schema(Example)

    assert to_table([example()], schema).schema.equals(schema)


def test_table_keeps_the_order_of_its_records() -> None:
    table = to_table([pair(pair_id=f"p-{number}") for number in (3, 1, 2)], arrow_schema(Pair))

    assert table["pair_id"].to_pylist() == ["p-3", "p-1", "p-2"]


def test_table_reads_an_iterator_once() -> None:
    table = to_table((pair(pair_id=f"p-{number}") for number in range(3)), arrow_schema(Pair))

    assert table.num_rows == 3


def test_table_of_no_records_has_the_schema_and_no_rows() -> None:
    schema = arrow_schema(Example)

    table = to_table([], schema)

    assert table.num_rows == 0
    assert table.schema.equals(schema)


def test_example_without_history_keeps_empty_lists() -> None:
    bare = example().model_copy(update={"user_generated_content": (), "pairwise_feedback": ()})

    row = to_table([bare], arrow_schema(Example)).to_pylist()[0]

    assert row["User-Generated Content"] == []
    assert row["Pair-wise Comparative Feedback"] == []


def test_datasets_opens_a_file_with_the_features_of_its_footer(tmp_path: Path) -> None:
    schema = arrow_schema(Example)
    table = to_table([example()], schema).replace_schema_metadata(hf_metadata(schema))
    pq.write_table(table, tmp_path / "rows.parquet")

    loaded = load_dataset(
        "parquet", data_files=str(tmp_path / "rows.parquet"), split="train", cache_dir=str(tmp_path / "cache")
    )

    assert loaded.features == Features.from_arrow_schema(schema)
    assert loaded[0]["User-Generated Content"][0]["comment"] == "Yes, a cat."


def test_a_type_without_an_arrow_counterpart_is_refused() -> None:
    class Odd(Record):
        value: complex

    with pytest.raises(TypeError, match="no Arrow type for"):
        arrow_schema(Odd)


def test_literals_are_stored_as_the_type_of_their_values() -> None:
    class Marked(Record):
        colour: Literal["red", "blue"]
        answer: Literal[1, 2]

    assert arrow_schema(Marked).types == [pa.string(), pa.int64()]
