"""From records to explanations, as a chain of named stages.

    records -> windows -> pools of like-sized batches -> [prefetch] -> outputs -> explanations, in order

Each stage takes an iterator and gives one back, and holds a bounded number of windows, so memory does
not grow with the input.  Batches are filled across record borders.  A window is known by its place in
the input and never by its name, because names repeat.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.errors import DeviceError
from wyrcli.explanation import Explanation, Window
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.tokens import TokenBatch, Tokenizer
from wyrcli.prefetching import prefetch
from wyrcli.taxonomy import Taxonomy

__all__ = ["Output", "choose_device", "choose_precision", "explain"]

T = TypeVar("T")

POOL = 8  # batches' worth of windows that are sorted by length together


class Numbered(NamedTuple):
    """A window and its place among all windows of the input."""

    ordinal: int
    window: Window


@dataclass(frozen=True, eq=False)
class Output:
    """What the models say of one batch, on the CPU.

    ``classes`` int64 (B, R) and ``probabilities`` float32 (B, R) of the predicted taxa;
    ``rank_masks`` float32 (B, L, R), their mask values (None without an Explainer).
    """

    windows: list[Numbered]
    batch: TokenBatch
    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    rank_masks: NDArray[np.float32] | None


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
) -> Generator[Explanation, None, None]:
    """One explanation per window, in input order.

    The models must be on ``device`` already.  ``batch_tokens`` bounds the tokens of a batch, padding
    included.  ``rank`` chooses whose mask becomes ``Explanation.mask``; by default their maximum.
    """
    batches = prefetch(tokenize_pools(pool_windows(windows, tokenizer, batch_tokens), tokenizer, device))
    try:
        outputs = infer(batches, explanandum, explainer, device)
        numbered = unpack(outputs, taxonomy, None if rank is None else taxonomy.rank_index(rank))
        yield from restore_order(numbered)
    finally:
        batches.close()


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
    batches: Iterable[list[Numbered]], tokenizer: Tokenizer, device: torch.device
) -> Iterator[tuple[list[Numbered], TokenBatch]]:
    """Windows to token ids, in page-locked memory where they go to a GPU."""
    for windows in batches:
        batch = tokenizer.batch([w.window.sequence for w in windows])
        yield windows, batch.pin_memory() if device.type == "cuda" else batch


def infer(
    batches: Iterable[tuple[list[Numbered], TokenBatch]],
    explanandum: BaseExplanandum,
    explainer: Explainer | None,
    device: torch.device,
) -> Iterator[Output]:
    """Classify each batch, and mask it for the classes that were predicted.

    Without an Explainer this is the bare classifier.
    """
    for windows, cpu_batch in batches:
        masks = None
        with torch.inference_mode():
            batch = cpu_batch.to(device)
            logits, states = explanandum.classify(batch)
            classes, probabilities = explanandum.predict(logits)
            if explainer is not None:
                numbers = explanandum.class_numbers(classes)
                masks = explainer(batch, states, numbers).float().sigmoid().cpu().numpy()
        yield Output(windows, cpu_batch, classes.cpu().numpy(), probabilities.cpu().numpy(), masks)


def unpack(
    outputs: Iterable[Output], taxonomy: Taxonomy, rank: int | None
) -> Iterator[tuple[int, Explanation]]:
    """Batches to single explanations with their place in the input."""
    for output in outputs:
        if output.rank_masks is None:
            raise ValueError("there is no mask to unpack without an Explainer")
        counts = output.batch.valid.sum(-1).tolist()
        for i, (ordinal, window) in enumerate(output.windows):
            tokens = slice(1, 1 + counts[i])  # behind the first special token; see TokenBatch
            rank_masks = output.rank_masks[i, tokens].T  # (R, T)
            yield (
                ordinal,
                Explanation(
                    window,
                    taxonomy.decode(output.classes[i].tolist()),
                    tuple(output.probabilities[i].tolist()),
                    rank_masks.max(0) if rank is None else rank_masks[rank],
                    rank_masks,
                    output.batch.spans[i, tokens] + window.start,
                ),
            )


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
