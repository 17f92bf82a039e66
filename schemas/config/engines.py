"""Sections `engine`, `requests` and `workers`: who answers requests, and the machines."""

from __future__ import annotations

import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from schemas.base import Record
from schemas.config.fields import KeyVariable
from schemas.problems import Fits


class PriceConfig(Record):
    """What an engine costs: by tokens, by time, or both. Prices change no row."""

    prompt: float = Field(0.0, ge=0, description="Price of a million prompt tokens.")
    completion: float = Field(0.0, ge=0, description="Price of a million completion tokens.")
    hour: float = Field(0.0, ge=0, description="Price of an hour of the run, of all machines together.")
    currency: str = Field("USD", description="Currency of the prices.")

    @property
    def is_due(self) -> bool:
        """Return whether any of the prices is above 0."""
        return self.prompt + self.completion + self.hour > 0

    def nanos(self, prompt: float, completion: float) -> int:
        """Return the price of so many tokens in billionths of the currency."""
        return round(1000 * (self.prompt * prompt + self.completion * completion))


_PRICE = "What the engine costs, for `everyuser plan`, `limits.max_cost` and the money shown; null: unknown."


class VllmEngine(Record):
    """A local vLLM server that the build starts, supervises and stops."""

    kind: Literal["vllm"] = "vllm"
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="`auto`: `cuda` where `nvidia-smi` works, else `cpu`."
    )
    args: tuple[str, ...] = Field((), description="Further arguments of the vLLM server.")
    command: tuple[str, ...] | None = Field(
        None,
        description="Program that takes vLLM's server arguments; null: vLLM of this Python.",
    )
    start_seconds: float = Field(900.0, gt=0, description="Longest wait for the server's first answer.")
    max_restarts: int = Field(3, ge=0, description="Most restarts of a server that dies.")
    in_flight: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Most requests in flight, and vLLM's `--max-num-seqs`; null: by the device (12 a CPU core, from 16 "
        "to 128; 6 for each GiB of a GPU's memory, from 32 to 512).",
    )
    price: PriceConfig | None = Field(None, description=_PRICE)

    @field_validator("args")
    @classmethod
    def _no_key(cls, args: tuple[str, ...]) -> tuple[str, ...]:
        if any(arg.startswith(("--api-key", "--hf-token")) for arg in args):
            raise ValueError(
                "a key would be published with the manifest: leave '--api-key' out, which a local server does not "
                "need, and set HF_TOKEN in place of '--hf-token'"
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
    ] = Field(min_length=1, description="Base URLs, each ending in `/v1`. Requests go to the least busy endpoint.")
    api_key_env: KeyVariable = Field(
        "OPENAI_API_KEY",
        description="Name of the environment variable with the key, in capital letters; never the key itself.",
    )
    in_flight: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="Most requests in flight over all endpoints; null: 256 for each. The build begins with 16 and "
        "finds out how many make the most tokens a second.",
    )
    price: PriceConfig | None = Field(None, description=_PRICE)

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
                # A query may hold a key, so it is not shown.
                shown = re.sub(r"([?#]).+", r"\1...", url)
                raise ValueError(
                    f"'{shown}' is not a base URL: expected http:// or https://, a host, an optional port from 1 to "
                    "65535 and a path without '?' and '#', such as 'http://localhost:8000/v1'; put a key into the "
                    "environment variable that engine.api_key_env names"
                )
        return urls


class ReplayEngine(Record):
    """No model: completions come from the journal of an earlier build."""

    kind: Literal["replay"]
    journal: str = Field(
        description="The `journal` folder of an earlier build or a copy of it, local or at `s3://` or `gs://`. Its "
        "files may be compressed (`.jsonl.gz`). `packaged`: the recorded replies of the quickstart."
    )


class DummyEngine(Record):
    """No model: replies are words drawn by a hash of the request, for tests of the pipeline at any size."""

    kind: Literal["dummy"]


Engine = Annotated[VllmEngine | OpenAiEngine | ReplayEngine | DummyEngine, Field(discriminator="kind")]


class RequestsConfig(Record):
    """Timeouts and retries of requests."""

    timeout_seconds: float = Field(
        120.0,
        gt=0,
        description="Longest silence: time without a token while the endpoint works on other requests. Before its "
        "first token a request waits for its turn, however long that takes. While the endpoint as a whole is silent "
        "but says that it is healthy, requests wait five times as long. Where a server does not stream, and for trial "
        "requests at the start, the time without an answer to any request. A timeout alone loses no row: the request "
        "is sent again later, in the end alone.",
    )
    max_retries: int = Field(
        3,
        ge=0,
        description="Most retries after a lost connection, a 5xx, 409, 425 or a garbled reply, while the endpoint "
        "answers other requests; the last one comes after the requests that are queued. While the endpoint answers "
        "none, `outage_seconds` applies. With 0 the start of an outage may cost rows.",
    )
    max_wait_seconds: float = Field(
        600.0,
        gt=0,
        description="Longest wait on 429 and 503. The run stops where every endpoint is busy for longer or asks for a "
        "longer wait (`Retry-After`); the same command resumes it.",
    )
    outage_seconds: float = Field(
        60.0,
        gt=0,
        description="Longest outage. The run stops when no endpoint has worked for this long after a failure (no "
        "connection, no token for `timeout_seconds`, 5xx, an error with status 200), or the build's bucket is "
        "unreachable for this long; the same command resumes it.",
    )
    journal: bool = Field(
        True,
        description="Store every reply. Without the journal an interrupted shard is generated again from the start, "
        "and the build cannot be replayed. The journal is about as large as the replies.",
    )


class WorkersConfig(Record):
    """Machines of a distributed runner; the local runner has none. Options after `--` override these keys."""

    image: str | None = Field(
        None, description="Container image of the workers (`--sdk_container_image`); `deploy/Dockerfile` builds one."
    )
    machine_type: str | None = Field(
        None, description="Machine type of a worker (`--machine_type`), such as `g2-standard-8`."
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
        description="Resource hint of the generation stage only, such as "
        "`type:nvidia-l4;count:1;install-nvidia-driver`.",
    )
    memory: (
        Annotated[str, Field(pattern=r"^\d+(\.\d+)?[KMGT]i?B$"), Fits("a number with its unit, such as '32GB'")] | None
    ) = Field(None, description="Resource hint of the generation stage only: memory of its machines, such as `32GB`.")
    threads: int = Field(
        16, ge=1, description="Shards in progress in a worker process (`--number_of_worker_harness_threads`)."
    )
    max_workers: int | None = Field(None, ge=1, description="Most workers of autoscaling (`--max_num_workers`).")
    disk_gb: int | None = Field(
        None, ge=1, description="Disk of a worker in GB (`--disk_size_gb`), for image and model."
    )
    experiments: tuple[str, ...] = Field((), description="Further `--experiments` of the runner.")
