"""Tests that each benchmark reads the arguments that its parser defines."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

_BENCHMARKS = sorted((Path(__file__).parents[2] / "benchmarks").rglob("*.py"))


@pytest.mark.parametrize("path", _BENCHMARKS, ids=lambda path: f"{path.parent.name}.{path.stem}")
def test_a_benchmark_reads_exactly_the_arguments_that_it_defines(path: Path) -> None:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    defined = {
        ast.literal_eval(node.args[0]).lstrip("-").replace("-", "_")
        for node in nodes
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument"
    }
    read = {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "arguments"
    }

    assert read == defined
