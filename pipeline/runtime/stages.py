"""Stages of a DAG from pure functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_type_hints

import apache_beam as beam


def stage(function: Callable[..., Any], *arguments: Any) -> beam.PTransform:
    """Return a stage that calls `function(element, *arguments)`.

    The function's return annotation becomes the type of the stage's output, by which Beam finds the coder. Beam itself
    cannot read annotations that are strings.
    """
    return beam.Map(function, *arguments).with_output_types(get_type_hints(function)["return"])
