"""Preference spaces for tests."""

from __future__ import annotations

from preference_space.space import Dimension, Pole, PreferenceSpace


def make_space(name: str, *dimensions: tuple[str, str, str, str]) -> PreferenceSpace:
    """A space of (slug, question, label of the positive pole, label of the negative pole)."""
    return PreferenceSpace(name=name, dimensions=tuple(_dimension(*texts) for texts in dimensions))


def _dimension(slug: str, question: str, positive: str, negative: str) -> Dimension:
    poles = (Pole(label=label, description="is so.", hint="Write so.") for label in (positive, negative))
    return Dimension(
        slug=slug, name=slug, group="g", source="s", question=question, positive=next(poles), negative=next(poles)
    )


TWO = make_space("two", ("age", "Young?", "Young", "Older"), ("humor", "Funny?", "Likes humor", "Serious"))
