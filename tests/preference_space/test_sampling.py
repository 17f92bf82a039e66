from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import asin, pi, sqrt

import numpy as np
import numpy.typing as npt
import pytest
from pydantic import ValidationError

from preference_space.direction import Direction
from preference_space.sampling import Sampler
from preference_space.space import PreferenceSpace, load_space
from schemas.base import UsageError
from schemas.config import Correlation, Marginal, SamplingConfig
from schemas.loader import load_config
from tests import ROOT
from tests.preference_space.spaces import space_of

QUICKSTART = ROOT / "configs" / "quickstart.yaml"

ALIGNX = load_space("alignx")
MANY = 20_000


def draw(
    space: PreferenceSpace,
    config: SamplingConfig,
    count: int = MANY,
    topics: Sequence[str] = (),
    seed: int = 0,
    attempt: int = 0,
) -> Direction:
    """Return points 0 to count - 1, all for posts of the same topics."""
    return Sampler(space, config, seed).draw("train", attempt, np.arange(count), [topics] * count)


def active_counts(points: Direction) -> npt.NDArray[np.int64]:
    counts: npt.NDArray[np.int64] = np.count_nonzero(points, axis=1)
    return counts


def assert_share(observed: float, expected: float, count: int) -> None:
    """Assert a share within 4.5 standard errors, which a correct sampler misses for one seed in 150,000."""
    error = 4.5 * sqrt(max(expected * (1 - expected), 1e-12) / count)
    assert abs(observed - expected) <= error, f"{observed:.4f}, expected {expected:.4f} +- {error:.4f}"


BOTH = SamplingConfig(min_active=2, max_active=2)
RICH = SamplingConfig(
    min_active=2,
    max_active=8,
    marginals={"age_group": Marginal(weight=30.0, positive=0.9), "gender": Marginal(weight=30.0, positive=0.9)},
    correlations=(Correlation(a="age_group", b="gender", rho=0.8), Correlation(a="honesty", b="gender", rho=-0.3)),
    forbidden=({"age_group": "positive", "gender": "positive"},),
)


def test_points_are_directions() -> None:
    points = draw(ALIGNX, SamplingConfig(), count=10)

    assert points.shape == (10, 90)
    assert points.dtype == np.int8
    assert set(np.unique(points)) == {-1, 0, 1}


def test_same_seed_gives_the_same_points() -> None:
    assert np.array_equal(draw(ALIGNX, RICH, count=200), draw(ALIGNX, RICH, count=200))


def test_point_alone_equals_the_point_in_its_shard() -> None:
    sampler = Sampler(ALIGNX, RICH, 5)
    topics = [["gaming"], ["pets", "music"], [], ["nonsense"]] * 64
    shard = sampler.draw("train", 0, np.arange(1000, 1256), topics)

    for row in range(256):
        alone = sampler.draw("train", 0, np.array([1000 + row]), [topics[row]])
        assert np.array_equal(alone[0], shard[row])


def test_points_do_not_depend_on_which_others_are_drawn() -> None:
    sampler = Sampler(ALIGNX, RICH, 5)
    records = np.random.default_rng(0).permutation(300)[:100]

    some = sampler.draw("train", 0, records, [["gaming"]] * 100)

    assert np.array_equal(some, sampler.draw("train", 0, np.arange(300), [["gaming"]] * 300)[records])


def test_no_records_give_no_points() -> None:
    assert draw(ALIGNX, RICH, count=0).shape == (0, 90)


def test_attempt_changes_the_point() -> None:
    first, second = (draw(ALIGNX, SamplingConfig(), count=200, attempt=attempt) for attempt in (0, 1))

    assert (first != second).any(axis=1).all()


def test_seed_changes_the_point() -> None:
    first, second = (draw(ALIGNX, SamplingConfig(), count=200, seed=seed) for seed in (0, 1))

    assert (first != second).any(axis=1).all()


def test_stream_changes_the_point() -> None:
    sampler = Sampler(ALIGNX, SamplingConfig(), 0)

    train, test = (sampler.draw(stream, 0, np.arange(200), [[]] * 200) for stream in ("train", "test"))

    assert (train != test).any(axis=1).all()


def test_neighbouring_records_differ() -> None:
    points = draw(ALIGNX, SamplingConfig(), count=200)

    assert all((one != other).any() for one, other in pairwise(points))


def test_number_of_active_dimensions_is_uniform_on_its_range() -> None:
    counts = active_counts(draw(ALIGNX, SamplingConfig(min_active=2, max_active=6)))

    assert set(counts) == {2, 3, 4, 5, 6}
    for k in range(2, 7):
        assert_share((counts == k).mean(), 1 / 5, MANY)


def test_range_of_one_number_is_that_number() -> None:
    assert set(active_counts(draw(ALIGNX, SamplingConfig(min_active=4, max_active=4), count=500))) == {4}


def test_active_dimensions_end_where_the_eligible_ones_do() -> None:
    points = draw(space_of("a", "b", "c"), SamplingConfig(min_active=2, max_active=6))

    assert set(active_counts(points)) == {2, 3}


def test_dimensions_of_equal_weight_are_active_equally_often() -> None:
    active = draw(space_of("a", "b", "c", "d"), SamplingConfig(min_active=1, max_active=1)) != 0

    for share in active.mean(axis=0):
        assert_share(share, 1 / 4, MANY)


def test_poles_are_even_by_default() -> None:
    points = draw(space_of("a", "b"), BOTH)

    for share in (points > 0).mean(axis=0):
        assert_share(share, 1 / 2, MANY)


def test_poles_of_different_dimensions_are_independent_by_default() -> None:
    points = draw(space_of("a", "b"), BOTH)

    assert_share((points[:, 0] == points[:, 1]).mean(), 1 / 2, MANY)


@pytest.mark.parametrize("positive", [0.0, 0.05, 0.3, 0.8, 1.0])
def test_marginal_positive_is_the_share_of_the_positive_pole(positive: float) -> None:
    config = SamplingConfig(min_active=1, max_active=2, marginals={"a": Marginal(weight=1.0, positive=positive)})

    column = draw(space_of("a", "b"), config)[:, 0]

    active = column[column != 0]
    assert_share((active > 0).mean(), positive, len(active))


def test_marginal_weight_is_in_proportion_to_how_often_a_dimension_is_drawn() -> None:
    config = SamplingConfig(min_active=1, max_active=1, marginals={"a": Marginal(weight=3.0, positive=0.5)})

    active = draw(space_of("a", "b", "c"), config) != 0

    assert_share(active[:, 0].mean(), 3 / 5, MANY)
    assert_share(active[:, 1].mean(), 1 / 5, MANY)


def test_second_dimension_is_drawn_from_the_remaining_weights() -> None:
    config = SamplingConfig(min_active=2, max_active=2, marginals={"a": Marginal(weight=2.0, positive=0.5)})

    active = draw(space_of("a", "b", "c"), config) != 0

    # Without replacement: 1 - P(b, c in either order) = 1 - 2 * (1/4 * 1/3).
    assert_share(active[:, 0].mean(), 5 / 6, MANY)


def test_dimension_of_weight_zero_is_never_active() -> None:
    config = SamplingConfig(min_active=1, max_active=3, marginals={"a": Marginal(weight=0.0, positive=0.5)})

    points = draw(space_of("a", "b", "c"), config)

    assert not points[:, 0].any()
    assert set(active_counts(points)) == {1, 2}


def test_topical_dimensions_are_active_only_where_the_topics_name_them() -> None:
    sampler = Sampler(ALIGNX, SamplingConfig(min_active=6, max_active=6), 0)
    topics = [["gaming"], ["pets", "music"], []] * 1000
    points = sampler.draw("train", 0, np.arange(3000), topics)

    topical = [d.slug for d in ALIGNX.dimensions if d.topical]
    for remainder, named in enumerate([{"gaming"}, {"pets", "music"}, set()]):
        rows = points[remainder::3]
        assert {slug for slug in topical if rows[:, ALIGNX.index[slug]].any()} == named


def test_topic_that_is_no_dimension_changes_nothing() -> None:
    plain, odd = (draw(ALIGNX, SamplingConfig(), count=200, topics=topics) for topics in ([], ["nonsense"]))

    assert np.array_equal(plain, odd)


def test_topic_that_names_an_untopical_dimension_changes_nothing() -> None:
    plain, odd = (draw(ALIGNX, SamplingConfig(), count=200, topics=topics) for topics in ([], ["honesty"]))

    assert np.array_equal(plain, odd)


def test_order_of_topics_does_not_matter() -> None:
    one, other = (
        draw(ALIGNX, SamplingConfig(), count=200, topics=topics) for topics in (["pets", "music"], ["music", "pets"])
    )

    assert np.array_equal(one, other)


def test_topical_weight_is_the_weight_of_a_tag_that_fits() -> None:
    config = SamplingConfig(min_active=1, max_active=1, topical_weight=4.0)

    active = draw(space_of("a", "b", topical=["tag", "other"]), config, topics=["tag"]) != 0

    assert_share(active[:, 2].mean(), 4 / 6, MANY)
    assert not active[:, 3].any()


def test_marginal_weight_multiplies_the_topical_weight() -> None:
    config = SamplingConfig(
        min_active=1, max_active=1, topical_weight=4.0, marginals={"tag": Marginal(weight=0.5, positive=0.5)}
    )

    active = draw(space_of("a", "b", topical=["tag"]), config, topics=["tag"]) != 0

    assert_share(active[:, 2].mean(), 2 / 4, MANY)


def test_tag_of_weight_zero_is_never_active() -> None:
    config = SamplingConfig(min_active=1, max_active=2, marginals={"tag": Marginal(weight=0.0, positive=0.5)})

    assert not draw(space_of("a", topical=["tag"]), config, topics=["tag"])[:, 1].any()


def test_dimensions_by_slug_are_the_only_active_ones() -> None:
    config = SamplingConfig(min_active=1, max_active=2, dimensions=("honesty", "age_group"))

    points = draw(ALIGNX, config, count=500, topics=["gaming"])

    assert set(np.flatnonzero(points.any(axis=0))) == {ALIGNX.index["age_group"], ALIGNX.index["honesty"]}


def test_dimensions_by_group_are_all_of_the_group() -> None:
    config = SamplingConfig(min_active=1, max_active=3, dimensions=("content_quality",))

    points = draw(ALIGNX, config, count=2000, topics=["gaming"])

    group = {d for d, dimension in enumerate(ALIGNX.dimensions) if dimension.group == "content_quality"}
    assert set(np.flatnonzero(points.any(axis=0))) == group


def test_dimensions_by_group_and_slug_are_joined() -> None:
    config = SamplingConfig(min_active=1, max_active=2, dimensions=("tags", "a"))

    points = draw(space_of("a", "b", topical=["tag"]), config, count=500, topics=["tag"])

    assert points.any(axis=0).tolist() == [True, False, True]


def test_dimensions_by_slug_leave_a_topical_one_topical() -> None:
    config = SamplingConfig(min_active=1, max_active=2, dimensions=("tag", "a"))

    assert not draw(space_of("a", "b", topical=["tag"]), config, count=500)[:, 2].any()


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.3, 0.6, 0.95])
def test_poles_of_correlated_dimensions_correlate_by_the_arcsine_law(rho: float) -> None:
    config = BOTH.model_copy(update={"correlations": (Correlation(a="a", b="b", rho=rho),)})

    points = draw(space_of("a", "b"), config)

    # E[sign * sign] = 2 / pi * arcsin(rho), so the poles agree with probability (1 + that) / 2.
    assert_share((points[:, 0] == points[:, 1]).mean(), (1 + 2 / pi * asin(rho)) / 2, MANY)


def test_correlation_leaves_the_marginals_alone() -> None:
    config = BOTH.model_copy(
        update={
            "correlations": (Correlation(a="a", b="b", rho=0.8),),
            "marginals": {"a": Marginal(weight=1.0, positive=0.2), "b": Marginal(weight=1.0, positive=0.7)},
        }
    )

    positive = (draw(space_of("a", "b"), config) > 0).mean(axis=0)

    assert_share(positive[0], 0.2, MANY)
    assert_share(positive[1], 0.7, MANY)


def test_correlation_leaves_other_dimensions_uncorrelated() -> None:
    config = SamplingConfig(min_active=3, max_active=3, correlations=(Correlation(a="a", b="b", rho=0.9),))

    points = draw(space_of("a", "b", "c"), config)

    assert_share((points[:, 0] == points[:, 2]).mean(), 1 / 2, MANY)


def test_correlations_that_contradict_one_another_are_named() -> None:
    config = SamplingConfig(
        min_active=1,
        correlations=(
            Correlation(a="a", b="b", rho=0.9),
            Correlation(a="b", b="c", rho=0.9),
            Correlation(a="a", b="c", rho=-0.9),
        ),
    )

    with pytest.raises(UsageError, match=r"a~b 0\.9, b~c 0\.9, a~c -0\.9"):
        Sampler(space_of("a", "b", "c"), config, 0)


def test_correlation_of_a_dimension_with_itself_is_refused() -> None:
    config = SamplingConfig(min_active=1, correlations=(Correlation(a="a", b="a", rho=0.5),))

    with pytest.raises(UsageError, match="'a' is correlated with itself"):
        Sampler(space_of("a", "b"), config, 0)


def test_forbidden_combination_never_occurs() -> None:
    config = BOTH.model_copy(update={"forbidden": ({"a": "positive", "b": "negative"},)})

    points = draw(space_of("a", "b"), config)

    assert not ((points[:, 0] == 1) & (points[:, 1] == -1)).any()


def test_points_without_a_forbidden_combination_stay_as_they_are() -> None:
    config = BOTH.model_copy(update={"forbidden": ({"a": "positive", "b": "negative"},)})
    free = draw(space_of("a", "b"), BOTH)

    points = draw(space_of("a", "b"), config)

    allowed = free[:, 0] == free[:, 1]
    assert np.array_equal(points[allowed], free[allowed])


def test_points_with_a_forbidden_combination_are_drawn_again_from_the_rest() -> None:
    config = BOTH.model_copy(update={"forbidden": ({"a": "positive", "b": "negative"},)})

    points = draw(space_of("a", "b"), config)

    assert set(active_counts(points)) == {2}
    for a, b in [(1, 1), (-1, -1)]:  # The opposite person may not have the combination either.
        assert_share(((points[:, 0] == a) & (points[:, 1] == b)).mean(), 1 / 2, MANY)


def test_forbidden_combination_never_occurs_where_every_draw_hits_it() -> None:
    always = {slug: Marginal(weight=1.0, positive=1.0) for slug in ("a", "b")}
    config = BOTH.model_copy(update={"marginals": always, "forbidden": ({"a": "positive", "b": "positive"},)})

    points = draw(space_of("a", "b"), config, count=500)

    assert not ((points[:, 0] == 1) & (points[:, 1] == 1)).any()
    assert points.any(axis=1).all()


def test_forbidden_combination_never_occurs_where_nearly_every_draw_hits_it() -> None:
    often = {slug: Marginal(weight=1.0, positive=0.99) for slug in ("a", "b", "c")}
    config = SamplingConfig(
        min_active=3,
        max_active=3,
        marginals=often,
        forbidden=({"a": "positive", "b": "positive"}, {"b": "positive", "c": "positive"}, {"c": "positive"}),
    )

    points = draw(space_of("a", "b", "c"), config)

    assert not ((points[:, 0] == 1) & (points[:, 1] == 1)).any()
    assert not ((points[:, 1] == 1) & (points[:, 2] == 1)).any()
    assert not (points[:, 2] == 1).any()


def test_forbidden_combination_of_three_leaves_its_parts_alone() -> None:
    config = SamplingConfig(
        min_active=3, max_active=3, forbidden=({"a": "positive", "b": "positive", "c": "positive"},)
    )

    points = draw(space_of("a", "b", "c"), config)

    assert not (points == 1).all(axis=1).any()
    assert (points[:, :2] == 1).all(axis=1).any()


def test_forbidden_combination_without_members_is_refused() -> None:
    with pytest.raises((UsageError, ValidationError)):
        Sampler(space_of("a", "b"), SamplingConfig(min_active=1, forbidden=({},)), 0)


@pytest.mark.parametrize(
    "config",
    [
        SamplingConfig(dimensions=("honesty", "honestly")),
        SamplingConfig(marginals={"honestly": Marginal(weight=1.0, positive=0.5)}),
        SamplingConfig(correlations=(Correlation(a="honesty", b="honestly", rho=0.1),)),
        SamplingConfig(correlations=(Correlation(a="honestly", b="honesty", rho=0.1),)),
        SamplingConfig(forbidden=({"honesty": "positive", "honestly": "positive"},)),
    ],
    ids=["dimensions", "marginals", "correlation b", "correlation a", "forbidden"],
)
def test_unknown_slug_is_named(config: SamplingConfig) -> None:
    with pytest.raises(UsageError, match="space 'alignx' has no dimension 'honestly'"):
        Sampler(ALIGNX, config, 0)


def test_group_is_no_slug_of_a_marginal() -> None:
    config = SamplingConfig(marginals={"interests": Marginal(weight=2.0, positive=0.5)})

    with pytest.raises(UsageError, match="no dimension 'interests'"):
        Sampler(ALIGNX, config, 0)


def test_too_few_dimensions_for_active_min_are_refused() -> None:
    with pytest.raises(UsageError, match="min_active is 3, but only 2 dimensions can be active"):
        Sampler(space_of("a", "b"), SamplingConfig(min_active=3), 0)


def test_quickstart_configuration_fits_the_packaged_space() -> None:
    config = load_config(QUICKSTART).sampling

    counts = active_counts(draw(ALIGNX, config, count=2000, topics=["gaming"]))

    assert set(counts) == set(range(config.min_active, config.max_active + 1))
