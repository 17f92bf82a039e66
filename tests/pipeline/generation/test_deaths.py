"""What a server's death says of a request."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.generation.classify import Transient
from pipeline.generation.dispatcher import Dispatcher
from pipeline.generation.endpoints import Endpoint


@pytest.mark.parametrize(("reason", "deaths"), [("unreachable", 0), ("connection", 1)])
def test_a_death_counts_for_a_request_that_had_reached_the_server(reason: str, deaths: int) -> None:
    item = SimpleNamespace(is_alone=False, most_together=16, deaths=0)
    restarted: Any = SimpleNamespace(
        _endpoints=SimpleNamespace(restarts=lambda: 1), _availability=SimpleNamespace(record_up=lambda: None)
    )

    judged = Dispatcher._judge(restarted, item, Endpoint("vllm", "http://x/v1", 0), 0.0, 0.0, Transient(reason, ""))  # type: ignore[arg-type]

    assert asyncio.run(judged) == "retry"
    assert item.deaths == deaths
