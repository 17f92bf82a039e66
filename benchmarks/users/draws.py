"""Frequencies that a configuration of users promises, by a simulation that shares no code with the sampler."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from benchmarks.users.tables import Build, Levels

_SIMULATED = 200_000
_BATCH = 10_000
_LOG_ODDS = math.log(2 / 1e-7)
"""Of a false alarm. There are some hundred counts."""


class Count(NamedTuple):
    """A count of cases with its expected share."""

    what: str
    found: int
    cases: int
    share: float
    simulated: int = 0
    """Draws that `share` is known from; 0: exactly."""

    @property
    def bound(self) -> float:
        """Return the distance from the expected count that chance keeps, by Bernstein's inequality."""
        variance = self.cases * self.share * (1 - self.share)
        if self.simulated:
            variance *= 1 + self.cases / self.simulated
        return _LOG_ODDS / 3 + math.sqrt((_LOG_ODDS / 3) ** 2 + 2 * _LOG_ODDS * variance)

    @property
    def is_likely(self) -> bool:
        """Return whether the count is within the bound."""
        return abs(self.found - self.cases * self.share) <= self.bound

    def __str__(self) -> str:
        """Return the count in words."""
        return f"{self.what}: {self.found} of {self.cases}, expected {self.cases * self.share:.1f} +- {self.bound:.1f}"


def apportion(total: int, shares: Mapping[str, float]) -> dict[str, int]:
    """Return whole numbers nearest to shares of `total`, renormalised; the largest remainders get one more."""
    exact = {key: total * share / sum(shares.values()) for key, share in shares.items()}
    counts = {key: int(value + 1e-9) for key, value in exact.items()}
    for key in sorted(exact, key=lambda key: counts[key] - exact[key])[: total - sum(counts.values())]:
        counts[key] += 1
    return counts


def users_of_splits(config: Mapping[str, Any]) -> dict[str, range]:
    """Return the numbers of the users of each split."""
    count, shares = config["users"]["count"], dict(config["splits"])
    seen = shares.pop("test_seen_users")
    new = apportion(count, shares)
    first = new["train"] + new["validation"]
    return {
        "train": range(new["train"]),
        "validation": range(new["train"], first),
        "test": range(first, count),
        "test_seen_users": range(min(new["train"], round(count * seen / (1 - seen)))),
    }


def has_forbidden(points: Levels, build: Build) -> npt.NDArray[np.bool_]:
    """Return which points, or their mirror images, have a combination that the configuration forbids."""
    found = np.zeros(len(points), dtype=bool)
    for combination in build.config["sampling"]["forbidden"]:
        places = [build.positions[slug] for slug in combination]
        levels = np.array([1 if pole == "positive" else -1 for pole in combination.values()])
        found |= (points[:, places] == levels).all(axis=1) | (points[:, places] == -levels).all(axis=1)
    return found


def count_draws(users: Levels, build: Build) -> tuple[list[Count], list[Count]]:
    """Return counts of the active dimensions of `users`, shape (N, D), and counts of their poles."""
    simulated = np.concatenate(list(_simulate(build)))
    limits = build.config["users"]["active"]
    sizes, expected = ((points != 0).sum(axis=1) for points in (users, simulated))
    active = [
        _compare(f"users with {size} active dimensions", sizes == size, expected == size)
        for size in range(limits["min"], limits["max"] + 1)
    ]
    poles = []
    for d, dimension in enumerate(build.dimensions):
        active.append(_compare(dimension["slug"], users[:, d] != 0, simulated[:, d] != 0))
        positive = (points[points[:, d] != 0, d] > 0 for points in (users, simulated))
        poles.append(_compare(f"{dimension['slug']} positive", *positive))
    for entry in build.config["sampling"]["correlations"]:
        a, b = (build.positions[entry[end]] for end in "ab")
        signs = (points[:, a] * points[:, b] for points in (users, simulated))
        same = (sign[sign != 0] > 0 for sign in signs)
        poles.append(_compare(f"{entry['a']} and {entry['b']} with the same pole", *same))
    return active, poles


def _compare(what: str, found: npt.NDArray[np.bool_], simulated: npt.NDArray[np.bool_]) -> Count:
    if not len(simulated):
        return Count(what, 0, 0, 0.0)
    return Count(what, int(found.sum()), len(found), float(simulated.mean()), len(simulated))


def _simulate(build: Build) -> Iterator[Levels]:
    """Yield directions of users in batches, with numbers of another generator than the build's."""
    rng = np.random.default_rng(1)
    sampling, active = build.config["sampling"], build.config["users"]["active"]
    size = len(build.dimensions)
    marginals = [sampling["marginals"].get(d["slug"], {"weight": 1.0, "positive": 0.5}) for d in build.dimensions]
    chosen = _is_chosen(build.dimensions, sampling["dimensions"])
    weights = np.where(chosen, [marginal["weight"] for marginal in marginals], 0.0)
    threshold = np.array([_quantile(marginal["positive"]) for marginal in marginals])
    covariance = np.eye(size)
    for entry in sampling["correlations"]:
        a, b = (build.positions[entry[end]] for end in "ab")
        covariance[a, b] = covariance[b, a] = entry["rho"]
    for _ in range(_SIMULATED // _BATCH):
        # The smallest of exponential variables with rates w are a draw without replacement in proportion to w.
        with np.errstate(divide="ignore"):
            race = rng.exponential(size=(_BATCH, size)) / weights
        count = np.minimum(rng.integers(active["min"], active["max"] + 1, _BATCH), (weights > 0).sum())
        limit = np.take_along_axis(np.sort(race, axis=1), count[:, None] - 1, axis=1)
        normal = rng.multivariate_normal(np.zeros(size), covariance, _BATCH, method="cholesky")
        points = np.where(race <= limit, np.where(normal < threshold, 1, -1), 0).astype(np.int8)
        yield points[~has_forbidden(points, build)]


def _is_chosen(dimensions: Sequence[Mapping[str, Any]], names: Sequence[str] | None) -> list[bool]:
    return [names is None or d["slug"] in names or d["group"] in names for d in dimensions]


def _quantile(share: float) -> float:
    return NormalDist().inv_cdf(share) if 0 < share < 1 else math.copysign(math.inf, share - 0.5)
