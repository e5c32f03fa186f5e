"""What the models say of a batch, and how that is found when memory is short.

An Answer is arrays and nothing else, so that it can be sent by another process or kept in a file.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import safetensors.numpy
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor

from wyrcli.errors import WyrError
from wyrcli.model.explainer import Explainer
from wyrcli.model.explanandum import BaseExplanandum
from wyrcli.model.frames import Readings
from wyrcli.scoring import BaseResolution, Scores, number_asked, score_sites
from wyrcli.targets import Question

__all__ = ["Answer", "Answerer", "ShortOfMemory", "is_out_of_memory", "pack_answer", "unpack_answer"]


_PATIENCE = 64  # parts that fit, until one of twice the size is tried again: others may have left the device


class ShortOfMemory(WyrError):
    """A single window does not fit into memory.  ``row``: which one of its batch."""

    def __init__(self, row: int) -> None:
        super().__init__("a single window does not fit into memory")
        self.row = row


@dataclass(frozen=True, eq=False)
class Answer:
    """What the models say of B windows, on the CPU.

    ``classes`` int64 (B, R) and ``probabilities`` float32 (B, R) of the predicted taxa.  ``asked`` int64
    (B, A) and ``asked_probabilities`` float32 (B, A): of the classes that were asked for beside these, see
    :func:`wyrcli.scoring.number_asked`.  ``scores``: mask values.  All three are None without an Explainer.
    """

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    asked: NDArray[np.int64] | None = None
    asked_probabilities: NDArray[np.float32] | None = None
    scores: Scores | None = None

    def __len__(self) -> int:
        return len(self.classes)


# ---------------------------------------------------------------- as arrays by name


def pack_answer(answer: Answer) -> dict[str, NDArray[np.generic]]:
    """The arrays of an answer by name; :func:`unpack_answer` makes it of them again."""
    found = {f.name: getattr(answer, f.name) for f in fields(Answer) if f.name != "scores"}
    if answer.scores is not None:
        scores = answer.scores._asdict()
        scores["per_base"] = np.array([scores["per_base"]])
        found |= scores
    return {name: np.ascontiguousarray(array) for name, array in found.items() if array is not None}


def unpack_answer(arrays: dict[str, NDArray[np.generic]]) -> Answer:
    """An answer from its arrays.  Raises ValueError where they are none."""
    try:
        scores = None
        if "masks" in arrays:
            scores = Scores(
                arrays["rank_masks"],  # type: ignore[arg-type]
                arrays["masks"],  # type: ignore[arg-type]
                arrays.get("agreement"),  # type: ignore[arg-type]
                bool(arrays["per_base"][0]),
            )
        return Answer(
            arrays["classes"],  # type: ignore[arg-type]
            arrays["probabilities"],  # type: ignore[arg-type]
            arrays.get("asked"),  # type: ignore[arg-type]
            arrays.get("asked_probabilities"),  # type: ignore[arg-type]
            scores,
        )
    except KeyError as error:
        raise ValueError(f"an answer without {error}") from None


def to_bytes(arrays: dict[str, NDArray[np.generic]]) -> bytes:
    """Arrays as the content of a safetensors file."""
    return safetensors.numpy.save(arrays)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]


def from_bytes(content: bytes) -> dict[str, NDArray[np.generic]]:
    """The arrays of :func:`to_bytes`.  Raises ValueError where the content is cut off or something else."""
    try:
        return safetensors.numpy.load(content)  # type: ignore[no-any-return, no-untyped-call, unused-ignore]
    except SafetensorError as error:
        raise ValueError(str(error)) from None


def _join(answers: Sequence[Answer]) -> Answer:
    """Answers on parts of a batch, all of one width, as that on the whole."""
    parts = [pack_answer(answer) for answer in answers]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return unpack_answer(whole)


# ---------------------------------------------------------------- from the models


class Answerer:
    """The models at work on one device; a batch that does not fit into its memory is halved.

    Parameters
    ----------
    explainer: None is the bare classifier.
    question, per_base: see :func:`wyrcli.inference.explain`.
    """

    def __init__(
        self,
        explanandum: BaseExplanandum,
        explainer: Explainer | None,
        device: torch.device,
        question: Question,
        per_base: BaseResolution | None = None,
    ) -> None:
        self._explanandum, self._explainer = explanandum, explainer
        self._device = device
        self._question, self._per_base = question, per_base
        self._most: int | None = None  # tokens, padding included, of the parts that still fit
        self._fitted = 0  # parts since the last that did not

    def answer(self, readings: Readings) -> Answer:
        """The answer on one batch.  Raises ShortOfMemory where a single window of it does not fit."""
        return _join(parts) if len(parts := list(self._parts(readings, 0))) > 1 else parts[0]

    def _parts(self, readings: Readings, first: int) -> Iterator[Answer]:
        n, width = readings.batches[0].ids.shape
        if n < 2 or self._most is None or n * width <= self._most:
            answer = self._try(readings)
            if answer is not None:
                self._fitted += 1
                if self._most is not None and self._fitted >= _PATIENCE:
                    self._most, self._fitted = 2 * self._most, 0
                yield answer
                return
            if n == 1:
                raise ShortOfMemory(first)
            # Later batches are of about this size, too: they are halved before they fail.
            self._most, self._fitted = n * width // 2, 0
        yield from self._parts(readings.rows(0, n // 2), first)
        yield from self._parts(readings.rows(n // 2, n), first + n // 2)

    def _try(self, readings: Readings) -> Answer | None:
        """None where memory does not suffice."""
        try:
            return self._compute(readings)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        # Only out here is the traceback gone, and with it the tensors that it held.
        if self._device.type == "cuda":
            torch.cuda.empty_cache()
        return None

    @torch.inference_mode()
    def _compute(self, cpu_readings: Readings) -> Answer:
        explanandum, question = self._explanandum, self._question
        readings = cpu_readings.to(self._device)
        logits, states = explanandum.classify(readings.batches[0])
        classes, probabilities = explanandum.predict(logits)
        if self._explainer is None:
            return Answer(classes.cpu().numpy(), probabilities.cpu().numpy())
        predicted = explanandum.class_numbers(classes)
        each = torch.cat(explanandum.probabilities(logits), -1)  # (B, C)
        asked = number_asked(question, each, explanandum.sizes)
        masks = self._mask_readings(self._explainer, readings, states, torch.cat([predicted, asked], -1))
        return Answer(
            classes.cpu().numpy(),
            probabilities.cpu().numpy(),
            asked.cpu().numpy(),
            each.gather(-1, asked).cpu().numpy(),
            score_sites(masks, readings, question, len(explanandum.sizes), self._per_base),
        )

    def _mask_readings(
        self, explainer: Explainer, readings: Readings, states: Sequence[Tensor], numbers: Tensor
    ) -> Iterator[Tensor]:
        """Masks (B, L, K) of the classes ``numbers`` (B, K) in each reading; ``states``: of the first."""
        for i, batch in enumerate(readings.batches):
            own = states if i == 0 else self._explanandum.classify(batch).states
            yield explainer(batch, own, numbers).float().sigmoid()


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocator of the CPU or of a GPU said no.  torch has a class of its own for GPUs alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(
        sign in text
        for sign in (
            "DefaultCPUAllocator",
            "out of memory",
            "not enough memory",
            "CUBLAS_STATUS_ALLOC_FAILED",
        )
    )
