"""The cost of a large build, from the tokens of a finished one: `python -m benchmarks.costs BUILD`. Prints Markdown.

    tokens      = examples x replies an example x tokens of a reply       (all attempts, the rejected ones too)
    GPU-hours   = tokens / (tokens a second of a server x 3600) x GPUs of a server
    price       = GPU-hours / GPUs of a machine x price of a machine-hour

Only the tokens are ours. Throughputs and prices are outside figures, each with its source; `--measured` and `--price`
replace them. A throughput holds for the prompts and replies of its measurement. If their ratio differs from ours, the
hours are between two bounds, which only assume that a prompt token takes no longer than a completion token (see
`hours`).

Not included: starting machines and loading the model, the wait for the last replies, retries, storage and its requests,
network, taxes, discounts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.io import storage
from pipeline.io.manifests import find_manifest
from schemas.base import UserError
from schemas.manifest import Manifest

_ALIGNX_EXAMPLES = 1_311_622


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

_PRICE_SOURCES = (
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


class Size(NamedTuple):
    """What one example costs the model, rejected attempts included."""

    replies: float
    prompt: float
    completion: float

    def millions(self, examples: float) -> tuple[float, float]:
        """Return millions of prompt and completion tokens for so many examples."""
        return examples * self.replies * self.prompt / 1e6, examples * self.replies * self.completion / 1e6


def size_of(manifest: Manifest) -> Size:
    """Return the size of a finished build. Raise `UserError` if its manifest counted no tokens."""
    counts = manifest.counts
    if manifest.status != "complete" or not counts.examples:
        raise UserError("the build is not finished, or has no examples")
    if not counts.completion_tokens:
        raise UserError("the build counted no tokens: engine 'dummy', or an endpoint that reports none")
    judged = sum(number for reason, number in counts.rejected.items() if reason.startswith(("generate/", "validate/")))
    replies = 2 * (counts.pairs_accepted + judged)
    return Size(replies / counts.examples, counts.prompt_tokens / replies, counts.completion_tokens / replies)


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


def main(given: Sequence[str] | None = None) -> None:
    """Read the build, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("build", metavar="BUILD", help="folder of a finished build of sampled pairs")
    parser.add_argument("--examples", type=_positive, default=_ALIGNX_EXAMPLES, help="default: as many as AlignX")
    parser.add_argument("--completion-tokens", type=_positive, help="print a second table, for replies of this length")
    parser.add_argument("--prompt-tokens", type=_positive, help="prompt tokens of a reply; default: the build's")
    parser.add_argument("--replies", type=_positive, help="replies an example, all attempts; default: the build's")
    parser.add_argument(
        "--cached", type=float, default=0.0, help="share of prompt tokens that a prefix cache saves (vLLM's /metrics)"
    )
    parser.add_argument("--gpus", type=_positive, default=8, help="GPUs at once, for the hours on the clock")
    parser.add_argument(
        "--measured",
        action="append",
        nargs=3,
        default=[],
        metavar=("MODEL", "MACHINE", "OUTPUT"),
        help=f"output tokens/s of one server, by benchmarks.engine_use; machines: {', '.join(MACHINES)}",
    )
    parser.add_argument(
        "--price", action="append", default=[], metavar="NAME=USD", help=f"an hour of: {', '.join(PRICES)}"
    )
    parser.add_argument("--disk-gb", type=float, default=200)
    parser.add_argument(
        "--pairs-per-second", type=_positive, default=1043, help="without a model, by benchmarks.throughput"
    )
    parser.add_argument("--cores", type=_positive, default=2, help="cores on which --pairs-per-second was measured")
    arguments = parser.parse_args(given)
    words = sys.argv[1:] if given is None else given
    try:
        manifest = find_manifest(storage.parse(arguments.build))
        if manifest is None:
            raise UserError(f"{arguments.build} holds no build")
        if manifest.config.get("mining") or manifest.config.get("portrait") != "template":
            raise UserError("only for sampled pairs with portraits by the template: two replies for each attempt")
        size = size_of(manifest)
        prices = _prices(arguments.price)
        throughputs = (*THROUGHPUTS, *(_measured(*entry) for entry in arguments.measured))
    except (UserError, argparse.ArgumentTypeError) as error:
        parser.error(str(error))
    sizes = {"as in the build": size}
    assumed = Size(
        arguments.replies or size.replies,
        arguments.prompt_tokens or size.prompt,
        arguments.completion_tokens or size.completion,
    )
    if assumed != size:
        sizes["assumed"] = assumed
    print(f"`python -m benchmarks.costs {shlex.join(words)}`\n")
    print("\n".join(_size_table(manifest, sizes, arguments.examples, arguments.cached)))
    for name, of in sizes.items():
        prompt, completion = of.millions(arguments.examples)
        print(f"\nReplies {name}: {of.completion:.0f} tokens each.\n")
        prompt *= 1 - arguments.cached
        print("\n".join(_cost_table(throughputs, prompt, completion, arguments.gpus, prices, arguments.disk_gb)))
    print("\n" + "\n".join(_price_table(prices, arguments.disk_gb)))
    pairs = arguments.examples / manifest.counts.examples * manifest.counts.pairs_accepted
    core_hours = pairs / arguments.pairs_per_second * arguments.cores / 3600
    print(
        f"\nThe rest of the pipeline, at {arguments.pairs_per_second:,.0f} pairs/s on {arguments.cores:g} cores: "
        f"{core_hours:.2f} core-hours for {pairs:,.0f} pairs, USD {core_hours * prices['vcpu']:.2f} of vCPU. The "
        "machines above have these vCPUs already."
    )
    print(f"\nPrices: {_PRICE_SOURCES}\n\nThroughputs:\n")
    used = {throughput.source for throughput in throughputs}
    print("\n".join(f"- {name}: {source.text}." for name, source in SOURCES.items() if name in used))


def _prices(given: Sequence[str]) -> dict[str, float]:
    prices = dict(PRICES)
    for entry in given:
        name, _, value = entry.partition("=")
        if name not in PRICES and name not in {f"vm:{machine}" for machine in MACHINES}:
            raise UserError(f"--price {entry}: the names are {', '.join(PRICES)}, and vm: with any of the machines")
        prices[name] = _positive(value)
    return prices


def _measured(model: str, machine: str, output: str) -> Throughput:
    if machine not in MACHINES:
        raise UserError(f"--measured {model} {machine}: the machines are {', '.join(MACHINES)}")
    return Throughput(model, machine, "yours", _positive(output))


def _positive(text: str) -> float:
    """Parse a number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"'{text}' is no number above 0")
    return number


def _size_table(manifest: Manifest, sizes: Mapping[str, Size], examples: float, cached: float) -> list[str]:
    counts, generation = manifest.counts, manifest.config["generation"]
    found = [(*of, *of.millions(examples)) for of in sizes.values()]
    names = (
        "replies an example, all attempts",
        "prompt tokens a reply",
        "completion tokens a reply",
        "million prompt tokens in all",
        "million completion tokens in all",
    )
    spared = f" A prefix cache saves {cached:.0%} of the prompt tokens." if cached else ""
    return [
        f"Build `{manifest.name}`: {counts.examples:,} examples by `{generation['model']}` (`max_tokens` "
        f"{generation['max_tokens']}), {counts.prompt_tokens:,} prompt and {counts.completion_tokens:,} completion "
        f"tokens, all attempts. Estimated for {examples:,.0f} examples.{spared}\n",
        f"| | {' | '.join(sizes)} |",
        f"|---|{'---|' * len(sizes)}",
        *(
            f"| {name} | {' | '.join(_plain(number) for number in row)} |"
            for name, row in zip(names, zip(*found, strict=True), strict=True)
        ),
    ]


def _cost_table(
    throughputs: Sequence[Throughput],
    prompt: float,
    completion: float,
    gpus: float,
    prices: Mapping[str, float],
    disk_gb: float,
) -> list[str]:
    lines = [
        f"| model | machine of a server | tokens/s of a server | source | GPU-hours | hours on {gpus:g} GPUs | "
        "Dataflow, USD | own machines, USD |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for throughput in throughputs:
        machine = MACHINES[throughput.machine]
        label = f"`{throughput.machine}` ({machine.gpus} x {machine.gpu.upper()})"
        cells = ["", "", "", ""]
        if throughput.source:
            bounds = hours(throughput, prompt, completion)
            own = prices.get(f"vm:{throughput.machine}")
            factors = (
                float(machine.gpus),
                machine.gpus / gpus,
                machine_hour(throughput.machine, prices, disk_gb),
                own,
            )
            cells = [_range(bounds, factor) for factor in factors]
        lines.append(
            f"| {' | '.join([throughput.model, label, throughput.text, throughput.source or 'none found', *cells])} |"
        )
    return lines


def _price_table(prices: Mapping[str, float], disk_gb: float) -> list[str]:
    lines = [
        f"| machine | GPUs | vCPUs | GiB | USD/h on Dataflow, with {disk_gb:g} GB of SSD | USD/h as an own machine |",
        "|---|---|---|---|---|---|",
    ]
    for name, machine in MACHINES.items():
        own = prices.get(f"vm:{name}")
        lines.append(
            f"| `{name}` | {machine.gpus} x {machine.gpu.upper()} | {machine.vcpus} | {machine.gib:g} | "
            f"{machine_hour(name, prices, disk_gb):.2f} | {'' if own is None else f'{own:.2f}'} |"
        )
    return lines


def _range(bounds: tuple[float | None, float | None], factor: float | None) -> str:
    if factor is None:
        return ""
    low, high = (None if bound is None else bound * factor for bound in bounds)
    if low is None:
        return "" if high is None else f"at most {_plain(high)}"
    if high is None:
        return f"at least {_plain(low)}"
    return _plain(low) if low == high else f"{_plain(low)} to {_plain(high)}"


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 20 else f"{number:.1f}" if number >= 2 else f"{number:.2f}"


if __name__ == "__main__":
    main()
