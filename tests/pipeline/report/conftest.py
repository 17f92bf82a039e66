from __future__ import annotations

import pytest

from tests.pipeline.report.builds import Row, random_shards, rows_of


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """The rows of random shards."""
    return [row for _, row in rows_of(random_shards(100))]
