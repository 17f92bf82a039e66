"""Waiting for what another thread or process does."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.forks import Fork


def wait_until(
    condition: Callable[[], object],
    process: Fork | None = None,
    pause: Callable[[], object] = lambda: time.sleep(0.005),
    seconds: float = 300,
) -> None:
    """Wait until a condition holds, and fail the test if that takes too long.

    Args:
        condition: Evaluated again after each pause.
        process: A process that must still run when the condition holds: a test that stops it then stops something.
        pause: What to do between two evaluations.
        seconds: The longest wait.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, f"waited for more than {seconds} s"
        pause()
    assert process is None or process.poll() is None, process.communicate()
