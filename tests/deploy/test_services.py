"""The YAML files: Google Cloud Build's, and that of a Flink cluster to try."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
import yaml
from apache_beam.options.pipeline_options import FlinkRunnerOptions

from tests import ROOT

CLOUDBUILD = (ROOT / "deploy" / "cloudbuild.yaml").read_text(encoding="utf-8")
FLINK = (ROOT / "deploy" / "flink-compose.yaml").read_text(encoding="utf-8")


def steps() -> dict[str, dict[str, Any]]:
    return {step["id"]: step for step in yaml.safe_load(CLOUDBUILD)["steps"]}


def test_cloud_build_takes_the_file() -> None:
    cloudbuild = pytest.importorskip("google.cloud.devtools.cloudbuild_v1.types", reason="apache-beam[gcp] is missing")

    parsed = cloudbuild.Build.from_json(json.dumps(yaml.safe_load(CLOUDBUILD)), ignore_unknown_fields=False)

    assert [step.id for step in parsed.steps] == ["token", "image", "push", "template"]
    assert parsed.timeout.total_seconds() >= 3600
    assert parsed.options.disk_size_gb >= 200


def test_every_substitution_is_used_and_no_other() -> None:
    document = yaml.safe_load(CLOUDBUILD)
    used = set(re.findall(r"\$\{(\w+)\}", json.dumps(document)))

    assert used - {"BUILD_ID", "PROJECT_ID"} == document["substitutions"].keys()
    assert not re.findall(r"\$[^{]", json.dumps(document))


def test_the_files_that_it_names_are_there() -> None:
    named = re.findall(r"--(?:metadata-)?file=(\S+)", CLOUDBUILD)

    assert sorted(named) == ["deploy/Dockerfile", "deploy/template.json"]
    assert all((ROOT / name).is_file() for name in named)


def test_the_image_is_pushed_before_the_template_names_it() -> None:
    names = [*steps()]

    assert names.index("image") < names.index("push") < names.index("template")
    assert "--tag=${_IMAGE}:${_TAG}" in steps()["image"]["args"]
    assert "--image=${_IMAGE}:${_TAG}" in steps()["template"]["args"]


def test_the_token_is_a_secret_of_the_build_outside_of_what_is_copied() -> None:
    arguments = steps()["image"]["args"]

    assert "--secret=id=hf_token,src=/secrets/hf_token" in arguments
    assert {volume["path"] for name in ("token", "image") for volume in steps()[name]["volumes"]} == {"/secrets"}
    assert not [argument for argument in arguments if "_TOKEN_SECRET" in argument]


def test_the_workers_of_flink_share_the_network_of_its_task_manager() -> None:
    services = yaml.safe_load(FLINK)["services"]
    workers = services["workers"]

    assert services.keys() == {"jobmanager", "taskmanager", "workers"}
    assert workers["network_mode"] == "service:taskmanager"
    assert workers["command"] == ["--worker_pool"]
    assert "--environment_type=EXTERNAL --environment_config=localhost:50000" in FLINK


def test_the_workers_of_flink_are_built_from_a_stage_that_is_there() -> None:
    built = yaml.safe_load(FLINK)["services"]["workers"]["build"]

    dockerfile = (ROOT / "deploy" / built["context"] / built["dockerfile"]).resolve()
    assert dockerfile == ROOT / "deploy" / "Dockerfile"
    assert f" AS {built['target']}\n" in dockerfile.read_text(encoding="utf-8")


def test_beam_knows_that_version_of_flink() -> None:
    (version,) = set(re.findall(r"image: flink:(\d+\.\d+)\.\d+-java11$", FLINK, re.MULTILINE))

    assert FLINK.count("image: flink:") == 2
    assert version in FlinkRunnerOptions.PUBLISHED_FLINK_VERSIONS
    assert f"--flink_version={version} " in FLINK
