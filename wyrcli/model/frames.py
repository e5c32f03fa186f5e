"""Masks of the same bases in several reading frames.

A k-mer token begins every k bases, so a sequence has k readings, and a base lies at another place of its
token in each.  What matters in a sequence does not depend on where one began to read: the mean of the masks
over all frames says more, and of single bases.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from wyrcli.model.tokens import TokenBatch

_EDGE = 1e-3  # logits of 0 and 1 are not finite

__all__ = ["average_frames", "match_area", "token_of_base"]


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
