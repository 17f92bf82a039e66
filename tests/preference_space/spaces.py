"""Small preference spaces."""

from __future__ import annotations

from collections.abc import Sequence

from preference_space.space import Dimension, Pole, PreferenceSpace


def space_of(*slugs: str, topical: Sequence[str] = ()) -> PreferenceSpace:
    """Return a space of these dimensions, the topical ones last, in groups `traits` and `tags`."""
    return PreferenceSpace(
        name="small",
        dimensions=tuple(
            Dimension(
                slug=slug,
                name=slug,
                group="tags" if slug in topical else "traits",
                source="test",
                topical=slug in topical,
                question="question?",
                positive=Pole(label=f"much {slug}", description="is so", hint="Be so."),
                negative=Pole(label=f"little {slug}", description="is not", hint="Be not."),
            )
            for slug in (*slugs, *topical)
        ),
    )
