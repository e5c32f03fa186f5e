"""Table rows as matrices of letters: what numpy formats in a tenth of the time that Python takes.

A column is a uint8 matrix with one line per row of the table, its text in ASCII; letters that a row does not
need are 0.  :func:`join` puts columns side by side and drops the zeros.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["Letters", "decimals", "fits", "integers", "join", "pieces"]

Letters = NDArray[np.uint8]

_ZERO, _POINT, _MINUS = ord("0"), ord("."), ord("-")
_LIMIT = 9.0


def integers(values: NDArray[np.integer]) -> Letters:
    """Numbers from 0 on, as ``%d``.

    >>> join([integers(np.array([7, 120])), b";"])
    '7;120;'
    """
    rest = values.astype(np.int64)
    if rest.size and int(rest.max()) < 2**31:
        rest = rest.astype(np.int32)  # divided twice as fast
    width = len(str(int(rest.max()))) if rest.size else 1
    letters = np.empty((len(rest), width), dtype=np.uint8)
    for column in reversed(range(width)):
        quotient = rest // 10
        digit = (rest - quotient * 10 + _ZERO).astype(np.uint8)
        # Zeros before the first digit are no letters; the last digit always is one.
        letters[:, column] = digit if column == width - 1 else np.where(rest > 0, digit, 0)
        rest = quotient
    return letters


def fits(scores: NDArray[np.floating]) -> bool:
    """Whether :func:`decimals` can write these."""
    return not scores.size or bool(np.abs(scores).max() < _LIMIT)  # False for NaN too


def decimals(scores: NDArray[np.float32]) -> Letters:
    """Numbers between -9 and 9, as ``%.4f``.

    >>> join([decimals(np.array([0.5, -0.00001], dtype=np.float32)), b";"])
    '0.5000;-0.0000;'
    """
    # A product of a float32 and 10^4 is exact in double precision, so that this rounds as printf does.
    rest = np.rint(np.abs(scores.astype(np.float64)) * 10_000).astype(np.int32)
    letters = np.empty((len(scores), 7), dtype=np.uint8)
    letters[:, 0] = np.where(np.signbit(scores), _MINUS, 0)
    letters[:, 2] = _POINT
    for column in (6, 5, 4, 3, 1):
        quotient = rest // 10
        letters[:, column] = rest - quotient * 10 + _ZERO
        rest = quotient
    return letters


def pieces(text: bytes, starts: NDArray[np.integer], stops: NDArray[np.integer]) -> Letters:
    """The slices of an ASCII text.

    >>> join([pieces(b"ACGTACG", np.array([0, 6]), np.array([6, 7])), b";"])
    'ACGTAC;G;'
    """
    width = int((stops - starts).max()) if len(starts) else 0
    places = starts[:, None] + np.arange(width)
    padded = np.frombuffer(text + b"\0" * (width + 1), dtype=np.uint8)
    return np.where(places < stops[:, None], padded[places], 0).astype(np.uint8)


def join(columns: Sequence[Letters | bytes]) -> str:
    """The rows as one text; bytes (UTF-8, without NUL) stand in every row."""
    n_rows = next(len(column) for column in columns if not isinstance(column, bytes))
    wide = [
        np.broadcast_to(np.frombuffer(column, dtype=np.uint8), (n_rows, len(column)))
        if isinstance(column, bytes)
        else column
        for column in columns
    ]
    letters: Letters = np.concatenate(wide, axis=1).ravel()
    return str(letters[letters != 0].tobytes(), "utf-8")
