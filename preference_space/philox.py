"""Counter-based randomness: number j of record i is a pure function of (seed, stream, i, j).

Philox (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a counter to random bits. Any record
can be drawn alone, in any order and on any worker. Consecutive records are drawn in one vectorised call.
"""

from __future__ import annotations

import hashlib
import itertools

import numpy as np
import numpy.typing as npt

_WORDS = 4
"""64-bit numbers from one step of the counter of Philox 4x64."""


def stream_key(*parts: int | str) -> int:
    """Return a 64-bit key for a purpose, such as `stream_key("points", split, attempt)`."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def uniforms(seed: int, stream: int, records: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.float64]:
    """Return uniform numbers in (0, 1), shape (len(records), width). Row k depends on record `records[k]` only.

    Args:
        seed: Root of all randomness.
        stream: Key of the purpose, by `stream_key`.
        records: Numbers of the records.
        width: Numbers for each record.
    """
    steps = -(-width // _WORDS)
    rows = np.empty((len(records), steps * _WORDS), dtype=np.uint64)
    for start, stop in _runs(records):
        # A list of large integers would pass through floats and lose bits.
        key = np.array([seed, stream], dtype=np.uint64)
        bits = np.random.Philox(key=key, counter=int(records[start]) * steps)
        rows[start:stop] = bits.random_raw((stop - start) * rows.shape[1]).reshape(stop - start, -1)
    # 52 bits, centred in their cell: 0 and 1 cannot occur, since logarithms and quantiles need the open interval.
    return ((rows[:, :width] >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52


def _runs(records: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """Return slices of consecutive records; each is one call of Philox."""
    if len(records) == 0:
        return []
    breaks = np.flatnonzero(np.diff(records) != 1) + 1
    edges = [0, *breaks.tolist(), len(records)]
    return list(itertools.pairwise(edges))
