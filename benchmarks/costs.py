"""The cost of a large build, from the tokens of a finished one: `python -m benchmarks.costs BUILD`. Prints Markdown.

    tokens      = examples x replies an example x tokens of a reply       (all attempts, the rejected ones too)
    GPU-hours   = tokens / (tokens a second of a server x 3600) x GPUs of a server
    price       = GPU-hours / GPUs of a machine x price of a machine-hour

Only the tokens are ours. Throughputs and prices are those of `pipeline.driver.prices`, outside figures, each with its
source; `--measured` and `--price` replace them.

Not included: starting machines and loading the model, the wait for the last replies, retries, storage and its requests,
network, taxes, discounts.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pipeline.console.forecast_display import bounds_text, number_text
from pipeline.driver.prices import (
    MACHINES,
    PRICE_SOURCES,
    PRICES,
    SOURCES,
    THROUGHPUTS,
    Throughput,
    hours,
    machine_hour,
    with_prices,
)
from pipeline.io import storage
from pipeline.io.manifests import find_manifest
from schemas.base import UserError
from schemas.manifest import Manifest

_ALIGNX_EXAMPLES = 1_311_622


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
        prices = with_prices(arguments.price)
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
    print(f"\nPrices: {PRICE_SOURCES}\n\nThroughputs:\n")
    used = {throughput.source for throughput in throughputs}
    print("\n".join(f"- {name}: {source.text}." for name, source in SOURCES.items() if name in used))


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
            f"| {name} | {' | '.join(number_text(number) for number in row)} |"
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
    return bounds_text((low, high))


if __name__ == "__main__":
    main()
