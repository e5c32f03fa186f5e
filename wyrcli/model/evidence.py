"""What the frozen classifier itself says of its tokens: how fast a class's probability falls when one fades.

The gradient of log p of a class with respect to the mask, where all of the mask is 1, is the *evidence* of
each token.  Where a little of the answer stands in every token it chooses well (``docs/experiments.md``); an
Explainer can tell it without a backward pass, for all classes.  It is a first-order approximation: what only
removal shows, such as the value of two tokens together, is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.nn import functional as F

from wyrcli.model.explainer import Explainer, StateExplainer
from wyrcli.model.explanandum import BaseExplanandum, Explanandum
from wyrcli.model.masking import Operator
from wyrcli.model.tokens import TokenBatch

__all__ = ["calibrate_share", "find_evidence", "mark_share", "smooth", "start_from_evidence"]

_STEEP = 3.0  # how soon evidence is beyond doubt
_RIDGE = 0.01  # of the mean variance of a feature


def find_evidence(
    explanandum: BaseExplanandum, batch: TokenBatch, remove: Operator
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Evidence (B, L) for the predicted class of each rank; the states; the numbers (B, R) of the classes."""
    with torch.enable_grad():
        mask = torch.ones(batch.ids.shape, device=batch.ids.device, requires_grad=True)
        logits, states = explanandum.classify(batch, mask, remove)
        gradients, classes = _derive(explanandum, logits, mask)
    found = [gradient.masked_fill(~batch.valid, 0.0) for gradient in gradients]
    return found, [state.detach() for state in states], classes


def _derive(explanandum: BaseExplanandum, logits: Tensor, source: Tensor) -> tuple[list[Tensor], Tensor]:
    """Gradients of log p of the predicted class of each rank, shaped as ``source``; the classes (B, R)."""
    classes = explanandum.class_numbers(explanandum.predict(logits.detach())[0])
    logs = torch.cat([own.log_softmax(-1) for own in explanandum.split(logits)], -1).gather(1, classes)
    found = [torch.autograd.grad(column.sum(), source, retain_graph=True)[0] for column in logs.unbind(1)]
    return found, classes


def smooth(scores: Tensor, n_tokens: int) -> Tensor:
    """The mean over an odd number of neighbouring tokens of scores (B, L), which are 0 at padding."""
    if n_tokens == 1:
        return scores
    return F.avg_pool1d(scores[:, None], n_tokens, stride=1, padding=n_tokens // 2)[:, 0]


def mark_share(scores: Tensor, valid: Tensor, share: float) -> Tensor:
    """Scores (B, L) to values in (0, 1), above one half for the highest ``share`` of a row's valid tokens.

    The further from that border, in standard deviations of the row, the nearer to 0 or 1.
    """
    ranked = scores.masked_fill(~valid, -torch.inf).sort(-1, descending=True)[0]
    places = (share * valid.sum(-1, keepdim=True)).long().clamp_max(scores.shape[1] - 1)
    border = ranked.gather(1, places)
    centred, spread = _standardise(scores, valid)
    border = torch.where(border.isfinite(), border, scores - centred)
    return (_STEEP * (scores - border) / spread).sigmoid().masked_fill(~valid, 0.0)


def _standardise(scores: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Scores (B, L) less the mean of each row's valid tokens, and their standard deviation (B, 1)."""
    n = valid.sum(-1, keepdim=True).clamp_min(1)
    centred = scores - (scores * valid).sum(-1, keepdim=True) / n
    spread = ((centred.square() * valid).sum(-1, keepdim=True) / n).sqrt()
    return centred, spread.clamp_min(torch.finfo(scores.dtype).tiny)


@torch.no_grad()
def start_from_evidence(
    explainer: StateExplainer,
    explanandum: BaseExplanandum,
    batches: Iterable[TokenBatch],
    remove: Operator,
) -> None:
    """Set an Explainer's weights so that it tells evidence to first order.

    The last layer's attention reads the last state but one.  The mean gradient of a class's log probability
    with respect to it, over the windows that are called so, is the weight of that class; it says the same of
    each token as the mask's gradient does, where attention is even.  All classes' weights are cut to
    width / 2 directions by their singular values; each takes two features, since GELU(z) - GELU(-z) = z.
    What is the same for all tokens of a window is taken off by the last state.  The convolution becomes the
    mean over its tokens.
    """
    width, n_features = explainer.reduce.weight.shape
    last = n_features // explainer.n_states  # features of one state
    read = slice(n_features - 2 * last, n_features - last)
    device, wide = explainer.reduce.weight.device, torch.float64
    covariance = torch.zeros(last, last, dtype=wide, device=device)
    slopes = torch.zeros(sum(explanandum.sizes), last, dtype=wide, device=device)
    windows = torch.zeros(len(slopes), dtype=wide, device=device)
    means, ends = [], []
    n_tokens = 0
    for batch in batches:
        gradients, states, classes = _differentiate(explanandum, batch, remove)
        valid = batch.valid[..., None]
        features = F.layer_norm(states[-2].float(), (last,)) * valid
        own = features.sum(1) / valid.sum(1).clamp_min(1)
        centred = (features - own[:, None]) * valid
        covariance += torch.einsum("blf,blg->fg", centred, centred).double()
        n_tokens += int(batch.valid.sum())
        means.append(own)
        ends.append((F.layer_norm(states[-1].float(), (last,)) * valid).sum(1) / valid.sum(1).clamp_min(1))
        for r, gradient in enumerate(gradients):
            slopes.index_add_(0, classes[:, r], gradient.double())
            windows.index_add_(0, classes[:, r], torch.ones(len(batch), dtype=wide, device=device))
    slopes /= windows.clamp_min(1)[:, None]
    covariance /= max(n_tokens, 1)
    covariance.diagonal().add_(_RIDGE * covariance.diagonal().mean())

    # The directions in which the predictions vary most, of variance one.
    root = torch.linalg.cholesky(covariance)
    n_kept = min(width // 2, last)
    _, _, directions = torch.linalg.svd(windows.sqrt()[:, None] * (slopes @ root), full_matrices=False)
    directions = directions[:n_kept]
    n_kept = len(directions)
    reading = torch.linalg.solve(root.T, directions.T).T  # z = reading @ features
    heads = slopes @ root @ directions.T  # (C, width / 2)

    average, end = torch.cat(means).double(), torch.cat(ends).double()
    of_window = (average - average.mean(0)) @ reading.T
    knows = end - end.mean(0)
    inner = knows.T @ knows
    inner.diagonal().add_(_RIDGE * inner.diagonal().mean())
    known = -torch.linalg.solve(inner, knows.T @ of_window).T

    reduce, mix, head = explainer.reduce, explainer.mix, explainer.head
    weight = torch.zeros(n_kept, n_features, dtype=wide, device=device)
    weight[:, read], weight[:, -last:] = reading, known
    offset = -reading @ average.mean(0) - known @ end.mean(0)
    both = slice(0, 2 * n_kept)
    for parameter in (reduce.weight, reduce.bias, mix.weight, head.weight):
        parameter.zero_()
    reduce.weight[both] = torch.cat([weight, -weight]).to(reduce.weight.dtype)
    reduce.bias[both] = torch.cat([offset, -offset]).to(reduce.bias.dtype)
    kernel = mix.kernel_size[0]
    mix.get_parameter("bias").zero_()
    one = torch.eye(width, device=device)
    mix.weight.copy_((one / kernel)[..., None].expand(-1, -1, kernel))
    mix.weight[..., kernel // 2] -= one
    # A class's scores have the spread of its weights, of which the mean over the kernel leaves a root.
    size = heads.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(wide).tiny)
    scaled = _STEEP * kernel**0.5 * heads / size
    head.weight[:, both] = torch.cat([scaled, -scaled], -1).to(head.weight.dtype)
    head.bias.zero_()


@torch.no_grad()
def calibrate_share(
    explainer: Explainer, explanandum: BaseExplanandum, batches: Iterable[TokenBatch], share: float
) -> None:
    """Shift the mask logits of all classes so that the predicted ones mark ``share`` of the tokens each.

    An Explainer that is unsure of what it was taught keeps to the mean, and marks less than its teacher.
    """
    found = []
    for batch in batches:
        logits, states = explanandum.classify(batch)
        classes = explanandum.class_numbers(explanandum.predict(logits)[0])
        found.append(explainer(batch, states, classes).float()[batch.valid].flatten())
    explainer.head.bias.sub_(torch.cat(found).quantile(1 - share))


def _differentiate(
    explanandum: BaseExplanandum, batch: TokenBatch, remove: Operator
) -> tuple[list[Tensor], list[Tensor], Tensor]:
    """Gradients of log p of the predicted classes with respect to the normalised last state but one.

    Each (B, H), the mean over a window's tokens; then the states, and the classes (B, R) on the class axis.
    """
    with torch.enable_grad():
        if explanandum.n_states == 2 and isinstance(explanandum, Explanandum):
            # One layer: what it reads are the embeddings, which no mask of the gate changes.
            embeddings = explanandum.backbone.embed(batch.ids, batch.attention_mask).requires_grad_()
            logits, states = explanandum.classify_embeddings(embeddings, batch)
        else:
            mask = torch.ones(batch.ids.shape, device=batch.ids.device, requires_grad=True)
            logits, states = explanandum.classify(batch, mask, remove)
        found, classes = _derive(explanandum, logits, states[-2])
    lengths = states[-2].detach().float().std(-1, correction=0, keepdim=True)
    weights = lengths * batch.valid[..., None] / batch.valid.sum(-1)[:, None, None].clamp_min(1)
    return [(own * weights).sum(1) for own in found], [state.detach() for state in states], classes
