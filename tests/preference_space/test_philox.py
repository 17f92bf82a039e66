from __future__ import annotations

import numpy as np
import pytest

from preference_space.philox import stream_key, uniforms

MASK = 2**64 - 1


def philox4x64(counter: int, key: tuple[int, int]) -> list[int]:
    """Return one step of Philox 4x64-10 as published (Salmon et al. 2011, table 2), in plain integers."""
    c0, c1, c2, c3 = ((counter >> shift) & MASK for shift in (0, 64, 128, 192))
    k0, k1 = key
    for _ in range(10):
        a, b = 0xD2E7470EE14C6C93 * c0, 0xCA5A826395121157 * c2
        c0, c1, c2, c3 = (b >> 64) ^ c1 ^ k0, b & MASK, (a >> 64) ^ c3 ^ k1, a & MASK
        k0, k1 = (k0 + 0x9E3779B97F4A7C15) & MASK, (k1 + 0xBB67AE8584CAA73B) & MASK
    return [c0, c1, c2, c3]


def published(seed: int, stream: int, record: int, width: int) -> list[float]:
    """Return row `record` of `uniforms` by its definition."""
    steps = -(-width // 4)
    words = [word for step in range(steps) for word in philox4x64(record * steps + step + 1, (seed, stream))]
    return [((word >> 12) + 0.5) * 2.0**-52 for word in words[:width]]


def test_reference_gives_the_published_answer() -> None:
    known = [0x16554D9ECA36314C, 0xDB20FE9D672D0FDC, 0xD7E772CEE186176B, 0x7E68B68AEC7BA23B]

    assert philox4x64(0, (0, 0)) == known


@pytest.mark.parametrize("width", [1, 4, 5, 271])
def test_numbers_are_those_of_the_published_algorithm(width: int) -> None:
    assert uniforms(7, 11, np.array([0, 1, 12345]), width).tolist() == [
        published(7, 11, record, width) for record in (0, 1, 12345)
    ]


@pytest.mark.parametrize(
    ("seed", "stream"), [(2**53 + 1, 3), (2**63 - 1, 3), (3, 2**63 + 1), (2**63 - 1, 2**64 - 1), (0, 2**64 - 2)]
)
def test_large_seeds_and_streams_keep_every_bit(seed: int, stream: int) -> None:
    assert uniforms(seed, stream, np.array([5]), 4).tolist() == [published(seed, stream, 5, 4)]


def test_row_alone_equals_the_row_in_its_shard() -> None:
    shard = uniforms(1, 2, np.arange(100, 164), 7)

    for row, record in enumerate(range(100, 164)):
        assert np.array_equal(uniforms(1, 2, np.array([record]), 7)[0], shard[row])


def test_order_of_records_does_not_matter() -> None:
    records = np.random.default_rng(0).permutation(500)

    assert np.array_equal(uniforms(1, 2, records, 6), uniforms(1, 2, np.arange(500), 6)[records])


def test_grouping_of_records_does_not_matter() -> None:
    records = np.array([3, 4, 5, 900, 901, 7, 2**40, 2**40 + 1])

    grouped = np.concatenate([uniforms(1, 2, part, 6) for part in np.split(records, [1, 4, 6])])

    assert np.array_equal(uniforms(1, 2, records, 6), grouped)


def test_repeated_record_gives_the_same_row() -> None:
    first, second = uniforms(1, 2, np.array([9, 9]), 6)

    assert np.array_equal(first, second)


def test_neighbouring_records_share_no_number() -> None:
    numbers = uniforms(1, 2, np.arange(1000), 6)

    assert len(np.unique(numbers)) == numbers.size


@pytest.mark.parametrize("width", [0, 1, 3, 4, 271])
def test_shape_is_records_by_width(width: int) -> None:
    assert uniforms(1, 2, np.arange(10), width).shape == (10, width)


def test_no_records_give_no_rows() -> None:
    assert uniforms(1, 2, np.array([], dtype=np.int64), 3).shape == (0, 3)


def test_seeds_differ() -> None:
    assert not np.any(uniforms(1, 2, np.arange(100), 4) == uniforms(2, 2, np.arange(100), 4))


def test_large_seeds_that_differ_by_one_differ() -> None:
    one, other = (uniforms(seed, 2**63 + 5, np.arange(100), 4) for seed in (2**62, 2**62 + 1))

    assert not np.any(one == other)


def test_streams_differ() -> None:
    assert not np.any(uniforms(1, 2, np.arange(100), 4) == uniforms(1, 3, np.arange(100), 4))


def test_large_streams_that_differ_by_one_differ() -> None:
    assert not np.any(uniforms(1, 2**63 + 1, np.arange(100), 4) == uniforms(1, 2**63 + 2, np.arange(100), 4))


def test_seed_and_stream_are_not_interchangeable() -> None:
    assert not np.any(uniforms(1, 2, np.arange(100), 4) == uniforms(2, 1, np.arange(100), 4))


def test_moments_are_those_of_the_uniform_distribution() -> None:
    numbers = uniforms(3, 4, np.arange(100_000), 4)

    assert np.allclose(numbers.mean(axis=0), 1 / 2, atol=0.004)
    assert np.allclose(numbers.var(axis=0), 1 / 12, atol=0.002)
    assert np.allclose((numbers**3).mean(axis=0), 1 / 4, atol=0.004)


def test_bins_are_filled_evenly() -> None:
    numbers = uniforms(3, 4, np.arange(50_000), 2)

    counts, _ = np.histogram(numbers, bins=100, range=(0, 1))

    expected = 1000.0
    chi_square = float(((counts - expected) ** 2 / expected).sum())
    assert 55 < chi_square < 160, "beyond what 99 degrees of freedom allow once in a thousand"


def test_columns_do_not_correlate() -> None:
    correlation = np.corrcoef(uniforms(3, 4, np.arange(100_000), 6), rowvar=False)

    assert np.abs(correlation - np.eye(6)).max() < 0.015


def test_neighbouring_records_do_not_correlate() -> None:
    numbers = uniforms(3, 4, np.arange(100_000), 1)[:, 0]

    assert abs(np.corrcoef(numbers[:-1], numbers[1:])[0, 1]) < 0.015


def test_neighbouring_seeds_do_not_correlate() -> None:
    one, other = (uniforms(seed, 4, np.arange(100_000), 1)[:, 0] for seed in (3, 4))

    assert abs(np.corrcoef(one, other)[0, 1]) < 0.015


def test_numbers_lie_strictly_between_zero_and_one() -> None:
    numbers = uniforms(3, 4, np.arange(250_000), 4)

    assert numbers.min() > 0
    assert numbers.max() < 1


def test_extreme_words_lie_strictly_between_zero_and_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Extremes:
        """Random words with extreme values, which random draws would hardly ever give."""

        def __init__(self, **_: object) -> None: ...

        def random_raw(self, _: int) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
            return np.array([0, MASK, 1, MASK - 1], dtype=np.uint64)

    monkeypatch.setattr(np.random, "Philox", Extremes)

    numbers = uniforms(0, 0, np.array([0]), 4)[0]

    assert numbers.min() > 0
    assert numbers.max() < 1


def test_stream_key_is_the_same_in_every_process() -> None:
    assert stream_key("train", 0, 1) == 14614708279679873590


def test_stream_key_separates_its_parts() -> None:
    keys = {stream_key("a", 1, 23), stream_key("a", 12, 3), stream_key("a1", 23), stream_key("a", 123), stream_key("a")}

    assert len(keys) == 5


def test_stream_key_fits_into_64_bits() -> None:
    assert all(0 <= stream_key("train", attempt) < 2**64 for attempt in range(1000))
