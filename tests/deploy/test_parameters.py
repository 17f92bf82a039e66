"""The Flex Template's parameters, and their description for Google."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any

import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from pydantic import ValidationError

from deploy.parameters import BuildParameters, Parameters, TemplateMetadata, metadata, page
from tests import ROOT

FILE = ROOT / "deploy" / "template.json"

BY_THE_LAUNCHER = {"runner", "project", "job_name", "region", "template_location", "temp_location", "staging_location"}
"""Options that the launcher adds: a template must not have parameters of these names."""


def document(**changes: Any) -> str:
    """A metadata file with one parameter, some of its fields changed."""
    parameter = {"name": "config", "label": "Configuration", "helpText": "A file.", "paramType": "TEXT"} | changes
    return json.dumps({"name": "x", "description": "y", "streaming": False, "parameters": [parameter]})


def test_the_file_is_up_to_date() -> None:
    assert FILE.read_text(encoding="utf-8") == page(), "run: python -m deploy.parameters > deploy/template.json"


def test_the_module_prints_the_file() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "deploy.parameters"], cwd=ROOT, capture_output=True, check=True
    ).stdout

    assert printed.decode() == page()


def test_the_file_has_the_format_of_google() -> None:
    assert TemplateMetadata.model_validate_json(FILE.read_bytes()) == metadata()


def test_the_service_takes_the_file() -> None:
    types = pytest.importorskip("google.cloud.dataflow_v1beta3.types", reason="apache-beam[gcp] is missing")

    parsed = types.TemplateMetadata.from_json(FILE.read_text(encoding="utf-8"), ignore_unknown_fields=False)

    assert [parameter.name for parameter in parsed.parameters] == [*Parameters.model_fields]
    assert not parsed.streaming


@pytest.mark.parametrize(
    "changes",
    [{"paramType": "FILE"}, {"helpText": ""}, {"label": ""}, {"name": "a-b"}, {"regexes": ["("]}, {"default": "1"}],
    ids=str,
)
def test_what_is_not_in_the_format_of_google_is_refused(changes: dict[str, Any]) -> None:
    TemplateMetadata.model_validate_json(document())

    with pytest.raises(ValidationError):
        TemplateMetadata.model_validate_json(document(**changes))


def test_two_parameters_of_one_name_are_refused() -> None:
    (parameter, *_) = metadata().parameters

    with pytest.raises(ValidationError, match="same name"):
        TemplateMetadata(name="x", description="y", streaming=False, parameters=(parameter, parameter))


def test_only_configuration_and_output_are_required() -> None:
    assert [entry.name for entry in metadata().parameters if not entry.is_optional] == ["config", "output"]


def test_no_parameter_is_one_that_the_launcher_adds() -> None:
    assert not BY_THE_LAUNCHER & Parameters.model_fields.keys()


def test_beam_knows_every_parameter_that_is_not_taken_here() -> None:
    handed_on = Parameters.model_fields.keys() - BuildParameters.model_fields.keys()

    assert handed_on
    assert handed_on <= PipelineOptions([]).get_all_options().keys()


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("config", "gs://bucket/folder/my.yaml", "gs://bucket/my.json"),
        ("config", "gs://my-bucket.example/my.yml", "my.yaml"),
        ("output", "gs://bucket/my folder", "gs://bucket"),
        ("disk_size_gb", "300", "300GB"),
        ("machine_type", "g2-standard-8", "G2 standard"),
        ("experiments", "one,two=2", "one, two"),
        ("sdk_container_image", "us-docker.pkg.dev/p/r/everyuser@sha256:0a", "a b"),
    ],
)
def test_google_and_we_check_values_alike(name: str, good: str, bad: str) -> None:
    (entry,) = [entry for entry in metadata().parameters if entry.name == name]
    rest = {"config": "gs://bucket/my.yaml", "output": "gs://bucket/my"}

    assert all(re.search(regex, good) for regex in entry.regexes)
    assert not all(re.search(regex, bad) for regex in entry.regexes)
    Parameters.model_validate(rest | {name: good})
    with pytest.raises(ValidationError):
        Parameters.model_validate(rest | {name: bad})
