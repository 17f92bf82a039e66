"""Results of an evaluation, from the log-probabilities of its cases."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, get_args

import numpy as np

from everyuser_train.conditions import Condition
from everyuser_train.config import Source
from everyuser_train.data import Loaded
from everyuser_train.metrics import (
    Cases,
    Estimate,
    FloatArray,
    IntArray,
    Rewards,
    by_dimension,
    by_user,
    estimates,
    flips,
    per_case,
)
from everyuser_train.report import Contrast, Flip, KindResult, PoleResult, Result, UserResult
from schemas.records import Kind as PairKind


class Prepared(NamedTuple):
    """Cases of a condition within the length limit: rows of their examples, and of both replies among the sequences."""

    rows: IntArray
    chosen: IntArray
    rejected: IntArray
    dropped: int
    shortened: int
    mean_items: float


class Measured(NamedTuple):
    """A condition's prepared cases with their log-probabilities or rewards."""

    prepared: Prepared
    cases: Cases | Rewards


class Measurements:
    """The cases of all conditions, the main one first. Each method yields one part of the report."""

    def __init__(self, loaded: Loaded, measured: Mapping[Condition, Measured]) -> None:
        self._loaded = loaded
        self._measured = measured
        self._posts = np.array([example.post for example in loaded.examples])
        self._first = next(iter(measured.values()))
        self._main: dict[Source | None, Condition] = {}
        for condition in measured:
            if condition.kind == "persona":
                self._main.setdefault(condition.direction, condition)

    def results(self) -> Iterator[Result]:
        """Yield the metrics under each condition."""
        for condition, (prepared, cases) in self._measured.items():
            if condition.kind == "flip" or condition.kind == "flipped":
                continue
            yield Result(
                kind=condition.kind,
                parts=condition.parts,
                direction=condition.direction,
                items=None if condition.kind == "none" else condition.items,
                cases=len(prepared.rows),
                posts=len(np.unique(self._posts[prepared.rows])),
                dropped=prepared.dropped,
                shortened=prepared.shortened,
                mean_items=prepared.mean_items,
                metrics=self._estimates(per_case(cases), prepared.rows),
            )

    def contrasts(self) -> Iterator[Contrast]:
        """Yield the differences between the own persona and each control, case by case."""
        for condition, control in self._measured.items():
            kind = condition.kind
            if kind != "shuffled" and kind != "none":
                continue
            for source, main in self._main.items():
                if kind == "shuffled" and source != condition.direction:
                    continue
                own = self._measured[main]
                rows, left, right = np.intersect1d(own.prepared.rows, control.prepared.rows, return_indices=True)
                others = per_case(control.cases)
                values = {name: column[left] - others[name][right] for name, column in per_case(own.cases).items()}
                metrics = self._estimates(values, rows, differences=True)
                yield Contrast(kind=kind, direction=source, cases=len(rows), metrics=metrics)

    def flips(self) -> Iterator[Flip]:
        """Yield the effect of a reversed persona."""
        for condition, before in self._measured.items():
            if condition.kind == "flip":
                after = self._measured[condition._replace(kind="flipped")]
                rows, left, right = np.intersect1d(before.prepared.rows, after.prepared.rows, return_indices=True)
                yield Flip(
                    direction=condition.direction,
                    cases=len(rows),
                    posts=len(np.unique(self._posts[rows])),
                    metrics=self._estimates(flips(before.cases.take(left), after.cases.take(right)), rows),
                )

    def kinds(self) -> Iterator[KindResult]:
        """Yield the metrics of each kind of pairs under the main condition, if there are several."""
        rows, values = self._first.prepared.rows, per_case(self._first.cases)
        for kind, cases in self._by_kind(rows).items():
            metrics = self._estimates({name: column[cases] for name, column in values.items()}, rows[cases])
            yield KindResult(kind=kind, cases=len(cases), metrics=metrics)

    def users(self) -> Iterator[UserResult]:
        """Yield the metrics by user under the main condition of each direction, and by known items."""
        users = self._loaded.users
        if users is None:
            return
        persons = np.array([example.user_id for example in self._loaded.examples])
        for condition, (prepared, cases) in self._measured.items():
            if condition not in self._main.values() and condition.kind != "known":
                continue
            values = per_case(cases)
            kinds: list[tuple[PairKind | None, IntArray]] = [(None, np.arange(len(prepared.rows)))]
            kinds += self._by_kind(prepared.rows).items()
            for kind, chosen in kinds:
                rows = prepared.rows[chosen]
                these = {name: column[chosen] for name, column in values.items()}
                found = by_user(these, persons[rows], users[rows])
                yield UserResult(
                    known=condition.items if condition.kind == "known" else None,
                    parts=condition.parts,
                    direction=condition.direction,
                    kind=kind,
                    cases=len(rows),
                    users=found.users,
                    mean=found.mean,
                    worst=found.worst,
                )

    def dimensions(self) -> Iterator[PoleResult]:
        """Yield the metrics of each dimension and pole under the main condition."""
        rows, space = self._first.prepared.rows, self._loaded.space
        examples = [self._loaded.examples[row] for row in rows]
        # The plain answer of a restraint pair shows no pole.
        directions = [None if example.kind == "restraint" else example.direction for example in examples]
        known = np.array([k for k, direction in enumerate(directions) if direction is not None], dtype=np.int64)
        if not len(known):
            return
        levels = np.stack([direction for direction in directions if direction is not None])
        values = {name: column[known] for name, column in per_case(self._first.cases).items()}
        for pole in by_dimension(values, levels, self._posts[rows[known]]):
            slug, labels = str(pole.dimension), ("", "")
            if space is not None:
                dimension = space.dimensions[pole.dimension]
                slug, labels = dimension.slug, (dimension.positive.label, dimension.negative.label)
            yield PoleResult(
                dimension=pole.dimension,
                slug=slug,
                label=labels[pole.level < 0],
                level=1 if pole.level > 0 else -1,
                cases=pole.cases,
                metrics=pole.metrics,
            )

    def _estimates(
        self, values: Mapping[str, FloatArray], rows: IntArray, *, differences: bool = False
    ) -> dict[str, Estimate]:
        return estimates(values, self._posts[rows], differences=differences)

    def _by_kind(self, rows: IntArray) -> dict[PairKind, IntArray]:
        """Return the places in `rows` of each kind of pairs; none if all are of one kind."""
        kinds = np.array([self._loaded.examples[row].kind or "" for row in rows])
        if len(np.unique(kinds)) < 2:
            return {}
        return {kind: np.flatnonzero(kinds == kind) for kind in get_args(PairKind) if kind in kinds}
