"""From records to explanations, as a chain of named stages.

    records -> windows -> pools of like-sized batches -> [prefetch] -> outputs -> explanations, in order
            -> overlapping windows stitched -> chunks joined across the borders of windows

Outputs come from the models in this process (:func:`infer`), from other processes (:mod:`wyrcli.workers`)
or from a run that was killed (:mod:`wyrcli.journal`); nothing behind them knows which.

Each stage takes an iterator and gives one back, and holds a bounded number of windows, so memory does
not grow with the input.  Batches are filled across record borders.  A window is known by its place in
the input and never by its name, because names repeat.
"""

from __future__ import annotations

import operator
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, chain, islice
from typing import NamedTuple, TypeVar

import numpy as np
import torch

from wyrcli.answers import Answer, Answerer, ShortOfMemory
from wyrcli.batching import turn_round
from wyrcli.errors import DeviceError, WyrError, printable
from wyrcli.explanation import Explanation, Target, Window
from wyrcli.journal import Journal
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.frames import Readings, read_frames
from wyrcli.model.tokens import KmerTokenizer, TokenBatch, Tokenizer
from wyrcli.prefetching import Prefetch, prefetch
from wyrcli.scoring import BaseResolution
from wyrcli.sections import Border, OnSection, Sectioner
from wyrcli.stitching import group, join_chunks, stitch
from wyrcli.targets import Question, ask
from wyrcli.taxonomy import Taxonomy

__all__ = [
    "Batch",
    "Engine",
    "Numbered",
    "Output",
    "choose_device",
    "choose_devices",
    "choose_precision",
    "explain",
    "infer",
    "pool_tokens",
    "pool_windows",
    "read_texts",
    "too_large",
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
    """A batch of windows, its tokens, and what the models say of it.  On the CPU."""

    windows: list[Numbered]
    batch: TokenBatch
    answer: Answer


Batch = tuple[list[Numbered], Readings]
"""Windows and their tokens."""

Engine = Callable[[Iterator[Batch]], Iterator[Output]]
"""Has batches answered, in any way, and gives them back in their order."""


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


def choose_devices(name: str) -> list[torch.device]:
    """One device, as :func:`choose_device` has it; several, joined by commas; ``cuda:all`` of this machine.

    Raises DeviceError where one is not there, or named twice.
    """
    if name == "cuda:all":
        name = ",".join(f"cuda:{i}" for i in range(torch.cuda.device_count())) or "cuda"
    names = name.split(",")
    devices = [choose_device(own.strip()) for own in names]
    if len(devices) == 1:
        return devices
    for i, own in enumerate(names):
        if devices[i] in devices[:i]:
            raise DeviceError(f"device '{own}' is named twice; --processes puts several processes on each")
        if devices[i].type != devices[0].type or (devices[i].type == "cuda" and devices[i].index is None):
            raise DeviceError(f"devices '{name}'; expected one, or GPUs by number as in cuda:0,cuda:1")
    return devices


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
    engine: Engine | None = None,
    journal: Journal | None = None,
    on_section: OnSection | None = None,
) -> Generator[Explanation, None, None]:
    """``question.size`` explanations per window, in input order; those of a window in the question's order.

    The models must be on ``device`` already.  ``batch_tokens`` bounds the tokens of a batch, padding
    included.  ``rank`` chooses whose mask becomes ``Explanation.mask``; by default their maximum.
    ``question`` asks for more than that, and takes the place of ``rank``.  ``per_base``: scores of bases
    instead of tokens; needs a :class:`KmerTokenizer`.  Windows that overlap are stitched, see
    :func:`wyrcli.stitching.stitch`.  With a ``threshold``, chunks above it are joined across the borders of
    windows, see :func:`wyrcli.stitching.join_chunks`.

    ``engine``: has the batches answered elsewhere; the models are then not used.  ``journal``: has the
    answers on the first batches, and keeps the others.  ``on_section``: called from another thread with the
    first record of each section, before that record's first window comes out; see
    :func:`pool_windows`.
    """
    question = question or ask(taxonomy, rank=rank)
    pools = pool_windows(windows, tokenizer, batch_tokens, on_section)
    # Whose answers come from elsewhere, only need to be known by their tokens.
    elsewhere = (tokenizer, torch.device("cpu"))
    known = tokenize_pools(islice(pools, 0 if journal is None else journal.stored), *elsewhere)
    beside = engine is None and _computes_beside(device)
    if engine is None:
        batches = prefetch(chain(known, tokenize_pools(pools, tokenizer, device, per_base)))
        engine = partial(
            infer,
            explanandum=explanandum,
            explainer=explainer,
            device=device,
            question=question,
            per_base=per_base,
        )
    else:
        batches = prefetch(chain(known, tokenize_pools(pools, *elsewhere)))
    begun: list[Prefetch[Output]] = []
    if beside:
        engine = partial(_answer_beside, engine, begun)
    outputs = engine(batches) if journal is None else _keep(batches, engine, journal)
    try:
        explanations = restore_order(unpack(outputs, taxonomy, question))
        groups = stitch(group(explanations, question.size), question.rank)
        if threshold is not None:
            groups = join_chunks(groups, threshold, question.rank)
        for members in groups:
            yield from members
    finally:
        batches.close()
        for ahead in begun:
            ahead.close()


def _computes_beside(device: torch.device) -> bool:
    """Whether the models work while this process makes text of what they said before.

    A batch takes a GPU about as long as its text takes here: without threads of their own they would take
    turns.  A CPU has no time to give away.
    """
    return device.type == "cuda"


def _answer_beside(
    engine: Engine, begun: list[Prefetch[Output]], batches: Iterator[Batch]
) -> Iterator[Output]:
    """The engine's answers by a thread of its own, which is added to ``begun``."""
    ahead = prefetch(engine(batches), depth=1)
    begun.append(ahead)
    return ahead


def _keep(batches: Iterator[Batch], engine: Engine, journal: Journal) -> Iterator[Output]:
    """Answers from the journal, as far as it goes; then from the engine, and into the journal."""
    for key, answer in journal.read():
        windows, readings = next(batches, ([], None))
        if readings is None or key != _checksum(windows):
            shown = printable(str(journal.path), limit=300)
            raise WyrError(f"{shown}: kept of another input; remove this folder to begin anew")
        yield Output(windows, readings.batches[0], answer)
    for output in engine(batches):
        journal.add(_checksum(output.windows), output.answer)
        yield output


def _checksum(windows: Sequence[Numbered]) -> int:
    return zlib.crc32("\n".join([w.window.sequence for w in windows]).encode())


def pool_windows(
    windows: Iterable[Window], tokenizer: Tokenizer, batch_tokens: int, on_section: OnSection | None = None
) -> Iterator[list[Numbered]]:
    """Windows to batches of like length, each of at most ``batch_tokens`` tokens (or one window).

    A pool of several batches' worth is sorted by length before it is cut, so that little is padded even
    where lengths vary; reads of one length keep their order.  Where pools end: see
    :class:`wyrcli.sections.Sectioner`.
    """
    sectioner = Sectioner(pool_tokens(batch_tokens))
    pool: list[tuple[int, Numbered]] = []
    for ordinal, window in enumerate(windows):
        size = tokenizer.count_tokens(window.sequence)
        border = sectioner.place(window.record, size)
        if border is not Border.NONE:
            yield from cut_pool(pool, batch_tokens)
            pool = []
        if border is Border.SECTION and on_section is not None:
            on_section(window.record)
        pool.append((size, Numbered(ordinal, window)))
    yield from cut_pool(pool, batch_tokens)


def pool_tokens(batch_tokens: int) -> int:
    """Tokens of a pool and a section: 8 batches' worth."""
    return POOL * batch_tokens


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
        texts = [numbered.window.sequence for numbered in windows]
        yield windows, read_texts(tokenizer, texts, device, per_base)


def read_texts(
    tokenizer: Tokenizer, texts: Sequence[str], device: torch.device, per_base: BaseResolution | None
) -> Readings:
    """The tokens of one batch, on the CPU; page-locked where ``device`` is a GPU."""
    if per_base is None:
        readings = Readings((tokenizer.batch(texts),))
    elif isinstance(tokenizer, KmerTokenizer):
        turned = [turn_round(text) for text in texts] if per_base.both_strands else []
        readings = read_frames(tokenizer, texts, turned)
    else:
        raise ValueError("only k-mer tokens have several reading frames")
    return readings.pin_memory() if device.type == "cuda" else readings


def infer(
    batches: Iterator[Batch],
    explanandum: BaseExplanandum,
    explainer: Explainer | None,
    device: torch.device,
    question: Question = _PREDICTED,
    per_base: BaseResolution | None = None,
) -> Iterator[Output]:
    """Classify each batch, and mask it for the classes that were predicted and those that are asked for.

    Without an Explainer this is the bare classifier.  Raises WyrError that names the window which does not
    fit into memory even alone.
    """
    answerer = Answerer(explanandum, explainer, device, question, per_base)
    for windows, readings in batches:
        try:
            answer = answerer.answer(readings)
        except ShortOfMemory as error:
            raise too_large(windows[error.row].window) from None
        yield Output(windows, readings.batches[0], answer)


def too_large(window: Window) -> WyrError:
    """The error of a window that does not fit into memory even alone."""
    return WyrError(
        f"out of memory at '{printable(window.name)}', {window.start:,} to {window.stop:,}: the device has "
        "not enough for this window alone"
    )


def unpack(
    outputs: Iterable[Output], taxonomy: Taxonomy, question: Question
) -> Iterator[tuple[int, Explanation]]:
    """Batches to single explanations with their place among all explanations of the input."""
    for output in outputs:
        answer = output.answer
        scores = answer.scores
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
            probabilities = tuple(answer.probabilities[i].tolist())
            sure = tuple(accumulate(map(operator.ge, probabilities, question.thresholds), operator.and_))
            lineage = taxonomy.decode(answer.classes[i].tolist())
            targets = _name_targets(answer, i, taxonomy, question) or [None]
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


def _name_targets(answer: Answer, i: int, taxonomy: Taxonomy, question: Question) -> list[Target | None]:
    """The targets of one window, in order; none where the predicted classes are explained."""
    assert answer.asked is not None and answer.asked_probabilities is not None
    targets: list[Target | None] = []
    place = 0
    for goal in question.goals:
        probability = float(answer.asked_probabilities[i, place])
        targets.append(Target(goal.name, goal.place.rank, probability, goal.against))
        place += 1 if goal.against_place is None else 2
    first = taxonomy.slices[question.top_rank].start
    for number, probability in zip(
        answer.asked[i, place:].tolist(), answer.asked_probabilities[i, place:].tolist(), strict=True
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
