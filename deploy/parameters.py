"""The parameters of the Flex Template, and their description in Google's format.

`python -m deploy.parameters > deploy/template.json` writes the description; a test compares.
"""

from __future__ import annotations

import re
import sys
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, field_validator
from pydantic.alias_generators import to_camel

from schemas.base import Record
from schemas.problems import Fits


def _text(pattern: str, kind: str = "TEXT") -> Any:
    """Return the field of a text value. Google's console has an input for each kind."""
    return Field(pattern=pattern, json_schema_extra={"paramType": kind})


Count = Annotated[str, _text(r"^[1-9][0-9]*$", "NUMBER"), Fits("a whole number of at least 1")]
File = Annotated[
    str,
    _text(r"^gs://[a-z0-9._-]+/.+[.]ya?ml$", "GCS_READ_FILE"),
    Fits("a YAML file in a bucket, such as 'gs://bucket/my.yaml'"),
]
Folder = Annotated[
    str, _text(r"^gs://[a-z0-9._-]+/.+$", "GCS_WRITE_FOLDER"), Fits("a folder in a bucket, such as 'gs://bucket/my'")
]
Machine = Annotated[str, _text(r"^[a-z][a-z0-9-]+$", "MACHINE_TYPE"), Fits("a machine type, such as 'g2-standard-8'")]
Word = Annotated[str, _text(r"^[^ ]+$"), Fits("a text without spaces")]


class BuildParameters(Record):
    """Parameters that `deploy.launch` reads itself."""

    config: File = Field(
        title="Configuration", description="The build's configuration, a YAML file; docs/config.md has its keys."
    )
    output: Folder = Field(
        title="Output folder", description="Where the dataset goes; an unfinished build there is resumed."
    )
    overrides: str | None = Field(
        None,
        title="Overrides",
        description="Keys of the configuration to override, separated and quoted as in a shell: pairs=5000 "
        "'engine={kind: vllm, in_flight: 256}'.",
    )
    sdk_container_image: Word | None = Field(
        None,
        title="Image of the workers",
        description="The image that the template was made with. Required, unless the configuration has workers.image.",
    )
    disk_size_gb: Count | None = Field(
        None,
        title="Disk of a worker (GB)",
        description="By default workers.disk_gb of the configuration, or else 200: image and model must fit.",
    )


class Parameters(BuildParameters):
    """All parameters of the template. Those of this class go to Beam unchanged, and win over the configuration.

    Dataflow refuses a parameter that is not listed. Network, service account and public addresses are left out: they
    also concern the launcher's machine, so `gcloud dataflow flex-template run` has flags for them.
    """

    machine_type: Machine | None = Field(
        None, title="Machine of a worker", description="Such as g2-standard-8, which has one L4."
    )
    num_workers: Count | None = Field(None, title="Workers at first", description="How many workers to begin with.")
    max_num_workers: Count | None = Field(
        None, title="Most workers", description="How many workers autoscaling may start."
    )
    number_of_worker_harness_threads: Count | None = Field(
        None, title="Threads of a worker", description="Shards that a worker works on at once."
    )
    experiments: Word | None = Field(
        None, title="Experiments", description="Experiments of Beam and Dataflow, separated by commas."
    )
    dataflow_service_options: Word | None = Field(
        None, title="Service options", description="Options of the Dataflow service, separated by commas."
    )


class _Google(Record):
    model_config = ConfigDict(alias_generator=to_camel)


class ParameterMetadata(_Google):
    """A parameter, in Google's format."""

    name: str = Field(pattern=r"^[a-zA-Z][a-zA-Z0-9_]*$")
    label: str = Field(min_length=1)
    help_text: str = Field(min_length=1)
    is_optional: bool = False
    regexes: tuple[str, ...] = ()
    param_type: Literal[
        "DEFAULT", "TEXT", "GCS_READ_BUCKET", "GCS_WRITE_BUCKET", "GCS_READ_FILE", "GCS_WRITE_FILE", "GCS_READ_FOLDER",
        "GCS_WRITE_FOLDER", "PUBSUB_TOPIC", "PUBSUB_SUBSCRIPTION", "BIGQUERY_TABLE", "JAVASCRIPT_UDF_FILE",
        "SERVICE_ACCOUNT", "MACHINE_TYPE", "KMS_KEY_NAME", "WORKER_REGION", "WORKER_ZONE", "BOOLEAN", "ENUM", "NUMBER",
        "KAFKA_TOPIC", "KAFKA_READ_TOPIC", "KAFKA_WRITE_TOPIC",
    ]  # fmt: skip

    @field_validator("regexes")
    @classmethod
    def _compile(cls, regexes: tuple[str, ...]) -> tuple[str, ...]:
        for regex in regexes:
            try:
                re.compile(regex)
            except re.error as error:
                raise ValueError(f"'{regex}' is not a regular expression: {error}") from None
        return regexes


class TemplateMetadata(_Google):
    """A Flex Template's metadata file, in Google's format."""

    name: str = Field(min_length=1)
    description: str
    streaming: bool
    parameters: tuple[ParameterMetadata, ...]

    @field_validator("parameters")
    @classmethod
    def _differ(cls, parameters: tuple[ParameterMetadata, ...]) -> tuple[ParameterMetadata, ...]:
        names = [parameter.name for parameter in parameters]
        if len(set(names)) < len(names):
            raise ValueError("two parameters have the same name")
        return parameters


def metadata() -> TemplateMetadata:
    """Return the description of the template."""
    schema = Parameters.model_json_schema()
    return TemplateMetadata(
        name="everyuser",
        description="Builds a personalised preference dataset: pairs of replies, written by a model on the workers.",
        streaming=False,
        parameters=tuple(
            _parameter(name, entry, name not in schema["required"]) for name, entry in schema["properties"].items()
        ),
    )


def _parameter(name: str, entry: dict[str, Any], is_optional: bool) -> ParameterMetadata:
    # An optional field has its rules one level deeper, beside null.
    rules = entry | entry.get("anyOf", [{}])[0]
    return ParameterMetadata(
        name=name,
        label=entry["title"],
        help_text=entry["description"],
        is_optional=is_optional,
        regexes=(rules["pattern"],) if "pattern" in rules else (),
        param_type=rules.get("paramType", "TEXT"),
    )


def page() -> str:
    """Return the content of the metadata file."""
    return metadata().model_dump_json(by_alias=True, exclude_defaults=True, indent=2) + "\n"


if __name__ == "__main__":
    sys.stdout.write(page())
