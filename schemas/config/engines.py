"""Sections `engine`, `requests` and `workers`: who answers requests, and the machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from schemas.base import Record
from schemas.problems import Fits, Hidden


class VllmEngine(Record):
    """A vLLM server on loopback, started, supervised and ended by the build."""

    kind: Literal["vllm"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="`auto`: CUDA where `nvidia-smi` answers.")
    args: tuple[str, ...] = Field((), description="Further arguments of the vLLM server.")
    command: tuple[str, ...] | None = Field(
        None,
        description="The program that takes vLLM's server arguments; by default vLLM's own, in this Python.",
    )
    start_seconds: float = Field(900.0, gt=0, description="How long the server may take to answer for the first time.")
    max_restarts: int = Field(3, ge=0, description="How often a server that died is started again.")
    in_flight: int = Field(64, ge=1, description="Requests in flight at once, at most.")

    @field_validator("args")
    @classmethod
    def _no_key(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        if any(arg.startswith(("--api-key", "--hf-token")) for arg in args):
            raise ValueError(
                "a key would be published with the manifest: '--api-key' is not needed on loopback, "
                "and '--hf-token' is the environment variable HF_TOKEN"
            )
        return args


class OpenAiEngine(Record):
    """One or more OpenAI-compatible endpoints that serve the same model."""

    kind: Literal["openai"]
    base_urls: tuple[
        Annotated[
            str,
            Field(pattern=r"^https?://[^\s@]+$"),
            Fits("an address without user and password, such as 'http://localhost:8000/v1'"),
        ],
        ...,
    ] = Field(min_length=1, description="Base URLs, each up to and with `/v1`; requests go to the least busy.")
    api_key_env: Annotated[
        str,
        # A key has small letters or hyphens. It would be written to the manifest, and published with it.
        Field(pattern=r"^[A-Z_][A-Z0-9_]{0,63}$"),
        Fits(
            "the name of an environment variable in capital letters, such as OPENAI_API_KEY; the key itself belongs "
            "into that variable"
        ),
        Hidden(),
    ] = Field(
        "OPENAI_API_KEY",
        description="Environment variable, in capital letters, that holds the key, if one is needed. Never the key.",
    )
    in_flight: int = Field(64, ge=1, description="Requests in flight at once, at most, over all endpoints.")

    @field_validator("base_urls")
    @classmethod
    def _are_addresses(cls, urls: tuple[str, ...]) -> tuple[str, ...]:
        for url in urls:
            try:
                parts = urlsplit(url)
                is_address = bool(parts.hostname) and parts.port != 0 and not parts.query and not parts.fragment
            except ValueError:
                is_address = False
            if not is_address:
                # What follows may hold a key.
                shown = re.sub(r"([?#]).+", r"\1...", url)
                raise ValueError(
                    f"'{shown}' is no base URL: expected http:// or https://, a host, perhaps a port from 1 to 65535, "
                    "and a path without '?' and '#', such as 'http://localhost:8000/v1'; a key belongs into the "
                    "environment variable that engine.api_key_env names"
                )
        return urls


class ReplayEngine(Record):
    """No model: completions come from the journal of an earlier build."""

    kind: Literal["replay"]
    journal: str = Field(
        description="The `journal` folder of an earlier build, here or at `s3://` or `gs://`, or a copy of it."
    )


class DummyEngine(Record):
    """No model: replies are words drawn by a hash of the request. For trials of the machinery, at any size."""

    kind: Literal["dummy"]


Engine = Annotated[VllmEngine | OpenAiEngine | ReplayEngine | DummyEngine, Field(discriminator="kind")]


class RequestsConfig(Record):
    """How requests are retried."""

    timeout_seconds: float = Field(120.0, gt=0, description="Longest wait for one reply.")
    max_retries: int = Field(
        3,
        ge=0,
        description="Attempts after the first for a timeout, a lost connection, a 5xx, 408, 409, 425 or a garbled "
        "reply, where the endpoint answers other requests meanwhile. Where it answers none, `outage_seconds` counts; "
        "with 0 the beginning of an outage may cost rows.",
    )
    max_wait_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest wait on 429 and 503. The run stops where every endpoint is busy for longer, or asks for "
        "a longer wait (`Retry-After`); the same command continues it.",
    )
    outage_seconds: float = Field(
        60.0,
        gt=0,
        description="Longest outage: the run stops when no endpoint has worked for this long after a first failure (no "
        "connection, timeout, 5xx, an error with status 200), or when the bucket that holds the build is away for so "
        "long; the same command continues it.",
    )
    journal: bool = Field(
        True,
        description="Keep every reply. Without it a shard that was interrupted is asked for anew, all of it, and the "
        "build cannot be replayed; what it saves is about the size of the replies.",
    )


class WorkersConfig(Record):
    """The machines of a distributed runner. The local runner has none; options after `--` win over these."""

    image: str | None = Field(
        None, description="Container image of the workers (`--sdk_container_image`); `deploy/Dockerfile` makes one."
    )
    machine_type: str | None = Field(
        None, description="Machine of a worker (`--machine_type`), such as `g2-standard-8`."
    )
    accelerator: (
        Annotated[
            str,
            Field(pattern=r"^type:[\w-]+;count:\d+(;[\w.:-]+)*$"),
            Fits("a hint such as 'type:nvidia-l4;count:1;install-nvidia-driver'"),
        ]
        | None
    ) = Field(
        None,
        description="Resource hint of the generation stage alone, such as "
        "`type:nvidia-l4;count:1;install-nvidia-driver`.",
    )
    memory: (
        Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMGT]i?B$"), Fits("a number with its unit, such as '32GB'")] | None
    ) = Field(
        None, description="Resource hint of the generation stage alone: memory that its machines must have (`32GB`)."
    )
    threads: int = Field(
        16, ge=1, description="Shards that a worker's process works on at once (`--number_of_worker_harness_threads`)."
    )
    max_workers: int | None = Field(
        None, ge=1, description="Most workers that autoscaling may start (`--max_num_workers`)."
    )
    disk_gb: int | None = Field(None, ge=1, description="Disk of a worker (`--disk_size_gb`): image and model need it.")
    experiments: tuple[str, ...] = Field((), description="Further `--experiments` of the runner.")
