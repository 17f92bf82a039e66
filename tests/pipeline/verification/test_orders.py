"""What one order of options finds of what three find, if the judge prefers a place.

`python -m tests.pipeline.verification.test_orders` prints the table.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from pipeline.verification.findings import Findings, read_findings
from tests.pipeline.verification.claims import Judge, answered, claim, plan_at
from tests.planted import Planted

SLUGS = ("extraversion", "openness", "agreeableness", "neuroticism")


def partly_by_place(share: float) -> Judge:
    """The judge of `Planted`, who adds a tenth to the first option, and names it alone in a share of all answers."""

    def judge(prompt: str) -> Mapping[str, float]:
        found = Planted().judge(prompt)
        if random.Random(prompt).random() >= share:
            return found
        return {letter: float(letter == "A") for letter in found}

    return judge


def found_by(folder: Path, judge: Judge, orders: int, pairs: int) -> Findings:
    """What a judge finds in pairs of honest replies. Margins are of the positive pole."""
    folder.mkdir(exist_ok=True)
    plan = plan_at(folder, orders=orders, drift_dimensions=0)
    shown, opposite = (" ".join(f"{slug}{sign}1" for slug in SLUGS) for sign in "+-")
    claims = [
        claim(plan, f"First {k}: {shown}.", f"Second {k}: {opposite}.", k, **dict.fromkeys(SLUGS, 1))
        for k in range(pairs)
    ]
    return read_findings(answered(plan, *claims, judge=judge), len(claims[0].pair.direction), orders)


def margins(found: Findings) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    asked: np.ndarray[tuple[int], np.dtype[np.float32]] = found.margins[~np.isnan(found.margins)]
    return asked


def test_what_is_added_to_a_place_is_in_no_margin_and_no_gap(tmp_path: Path) -> None:
    one, three = (found_by(tmp_path / str(orders), partly_by_place(0), orders, 24) for orders in (1, 3))

    assert margins(one) == pytest.approx(margins(three), abs=0.02)
    assert np.ptp(one.qualities, axis=1).max() == 0


def test_what_is_added_to_a_place_is_in_the_quality_that_one_order_finds(tmp_path: Path) -> None:
    # This judge says nothing of quality but the first option.
    one, three = (found_by(tmp_path / str(orders), partly_by_place(0), orders, 24) for orders in (1, 3))

    assert np.ptp(three.qualities) == 0
    assert np.ptp(one.qualities) > 0.5


def test_answers_by_place_alone_cost_one_order_more_than_three(tmp_path: Path) -> None:
    one, three = (found_by(tmp_path / str(orders), partly_by_place(0.5), orders, 60) for orders in (1, 3))

    assert np.mean(margins(one) > 0) < np.mean(margins(three) > 0) - 0.1


def main() -> None:
    """Print recovery, and the mean and spread of margins, by the share of answers by place and the orders."""
    sys.stdout.write(
        "| answers by place | orders | recovery | margin | its standard deviation |\n|---|---|---|---|---|\n"
    )
    for share in (0.0, 0.1, 0.25, 0.5):
        for orders in (1, 2, 3, 6):
            with tempfile.TemporaryDirectory() as folder:
                found = margins(found_by(Path(folder), partly_by_place(share), orders, 250))
            row = (
                f"{share:.0%}",
                str(orders),
                f"{np.mean(found > 0):.1%}",
                f"{found.mean():.2f}",
                f"{found.std():.2f}",
            )
            sys.stdout.write(f"| {' | '.join(row)} |\n")


if __name__ == "__main__":
    main()
