"""From records to explanations, as a chain of named stages.

    records -> windows -> pools of like-sized batches -> [prefetch] -> outputs -> explanations, in order
            -> overlapping windows stitched -> chunks joined across the borders of windows

Each stage takes an iterator and gives one back, and holds a bounded number of windows, so memory does
not grow with the input.  Batches are filled across record borders.  A window is known by its place in
the input and never by its name, because names repeat.
"""

from __future__ import annotations

import operator
from collections.abc import Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wyrcli.batching import turn_round
from wyrcli.errors import DeviceError
from wyrcli.explanation import Explanation, Target, Window
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.frames import Readings, read_frames
from wyrcli.model.tokens import KmerTokenizer, TokenBatch, Tokenizer
from wyrcli.prefetching import prefetch
from wyrcli.scoring import BaseResolution, Scores, number_asked, score_sites
from wyrcli.stitching import group, join_chunks, stitch
from wyrcli.targets import Question, ask
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "Output",
    "choose_device",
    "choose_precision",
    "explain",
]

T = TypeVar("T")

_PREDICTED = Question()

POOL = 8  # batches' worth of windows that are sorted by length together


class Numbered(NamedTuple):
    """A window and its place among all windows of the input."""

    ordinal: int
    window: Window


@dataclass(frozen=True, eq=False)
class Output:
    """What the models say of one batch, on the CPU.

    ``classes`` int64 (B, R) and ``probabilities`` float32 (B, R) of the predicted taxa.  ``asked`` int64
    (B, A) and ``asked_probabilities`` float32 (B, A): of the classes that were asked for beside these, see
    :func:`wyrcli.scoring.number_asked`.  ``scores``: mask values.  All three are None without an Explainer.
    """

    windows: list[Numbered]
    batch: TokenBatch
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    asked: NDArray[np.int64] | None = None
    asked_probabilities: NDArray[np.float32] | None = None
    scores: Scores | None = None


def choose_device(name: str) -> torch.device:
    """``auto``, ``cpu``, ``cuda`` or ``cuda:N``.  Raises DeviceError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise DeviceError(f"unknown device '{name}'; expected auto, cpu, cuda or cuda:N") from None
    if device.type not in ("cpu", "cuda"):
        raise DeviceError(f"device '{name}' is not supported; expected auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise DeviceError(
            f"device '{name}' asked for, but this machine has {torch.cuda.device_count()} CUDA GPUs"
        )
    return device


def choose_precision(name: str, device: torch.device) -> torch.dtype:
    """``bf16``, ``fp32``, or ``auto``: bf16 where the device multiplies it in hardware."""
    if name == "auto":
        if device.type == "cuda":
            fast = torch.cuda.get_device_capability(device)[0] >= 8
        else:
            # oneDNN also emulates bf16 on older processors, which is slower than fp32 there.
            fast = any(
                bool(getattr(torch.cpu, check, lambda: False)())
                for check in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
            )
        return torch.bfloat16 if fast else torch.float32
    return {"bf16": torch.bfloat16, "fp32": torch.float32}[name]


def explain(
    windows: Iterable[Window],
    explanandum: BaseExplanandum,
    explainer: Explainer,
    tokenizer: Tokenizer,
    taxonomy: Taxonomy,
    *,
    batch_tokens: int,
    device: torch.device,
    rank: str | None = None,
    question: Question | None = None,
    per_base: BaseResolution | None = None,
    threshold: float | None = None,
) -> Generator[Explanation, None, None]:
    """``question.size`` explanations per window, in input order; those of a window in the question's order.

    The models must be on ``device`` already.  ``batch_tokens`` bounds the tokens of a batch, padding
    included.  ``rank`` chooses whose mask becomes ``Explanation.mask``; by default their maximum.
    ``question`` asks for more than that, and takes the place of ``rank``.  ``per_base``: scores of bases
    instead of tokens; needs a :class:`KmerTokenizer`.  Windows that overlap are stitched, see
    :func:`wyrcli.stitching.stitch`.  With a ``threshold``, chunks above it are joined across the borders of
    windows, see :func:`wyrcli.stitching.join_chunks`.
    """
    question = question or ask(taxonomy, rank=rank)
    pools = pool_windows(windows, tokenizer, batch_tokens)
    batches = prefetch(tokenize_pools(pools, tokenizer, device, per_base))
    outputs: Iterator[Output] = infer(batches, explanandum, explainer, device, question, per_base)
    ahead = prefetch(outputs, depth=1) if _computes_beside(device) else None
    try:
        explanations = restore_order(unpack(outputs if ahead is None else ahead, taxonomy, question))
        groups = stitch(group(explanations, question.size), question.rank)
        if threshold is not None:
            groups = join_chunks(groups, threshold, question.rank)
        for members in groups:
            yield from members
    finally:
        if ahead is not None:
            ahead.close()
        batches.close()


def _computes_beside(device: torch.device) -> bool:
    """Whether the models work while this process makes text of what they said before.

    A batch takes a GPU about as long as its text takes here: without threads of their own they would take
    turns.  A CPU has no time to give away.
    """
    return device.type == "cuda"


def pool_windows(
    windows: Iterable[Window], tokenizer: Tokenizer, batch_tokens: int
) -> Iterator[list[Numbered]]:
    """Windows to batches of like length, each of at most ``batch_tokens`` tokens (or one window).

    A pool of several batches' worth is sorted by length before it is cut, so that little is padded even
    where lengths vary; reads of one length keep their order.
    """
    pool: list[tuple[int, Numbered]] = []
    held = 0
    for ordinal, window in enumerate(windows):
        size = tokenizer.count_tokens(window.sequence)
        pool.append((size, Numbered(ordinal, window)))
        held += size
        if held >= POOL * batch_tokens:
            yield from cut_pool(pool, batch_tokens)
            pool, held = [], 0
    yield from cut_pool(pool, batch_tokens)


def cut_pool(pool: list[tuple[int, Numbered]], batch_tokens: int) -> Iterator[list[Numbered]]:
    """One pool, longest windows first: the first window of a batch sets the length of all its rows."""
    batch: list[Numbered] = []
    width = 0
    for size, numbered in sorted(pool, key=lambda item: -item[0]):
        if batch and (len(batch) + 1) * width > batch_tokens:
            yield batch
            batch = []
        if not batch:
            width = size
        batch.append(numbered)
    if batch:
        yield batch


def tokenize_pools(
    batches: Iterable[list[Numbered]],
    tokenizer: Tokenizer,
    device: torch.device,
    per_base: BaseResolution | None = None,
) -> Iterator[tuple[list[Numbered], Readings]]:
    """Windows to token ids, in page-locked memory where they go to a GPU."""
    for windows in batches:
        texts = [w.window.sequence for w in windows]
        if per_base is None:
            readings = Readings((tokenizer.batch(texts),))
        elif isinstance(tokenizer, KmerTokenizer):
            turned = [turn_round(text) for text in texts] if per_base.both_strands else []
            readings = read_frames(tokenizer, texts, turned)
        else:
            raise ValueError("only k-mer tokens have several reading frames")
        yield windows, readings.pin_memory() if device.type == "cuda" else readings


def infer(
    batches: Iterable[tuple[list[Numbered], Readings]],
    explanandum: BaseExplanandum,
    explainer: Explainer | None,
    device: torch.device,
    question: Question = _PREDICTED,
    per_base: BaseResolution | None = None,
) -> Iterator[Output]:
    """Classify each batch, and mask it for the classes that were predicted and those that are asked for.

    Without an Explainer this is the bare classifier.
    """
    for windows, cpu_readings in batches:
        plain = cpu_readings.batches[0]
        with torch.inference_mode():
            readings = cpu_readings.to(device)
            logits, states = explanandum.classify(readings.batches[0])
            classes, probabilities = explanandum.predict(logits)
            output = Output(windows, plain, classes.cpu().numpy(), probabilities.cpu().numpy())
            if explainer is not None:
                predicted = explanandum.class_numbers(classes)
                each = torch.cat(explanandum.probabilities(logits), -1)  # (B, C)
                asked = number_asked(question, each, explanandum.sizes)
                numbers = torch.cat([predicted, asked], -1)
                masks = _mask_readings(explanandum, explainer, readings, states, numbers)
                output = replace(
                    output,
                    asked=asked.cpu().numpy(),
                    asked_probabilities=each.gather(-1, asked).cpu().numpy(),
                    scores=score_sites(masks, readings, question, len(explanandum.sizes), per_base),
                )
        yield output


def _mask_readings(
    explanandum: BaseExplanandum,
    explainer: Explainer,
    readings: Readings,
    states: Sequence[Tensor],
    numbers: Tensor,
) -> Iterator[Tensor]:
    """Masks (B, L, K) of the classes ``numbers`` (B, K) in each reading; ``states``: of the first."""
    for i, batch in enumerate(readings.batches):
        own = states if i == 0 else explanandum.classify(batch).states
        yield explainer(batch, own, numbers).float().sigmoid()


def unpack(
    outputs: Iterable[Output], taxonomy: Taxonomy, question: Question
) -> Iterator[tuple[int, Explanation]]:
    """Batches to single explanations with their place among all explanations of the input."""
    for output in outputs:
        scores = output.scores
        if scores is None:
            raise ValueError("there is no mask to unpack without an Explainer")
        counts = output.batch.valid.sum(-1).tolist()
        for i, (ordinal, window) in enumerate(output.windows):
            if scores.per_base:
                sites = slice(0, len(window.sequence))
                spans = np.stack([np.arange(sites.stop), np.arange(sites.stop) + 1], axis=1)
            else:
                sites = slice(1, 1 + counts[i])  # behind the first special token; see TokenBatch
                spans = output.batch.spans[i, sites]
            rank_masks = scores.rank_masks[i, sites].T  # (R, S)
            probabilities = tuple(output.probabilities[i].tolist())
            sure = tuple(accumulate(map(operator.ge, probabilities, question.thresholds), operator.and_))
            lineage = taxonomy.decode(output.classes[i].tolist())
            targets = _name_targets(output, i, taxonomy, question) or [None]
            for g, target in enumerate(targets):
                yield (
                    ordinal * len(targets) + g,
                    Explanation(
                        window,
                        lineage,
                        probabilities,
                        scores.masks[i, sites, g],
                        rank_masks,
                        spans + window.start,
                        target,
                        sure,
                        None if scores.agreement is None else float(scores.agreement[i, g]),
                    ),
                )


def _name_targets(output: Output, i: int, taxonomy: Taxonomy, question: Question) -> list[Target | None]:
    """The targets of one window, in order; none where the predicted classes are explained."""
    assert output.asked is not None and output.asked_probabilities is not None
    targets: list[Target | None] = []
    place = 0
    for goal in question.goals:
        probability = float(output.asked_probabilities[i, place])
        targets.append(Target(goal.name, goal.place.rank, probability, goal.against))
        place += 1 if goal.against_place is None else 2
    first = taxonomy.slices[question.top_rank].start
    for number, probability in zip(
        output.asked[i, place:].tolist(), output.asked_probabilities[i, place:].tolist(), strict=True
    ):
        name = taxonomy.taxa[question.top_rank][number - first]
        targets.append(Target(name, question.top_rank % len(taxonomy.ranks), probability))
    return targets


def restore_order(items: Iterable[tuple[int, T]]) -> Iterator[T]:
    """Items in the order of their numbers 0, 1, 2, ...; holds back what came too early."""
    waiting: dict[int, T] = {}
    following = 0
    for ordinal, item in items:
        waiting[ordinal] = item
        while following in waiting:
            yield waiting.pop(following)
            following += 1
    if waiting:
        raise RuntimeError(f"item {following} never came; {len(waiting)} later ones did")
