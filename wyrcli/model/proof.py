"""The proof that masks do to a network what they are said to do, on a few made-up sequences.

How a network treats a mask is up to code that others write and change.  So every encoder is tested when
it is loaded: an explanation of a network that heeds masks in another way would look as good as a right one.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from wyrcli.errors import CheckpointError
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.masking import OPERATORS, gate
from wyrcli.model.tokens import TokenBatch, Tokenizer

__all__ = ["prove"]

LIMIT = 5e-5
"""Largest difference, as a share of the largest value: some hundred times the precision of float32."""

_TOKENS = 12  # of the longest sequence, where no layer is local


def prove(explanandum: BaseExplanandum, tokenizer: Tokenizer) -> None:
    """Raise CheckpointError that says which property of a mask the network lacks, and by how much.

    - A mask of ones is the network's plain forward pass, with ``gate`` and with ``scale``.
    - Neither padding nor other windows in the batch change an answer, with a mask or without.
    - Under the gate, the last tokens at m = 0 leave the states of the shorter sequence.
    - Under the gate, it is of no account which tokens were removed.
    - The answer has a finite gradient in m, and it is not zero everywhere.

    The network computes in float32, on the device where it is, in eval mode; it is left as it was.
    """
    training = explanandum.training
    explanandum.eval()
    try:
        with torch.no_grad():
            batch = _sample(explanandum, tokenizer)
            _prove_ones(explanandum, batch)
            _prove_padding(explanandum, tokenizer, batch)
            _prove_removal(explanandum, batch)
            _prove_indifference(explanandum, batch)
        _prove_gradient(explanandum, batch)
    finally:
        explanandum.train(training)


def _texts(explanandum: BaseExplanandum, tokenizer: Tokenizer) -> list[str]:
    """Sequences of many lengths, one of them empty; the longest reaches beyond a local layer's window."""
    n = min(max(_TOKENS, explanandum.reach + _TOKENS), max(tokenizer.max_tokens // 2, 2))
    while tokenizer.count_tokens(tokenizer.sample(n)) > tokenizer.max_tokens and n > 1:
        n = n // 2
    return [tokenizer.sample(size, seed=i) for i, size in enumerate((n, n // 2, 1, 0))]


def _device(explanandum: BaseExplanandum) -> torch.device:
    return next(explanandum.parameters()).device


def _sample(explanandum: BaseExplanandum, tokenizer: Tokenizer) -> TokenBatch:
    batch = tokenizer.batch(_texts(explanandum, tokenizer)).to(_device(explanandum))
    counts = batch.valid.sum(-1, keepdim=True)
    place = torch.arange(batch.ids.shape[1], device=counts.device)
    if not bool((batch.valid == ((place > 0) & (place <= counts))).all()) or int(counts.max()) < 2:
        raise CheckpointError("the tokens of a sequence do not stand side by side behind one special token")
    return batch


def _soft_mask(batch: TokenBatch) -> Tensor:
    """Values in (0.1, 0.9)."""
    values = np.random.default_rng(0).uniform(0.1, 0.9, tuple(batch.ids.shape))
    return torch.from_numpy(values.astype(np.float32)).to(batch.ids.device)


def _compare(found: Tensor, expected: Tensor, what: str) -> None:
    limit = LIMIT * float(expected.abs().max())
    difference = float((found - expected).abs().max())
    if not difference <= limit:  # NaN is no proof either
        raise CheckpointError(
            f"the model cannot be explained: {what}; it differs by {difference:.2g} (limit {limit:.2g})"
        )


def _prove_ones(explanandum: BaseExplanandum, batch: TokenBatch) -> None:
    plain = explanandum.plain(batch)
    _compare(explanandum(batch), plain, "its answer is not that of its own forward pass")
    ones = torch.ones(batch.ids.shape, device=batch.ids.device)
    for name in ("gate", "scale"):  # between them, all that an operator can do
        answer = explanandum(batch, ones, OPERATORS[name])
        _compare(answer, plain, f"a mask of ones changes its answer ({name})")


def _prove_padding(explanandum: BaseExplanandum, tokenizer: Tokenizer, batch: TokenBatch) -> None:
    mask = _soft_mask(batch)
    together, masked = explanandum(batch), explanandum(batch, mask)
    for i, text in list(enumerate(_texts(explanandum, tokenizer)))[1:]:  # the first, longest is not padded
        alone = tokenizer.batch([text]).to(batch.ids.device)
        n = alone.ids.shape[1]
        _compare(together[i], explanandum(alone)[0], "padding changes its answer")
        _compare(masked[i], explanandum(alone, mask[i : i + 1, :n])[0], "padding changes its masked answer")


def _without_end(batch: TokenBatch, n: int) -> TokenBatch:
    """The first token and ``n`` valid ones of the first row, and no special token behind them."""
    ids = batch.ids[:1, : 1 + n]
    valid = torch.ones_like(ids, dtype=torch.bool)
    valid[:, 0] = False
    return TokenBatch(ids, torch.ones_like(valid), valid, batch.spans[:1, : 1 + n], padded=False)


def _prove_removal(explanandum: BaseExplanandum, batch: TokenBatch) -> None:
    # By hand without the special token at the end, which would move to another position.
    n = int(batch.valid[0].sum())
    kept = max(n * 2 // 3, 1)
    whole, shorter = _without_end(batch, n), _without_end(batch, kept)
    mask = torch.zeros(whole.ids.shape, device=batch.ids.device)
    mask[:, 1 : 1 + kept] = 1
    found, expected = explanandum.classify(whole, mask, gate), explanandum.classify(shorter)
    what = "removed tokens leave something behind (gate)"
    _compare(found.states[-1][:, : 1 + kept], expected.states[-1], what)
    if explanandum.pooling == "cls":  # a mean is divided by the number of all tokens
        _compare(found.logits, expected.logits, what)


def _prove_indifference(explanandum: BaseExplanandum, batch: TokenBatch) -> None:
    generator = np.random.default_rng(1)
    removed = torch.from_numpy(generator.random(tuple(batch.ids.shape)) < 0.5).to(batch.ids.device)
    removed &= batch.valid
    # Other tokens of the sequences themselves: special ones would count for positions.
    others = batch.ids[batch.valid][torch.from_numpy(generator.permutation(int(batch.valid.sum())))]
    swapped = batch.ids.clone()
    swapped[batch.valid] = others
    swapped = torch.where(removed, swapped, batch.ids)
    mask = (~removed).float()
    other = TokenBatch(swapped, batch.attention, batch.valid, batch.spans, batch.padded)
    _compare(explanandum(other, mask), explanandum(batch, mask), "removed tokens have a say (gate)")


def _prove_gradient(explanandum: BaseExplanandum, batch: TokenBatch) -> None:
    with torch.enable_grad():
        mask = _soft_mask(batch).requires_grad_(True)
        answer = explanandum(batch, mask).square().sum()
        gradient = torch.zeros_like(mask)
        if answer.requires_grad:
            gradient = torch.autograd.grad(answer, mask, allow_unused=True, materialize_grads=True)[0]
    if not bool(gradient.isfinite().all()) or not bool(gradient.any()):
        raise CheckpointError("the model cannot be explained: its answer has no gradient in the mask")
