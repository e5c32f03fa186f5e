"""Table rows as matrices of letters: what numpy looks up in a tenth of the time that Python formats in.

A column is a uint8 matrix with one line per row of the table, its text in ASCII; letters that a row does not
need are 0.  :func:`join` puts columns side by side and drops the zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Letters", "decimals", "fits", "integers", "join", "pieces"]

Letters = NDArray[np.uint8]


def _table(texts: Sequence[str], width: int) -> NDArray[np.unsignedinteger]:
    """Texts of up to ``width`` letters, 4 or 8, as one number each: numpy looks up numbers fastest."""
    data = b"".join(text.encode("ascii").rjust(width, b"\0") for text in texts)
    return np.frombuffer(data, dtype=np.uint32 if width == 4 else np.uint64)


_STEP = 10_000
# Groups of four digits: those that follow others, and the first one, whose zeros are no letters.
_FOLLOWING = _table([f"{n:04d}" for n in range(_STEP)], 4)
_FIRST = _table([str(n) for n in range(_STEP)], 4)
_NONE = np.uint32(0)
# "-1.0000" to "1.0000" behind a tab, and what rounds to 0 from below.
_SCORES = _table(
    [f"\t-{n // _STEP}.{n % _STEP:04d}" for n in range(_STEP, 0, -1)]
    + [f"\t{n // _STEP}.{n % _STEP:04d}" for n in range(_STEP + 1)]
    + ["\t-0.0000"],
    8,
)


def integers(values: NDArray[np.integer]) -> Letters:
    """Numbers from 0 on, as ``%d``.

    >>> join([integers(np.array([7, 120])), b";"])
    '7;120;'
    """
    if not len(values):
        return np.empty((0, 4), dtype=np.uint8)
    rest = values.astype(np.int64, copy=False)
    groups = []  # of digits, from the last one on
    while True:
        if int(rest.max()) < _STEP:
            groups.append(_FIRST[rest])
            break
        above = rest // _STEP
        group = rest - above * _STEP
        groups.append(np.where(above > 0, _FOLLOWING[group], _FIRST[group]))
        rest = above
    for number in range(1, len(groups)):
        # A group of nothing but zeros before the first digit.
        empty = values < _STEP**number
        if empty.any():
            groups[number] = np.where(empty, _NONE, groups[number])
    return np.stack(groups[::-1], axis=1).view(np.uint8)


def fits(scores: NDArray[np.floating]) -> bool:
    """Whether :func:`decimals` can write these: all lie in [-1, 1]."""
    return not scores.size or bool(np.abs(scores).max() <= 1)  # False for NaN too


def decimals(scores: NDArray[np.float32]) -> Letters:
    """Numbers between -1 and 1, each as ``\\t%.4f``.

    ``scores`` is (rows,), or (rows, columns) for several columns at once.

    >>> join([decimals(np.array([[0.5, -0.00001]], dtype=np.float32)), b";"])
    '\\t0.5000\\t-0.0000;'
    """
    # A product of a float32 and 10^4 is exact in double precision, so that this rounds as printf does.
    places = np.rint(scores.astype(np.float64) * _STEP)
    numbers = places.astype(np.intp) + _STEP
    below = np.signbit(places) & (places == 0)
    if below.any():
        numbers[below] = 2 * _STEP + 1
    return np.ascontiguousarray(_SCORES[numbers]).view(np.uint8).reshape(len(scores), -1)


def pieces(text: bytes, starts: NDArray[np.integer], stops: NDArray[np.integer]) -> Letters:
    """The slices of an ASCII text.

    >>> join([pieces(b"ACGTACG", np.array([0, 6]), np.array([6, 7])), b";"])
    'ACGTAC;G;'
    """
    widths = stops - starts
    width = int(widths.max()) if len(starts) else 0
    padded = np.frombuffer(text + b"\0" * (width + 1), dtype=np.uint8)
    letters: Letters = np.lib.stride_tricks.sliding_window_view(padded, max(width, 1))[starts][:, :width]
    if (widths < width).any():
        letters = np.where(np.arange(width) < widths[:, None], letters, 0).astype(np.uint8)
    return letters


def join(columns: Sequence[Letters | bytes]) -> str:
    """The rows as one text; bytes (UTF-8, without NUL) stand in every row."""
    n_rows = next(len(column) for column in columns if not isinstance(column, bytes))
    widths = [len(column) if isinstance(column, bytes) else column.shape[1] for column in columns]
    letters = np.empty((n_rows, sum(widths)), dtype=np.uint8)
    at = 0
    for column, width in zip(columns, widths, strict=True):
        part = np.frombuffer(column, dtype=np.uint8) if isinstance(column, bytes) else column
        letters[:, at : at + width] = part
        at += width
    return str(letters.tobytes().translate(None, b"\0"), "utf-8")
