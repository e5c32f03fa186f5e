"""Masks of the same bases in several reading frames.

A k-mer token begins every k bases, so a sequence has k readings, and a base lies at another place of its
token in each.  What matters in a sequence does not depend on where one began to read: the mean of the masks
over all frames says more, and of single bases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from wyrcli.model.tokens import KmerTokenizer, TokenBatch

__all__ = [
    "Readings",
    "average_frames",
    "average_strands",
    "correlate",
    "match_area",
    "read_frames",
    "sharpen",
    "token_of_base",
]

_EDGE = 1e-3  # logits of 0 and 1 are not finite


@dataclass(frozen=True, eq=False)
class Readings:
    """The same B windows as tokens, once or in several frames.

    ``batches``: tokens of each reading; the first is the plain one.  ``places``: of each reading, int64
    (B, W), for each base of the windows as they are given, its token on the L axis, 0 where the reading
    leaves it out; empty where there is one reading and tokens are wanted.  ``lengths`` int64 (B,), bases of
    each window; W is the largest.  ``n_turned``: so many of the readings, the last ones, are those of the
    reverse complement.
    """

    batches: tuple[TokenBatch, ...]
    places: tuple[Tensor, ...] = ()
    lengths: Tensor | None = None
    n_turned: int = 0

    def to(self, device: torch.device) -> Readings:
        """The same on another device."""
        return self._moved(
            tuple(batch.to(device) for batch in self.batches),
            lambda tensor: tensor.to(device, non_blocking=True),
        )

    def pin_memory(self) -> Readings:
        """The same in page-locked memory, so that a copy to a GPU runs beside its work."""
        return self._moved(tuple(batch.pin_memory() for batch in self.batches), Tensor.pin_memory)

    def rows(self, start: int, stop: int) -> Readings:
        """The same of some of the windows, as wide as before."""
        batches = tuple(batch.rows(start, stop) for batch in self.batches)
        return self._moved(batches, lambda tensor: tensor[start:stop])

    def _moved(self, batches: tuple[TokenBatch, ...], move: Callable[[Tensor], Tensor]) -> Readings:
        lengths = None if self.lengths is None else move(self.lengths)
        return replace(self, batches=batches, places=tuple(map(move, self.places)), lengths=lengths)


def read_frames(tokenizer: KmerTokenizer, sequences: Sequence[str], turned: Sequence[str] = ()) -> Readings:
    """Windows in all k frames; frame f leaves out the first f bases.

    ``turned``: the reverse complements of ``sequences``, to be read in k frames as well.
    """
    lengths = torch.tensor([len(s) for s in sequences], dtype=torch.int64)
    width = max(map(len, sequences), default=0)
    batches, places = [], []
    for strand in (sequences, turned) if turned else (sequences,):
        for offset in range(tokenizer.k):
            batch = tokenizer.batch([s[offset:] for s in strand])
            place = token_of_base(batch, offset, width)
            batches.append(batch)
            places.append(place if strand is sequences else _turn(place, lengths))
    return Readings(tuple(batches), tuple(places), lengths, tokenizer.k if turned else 0)


def _turn(values: Tensor, lengths: Tensor) -> Tensor:
    """(B, W) with the first ``lengths`` of each row in reverse order."""
    place = lengths[:, None] - 1 - torch.arange(values.shape[1])
    return values.gather(1, place.clamp_min(0)) * (place >= 0)


def average_strands(masks: Iterable[Tensor], readings: Readings) -> list[Tensor]:
    """Float32 (B, W, R) per strand: for each base the mean over the frames that read it, 0 beyond the end.

    ``masks``: of each reading, (B, L, R), in any float type; taken one after the other.  A base that no frame
    reads does not exist: the first frame reads all.
    """
    n_forward = len(readings.places) - readings.n_turned
    total, count, means = torch.zeros(()), torch.zeros(()), []
    for i, (mask, place) in enumerate(zip(masks, readings.places, strict=True)):
        if i in (0, n_forward):
            total = mask.new_zeros((*place.shape, mask.shape[-1]), dtype=torch.float32)
            count = total[..., :1].clone()
        covered = (place > 0).to(torch.float32)[..., None]
        total += covered * mask.float().gather(1, place[..., None].expand(-1, -1, mask.shape[-1]))
        count += covered
        if i + 1 in (n_forward, len(readings.places)):
            means.append(total / count.clamp_min(1))
    return means


def sharpen(masks: Tensor, lengths: Tensor, width: int) -> Tensor:
    """Masks (B, W, R) of bases with their contrast to their surroundings doubled, in logits.

    From twice a base's logit, the mean over the ``width`` bases around it (fewer at a window's end) is taken
    away.  It takes off the halo around relevant stretches; what is the same everywhere stays as it is.

    ``lengths`` int64 (B,): bases of each window.
    """
    n, longest, _ = masks.shape
    logits = masks.double().logit(_EDGE)
    place = torch.arange(longest, device=masks.device).expand(n, -1)
    first = (place - width // 2).clamp_min(0)
    end = torch.minimum(place + width // 2 + 1, lengths[:, None])
    inside = place < lengths[:, None]
    first, end = first * inside, end * inside
    sums = torch.cat([torch.zeros_like(logits[:, :1]), logits.cumsum(1)], dim=1)

    def at(places: Tensor) -> Tensor:
        return sums.gather(1, places[..., None].expand(-1, -1, sums.shape[-1]))

    around = (at(end) - at(first)) / (end - first).clamp_min(1)[..., None]
    return ((2 * logits - around).sigmoid() * inside[..., None]).float()


def correlate(first: Tensor, second: Tensor, lengths: Tensor) -> Tensor:
    """Pearson correlation over the bases of each window, float64 (B, G), of scores (B, W, G).

    NaN where the scores of either are all the same.  ``lengths`` int64 (B,): bases of each window.
    """
    inside = (torch.arange(first.shape[1], device=first.device) < lengths[:, None])[..., None].double()
    n = lengths[:, None].clamp_min(1)

    def centred(scores: Tensor) -> Tensor:
        wide = scores.double() * inside
        return (wide - wide.sum(1, keepdim=True) / n[..., None]) * inside

    a, b = centred(first), centred(second)
    squares = (a * a).sum(1) * (b * b).sum(1)
    # What is left of equal scores is rounding.
    defined = squares > (1e-12 * n) ** 2
    return torch.where(defined, (a * b).sum(1) / squares.sqrt(), torch.nan)


def token_of_base(batch: TokenBatch, offset: int, width: int) -> Tensor:
    """For each base the number of the token that covers it, on the L axis; int64 (B, width), 0 for none.

    ``offset``: bases of each window that were left out before it was tokenised.
    """
    sizes = batch.spans[..., 1] - batch.spans[..., 0]  # (B, L); they tile the window
    tokens = np.repeat(np.broadcast_to(np.arange(sizes.shape[1]), sizes.shape).ravel(), sizes.ravel())
    found = np.zeros((len(sizes), width), dtype=np.int64)
    place = np.arange(width) - offset
    found[(place >= 0) & (place < sizes.sum(-1)[:, None])] = tokens
    return torch.from_numpy(found)


def average_frames(masks: Sequence[Tensor], batches: Sequence[TokenBatch]) -> tuple[Tensor, Tensor]:
    """The mean over frames, for each base and for each token of the first frame.

    Parameters
    ----------
    masks: of each frame, (B, L_f, R), float.  Frame f leaves out the first f bases.
    batches: tokens of each frame, as they were made on the CPU, ``spans`` from their own first base on.

    Returns
    -------
    (B, W, R) for the bases, W those of the longest window, and (B, L, R): the mean over a token's bases.
    Where there is no base or token, 0.
    """
    spans = batches[0].spans
    width = int(spans[..., 1].max(initial=0))
    n, device, ranks = len(spans), masks[0].device, masks[0].shape[-1]
    total = torch.zeros(n, width, ranks, device=device)
    count = torch.zeros(n, width, 1, device=device)
    for f, (mask, batch) in enumerate(zip(masks, batches, strict=True)):
        token = token_of_base(batch, f, width).to(device)[..., None]
        covered = (token > 0).to(total.dtype)
        total += covered * mask.float().gather(1, token.expand(-1, -1, ranks))
        count += covered
    bases = total / count.clamp_min(1)
    sums = torch.cat([torch.zeros(n, 1, ranks, device=device), bases.cumsum(1)], dim=1)
    ends = torch.from_numpy(spans).to(device)

    def at(places: Tensor) -> Tensor:
        return sums.gather(1, places[..., None].expand(-1, -1, ranks))

    sizes = (ends[..., 1] - ends[..., 0])[..., None]
    return bases, (at(ends[..., 1]) - at(ends[..., 0])) / sizes.clamp_min(1)


def match_area(masks: Tensor, shares: Tensor, valid: Tensor) -> Tensor:
    """Masks (B, L, R) with their logits moved up or down until ``shares`` (B, R) of them round to 1.

    A mean over frames is above one half only where most frames agree, so that fewer of its tokens would be
    kept than in any single frame.  The order of the tokens stays.  ``valid``: bool (B, L).

    >>> mask = torch.tensor([0.1, 0.2, 0.4]).reshape(1, 3, 1)
    >>> match_area(mask, torch.tensor([[2 / 3]]), torch.ones(1, 3, dtype=torch.bool)).flatten() > 0.5
    tensor([False,  True,  True])
    """
    n_valid = valid.sum(-1)[:, None]
    count = (shares.clamp(0, 1) * n_valid).round().long()  # (B, R)
    values = masks.masked_fill(~valid[..., None], 0.0).sort(dim=1, descending=True).values
    # The border lies half way between the last token that is kept and the first that is not.
    padded = torch.cat([torch.ones_like(values[:, :1]), values, torch.zeros_like(values[:, :1])], dim=1)
    pairs = torch.stack([count, count + 1], dim=1)  # (B, 2, R)
    border = padded.gather(1, pairs).logit(_EDGE).mean(1)  # (B, R)
    return (masks.logit(_EDGE) - border[:, None]).sigmoid()
