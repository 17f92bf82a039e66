"""Prices and throughputs of rented machines, each with its source, and what tokens take on them.

    GPU-hours   = tokens / (tokens a second of a server x 3600) x GPUs of a server
    price       = GPU-hours / GPUs of a machine x price of a machine-hour

A throughput holds for the prompts and replies of its measurement. If their ratio differs from ours, the hours are
between two bounds, which only assume that a prompt token takes no longer than a completion token (`hours`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from schemas.base import UsageError


class Source(NamedTuple):
    """Where figures come from. `prompt_ratio`: prompt tokens for each completion token of a benchmark's requests."""

    text: str
    prompt_ratio: float = 0.0


_SHAREGPT_RATIO = 217_393 / 200_516
"""Tokens of 1,000 ShareGPT requests of vLLM's own benchmark (https://github.com/vllm-project/vllm/issues/17788)."""

SOURCES = {
    "a": Source(
        "LambdaLabsML/vllm-benchmark (https://github.com/LambdaLabsML/vllm-benchmark/blob/main/benchmark_v0.md, "
        "September 2024): vLLM 0.5.4, ShareGPT, 320 requests; output tokens",
        _SHAREGPT_RATIO,
    ),
    "b": Source(
        "the same page: vLLM 0.6.0, ShareGPT, 5,000 requests, `max-num-seqs` 256, `num-scheduler-steps` 10 (with 1: "
        "3,958); output tokens; the GPU is not named beside the figure",
        _SHAREGPT_RATIO,
    ),
    "c": Source(
        "https://github.com/vllm-project/vllm/issues/25915 (September 2025): vLLM 0.10.2, BF16, offline, 1,024 prompt "
        "and 2,048 output tokens a request; prompt and output tokens",
        1024 / 2048,
    ),
    "d": Source(
        "https://docs.gpustack.ai/2.3/zh/performance-lab/qwen3-14b/a100/: vLLM 0.11.0 with its defaults, ShareGPT; "
        "prompt and output tokens together",
        _SHAREGPT_RATIO,
    ),
    "yours": Source("`--measured`: with your own prompts and replies; output tokens"),
}


class Machine(NamedTuple):
    """A worker machine for one server. `gpu` is the name of its price."""

    gpu: str
    gpus: int
    vcpus: int
    gib: float


MACHINES = {
    "g2-standard-8": Machine("l4", 1, 8, 32),
    "a2-highgpu-1g": Machine("a100-40", 1, 12, 85),
    "a2-ultragpu-1g": Machine("a100-80", 1, 12, 170),
    "a3-highgpu-1g": Machine("h100", 1, 26, 234),
    "a3-highgpu-2g": Machine("h100", 2, 52, 468),
    "a3-highgpu-4g": Machine("h100", 4, 104, 936),
}

PRICES = {
    "vcpu": 0.056,
    "gib": 0.003557,
    "ssd": 0.000298,
    "l4": 0.672048,
    "a100-40": 3.72,
    "a100-80": 4.713696,
    "h100": 11.7558607,
    "vm:g2-standard-8": 0.8536,
    "vm:a2-highgpu-1g": 3.673,
}
"""USD an hour: of a vCPU, a GiB of memory, a GB of SSD and a GPU on Dataflow; `vm:` of a whole machine without it."""

PRICE_SOURCES = (
    "Dataflow: list prices of batch jobs in us-central1, transcribed by a third party on 2026-09-08 from "
    "https://cloud.google.com/dataflow/pricing; the page itself could not be read here. "
    "Own machine (Compute Engine, on demand, us-central1): SkyPilot's catalogue "
    "(https://github.com/skypilot-org/skypilot-catalog); none was looked up for the other machines. "
    "Whether single H100s (`a3-highgpu-1g`) can be had on demand is not confirmed."
)


class Throughput(NamedTuple):
    """Tokens a second of one server. Figures that its source lacks are None; without a source all are."""

    model: str
    machine: str
    source: str = ""
    output: float | None = None
    total: float | None = None

    @property
    def text(self) -> str:
        """Return the figures as a cell of the table."""
        if self.output is None and self.total is None:
            return "to be measured"
        if self.output is None:
            return f"{self.total:,.0f} in all"
        with_prompt = "" if self.total is None else f", {self.total:,.0f} in all"
        return f"{self.output:,.0f} output{with_prompt}"


THROUGHPUTS = (
    Throughput("any of 7 to 8 B", "g2-standard-8"),
    Throughput("Mistral-7B", "a2-ultragpu-1g", "a", 1591.4),
    Throughput("Llama-3.1-8B, FP8", "a2-ultragpu-1g", "a", 1517.5),
    Throughput("Mistral-Nemo (12 B)", "a2-ultragpu-1g", "a", 1277.9),
    Throughput("Qwen3-14B", "a2-ultragpu-1g", "d", None, 3922),
    Throughput("Mistral-7B", "a3-highgpu-1g", "a", 3281.2),
    Throughput("Llama-3.1-8B, FP8", "a3-highgpu-1g", "a", 3400.4),
    Throughput("Llama-3.1-8B", "a3-highgpu-1g", "b", 8088),
    Throughput("Qwen3-8B", "a3-highgpu-1g", "c", 5409, 2697 + 5409),
    Throughput("Mistral-Nemo (12 B)", "a3-highgpu-1g", "a", 2414.8),
    Throughput("Llama-3.1-70B, FP8", "a3-highgpu-1g", "a", 418.9),
    Throughput("Llama-3.1-70B, FP8", "a3-highgpu-2g", "a", 1727.7),
    Throughput("Llama-3.1-70B, FP8", "a3-highgpu-4g", "a", 2243),
)


def hours(throughput: Throughput, prompt: float, completion: float) -> tuple[float | None, float | None]:
    """Return the fewest and the most hours that one server takes for so many million tokens; None: unknown.

    A source's output tokens/s include the time of its own prompts. If our prompts are longer for a reply than its,
    `completion / output` is too low. Too high is the pace of the source's average token for all tokens, or of its
    completion tokens if it gives no others. If our prompts are shorter, the two bounds swap.
    """
    output, total = throughput.output, throughput.total
    by_output = None if output is None else completion * 1e6 / output / 3600
    by_total = None if total is None else (prompt + completion) * 1e6 / total / 3600
    if throughput.source == "yours":
        return by_output, by_output
    if prompt < SOURCES[throughput.source].prompt_ratio * completion:
        return by_total, by_output
    if by_total is None and output is not None:
        by_total = (prompt + completion) * 1e6 / output / 3600
    return by_output, by_total


def machine_hour(name: str, prices: Mapping[str, float], disk_gb: float) -> float:
    """Return USD for an hour of a machine on Dataflow."""
    machine = MACHINES[name]
    return (
        machine.gpus * prices[machine.gpu]
        + machine.vcpus * prices["vcpu"]
        + machine.gib * prices["gib"]
        + disk_gb * prices["ssd"]
    )


def with_prices(given: Sequence[str], others: Mapping[str, float] | None = None) -> dict[str, float]:
    """Return all prices, with those of `NAME=NUMBER` in place of their defaults. Raise `UsageError` for another name.

    Args:
        given: Prices of a command line.
        others: Further names and their defaults.
    """
    known = {**PRICES, **(others or {})}
    prices = dict(known)
    for entry in given:
        name, _, value = entry.partition("=")
        if name not in known and name not in {f"vm:{machine}" for machine in MACHINES}:
            raise UsageError(f"--price {entry}: the names are {', '.join(known)}, and vm: with any of the machines")
        try:
            prices[name] = float(value)
        except ValueError:
            prices[name] = -1.0
        if not 0 <= prices[name] < float("inf"):
            raise UsageError(f"--price {entry}: '{value}' is no price; an example is --price {name}=0.5")
    return prices
