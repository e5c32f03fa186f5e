"""How fast training is, beside a plain loop with the same networks, and beside what the machine could do.

Prints, from one run on one machine:

- the measured matrix-product peak in each number format;
- windows/s of the steps of ``wyr finetune`` and ``wyr train-explainer`` (:func:`wyrcli.engine.fit` with their
  tasks, without a folder, in bf16 where the device has it) and of the plain loop, after warm-up steps;
- how many times as fast the first is; useful TFLOP/s, and their fraction of the peak in the same format.

The plain loop is what one would write first: fp32, batches drawn at random and padded to their longest
window, tokenised between the steps, the loss read (``.item()``) each step.  Its Explainer computes the mask
of every class for every token, and the classifier answers to m and to 1 - m in passes of their own.

Windows have 1,500 bp, but for a share (``--short``) of 200 to 1,500.  Operations are counted for the tokens
that are there, never for padding: 6 N per token in fine-tuning, with N the weights of the layers' matrices,
and 12 H L for the attention in each layer.  With a frozen classifier, one pass forward and two passes
forward and back to its activations: 10 N and 28 H L; and 6 per token and weight of the Explainer.

The contestants take turns within each round and ratios are medians over rounds, because machines are
noisy.  Sizes: ``demo`` is the shape of the model that comes with wyr; ``50m`` is the Nucleotide
Transformer v2 50M with the paper's 1,937 classes.  Weights are random.

    python benchmarks/train.py [--size demo|50m] [--device cpu|cuda] [--steps N] [--rounds N] [--batch N]
"""

from __future__ import annotations

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from explain import PAPER_SIZES, READ_BP, matrix_peak, wait
from torch import Tensor, nn
from torch.nn import functional as F

from wyrcli.dataset import LabelledWindows, StringColumn
from wyrcli.distribution import World
from wyrcli.engine import Progress, Task, TrainingOptions, fit
from wyrcli.inference import choose_device, choose_precision
from wyrcli.memory import keep_freed
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.explainer import StateExplainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.loss import PRESETS, LossOptions, explainer_loss
from wyrcli.model.masking import gate
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.training import _Explaining, _Finetuning

DEMO = Path(__file__).parent.parent / "data" / "demo_config.json"
DEMO_SIZES = (4, 8, 16)
RANKS = ("superkingdom", "phylum", "genus")
SHORTEST_BP = 200
RATE = 1e-5  # what is learnt does not matter, but nothing should diverge

Contestant = Callable[[], float]
"""Trains, and gives the seconds that the steps after the warm-up took."""


def make_windows(n: int, sizes: tuple[int, ...], short: float, seed: int = 0) -> LabelledWindows:
    """Random windows of the paper's length, but for a share that is shorter, in memory."""
    rng = np.random.default_rng(seed)
    lengths = np.where(rng.random(n) < short, rng.integers(SHORTEST_BP, READ_BP, n), READ_BP)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, offsets[-1])]
    labels = np.stack([rng.integers(0, size, n, dtype=np.int32) for size in sizes], axis=1)

    def load_places() -> None:
        raise AssertionError("training asks for no places")

    return LabelledWindows(StringColumn(letters, offsets), labels, load_places)


class Contest:
    """The networks, and one function per contestant."""

    def __init__(self, options: argparse.Namespace, device: torch.device) -> None:
        self.world = World(device=device)
        self.batch, self.warmup, self.steps = options.batch, options.warmup, options.steps
        self.dtype = choose_precision("auto", device)
        torch.manual_seed(0)
        demo = options.size == "demo"
        self.config = BackboneConfig.load(DEMO) if demo else BackboneConfig()
        self.sizes = DEMO_SIZES if demo else PAPER_SIZES
        self.tokenizer = KmerTokenizer.nucleotide_transformer_v2()
        self.windows = make_windows(options.windows, self.sizes, options.short)
        self.explanandum = Explanandum(NucleotideTransformer(self.config), self.sizes).to(device)
        n_states = self.config.num_hidden_layers + 1
        self.explainer = StateExplainer(self.config.hidden_size, n_states, sum(self.sizes)).to(device)
        self.frozen = copy.deepcopy(self.explanandum).freeze()

    # ------------------------------------------------ ours

    def fit(self, task: Task) -> float:
        """Seconds of the steps after the warm-up; the report that ends it has waited for the device."""
        told: list[float] = []

        def report(progress: Progress) -> None:
            told.append(time.perf_counter())

        fit(task, self.windows, self.tokenizer, self.options(), self.world, report, report_every=self.warmup)
        return told[-1] - told[0]

    def options(self) -> TrainingOptions:
        """As the commands make them."""
        return TrainingOptions(
            learning_rate=RATE,
            batch_size=self.batch,
            steps=self.warmup + self.steps,
            precision="bf16" if self.dtype == torch.bfloat16 else "fp32",
        )

    def finetune(self) -> float:
        """The step of ``wyr finetune``."""
        network = copy.deepcopy(self.explanandum)
        return self.fit(_Finetuning(network, self.tokenizer, self.options(), RANKS, "loss", None, None))

    def explain(self) -> float:
        """The step of ``wyr train-explainer``."""
        network, loss = copy.deepcopy(self.explainer), PRESETS["balanced"]
        return self.fit(_Explaining(network, self.frozen, self.tokenizer, "gate", loss, self.options(), None))

    # ------------------------------------------------ the plain loop

    def train_plainly(self, network: nn.Module, loss_of: Callable[[TokenBatch, Tensor], Tensor]) -> float:
        """A loop as one would write it."""
        network.train()
        optimiser = torch.optim.AdamW(network.parameters(), lr=RATE, weight_decay=0.0)
        rng = np.random.default_rng(0)
        start = 0.0
        for step in range(self.warmup + self.steps):
            if step == self.warmup:
                wait(self.world.device)
                start = time.perf_counter()
            rows = rng.choice(len(self.windows), self.batch, replace=False)
            batch = self.tokenizer.batch([self.windows.sequences[int(i)] for i in rows])
            labels = torch.from_numpy(self.windows.labels[rows].astype(np.int64)).to(self.world.device)
            optimiser.zero_grad()
            loss = loss_of(batch.to(self.world.device), labels)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimiser.step()
            loss.item()
        wait(self.world.device)
        return time.perf_counter() - start

    def finetune_plainly(self) -> float:
        """Cross-entropy of each rank."""
        network = copy.deepcopy(self.explanandum)

        def loss_of(batch: TokenBatch, labels: Tensor) -> Tensor:
            per_rank = network.split(network(batch))
            return sum(F.cross_entropy(own, labels[:, r]) for r, own in enumerate(per_rank))  # type: ignore

        return self.train_plainly(network, loss_of)

    def explain_plainly(self) -> float:
        """All masks of all classes, and one pass of the classifier after the other."""
        network, loss_options = copy.deepcopy(self.explainer), LossOptions()

        def loss_of(batch: TokenBatch, labels: Tensor) -> Tensor:
            with torch.no_grad():
                states = self.frozen.classify(batch).states
            masks = network(batch, states).sigmoid()  # (B, L, C)
            chosen = F.one_hot(self.frozen.class_numbers(labels), masks.shape[-1]).sum(1).bool()[:, None]
            target = masks.masked_fill(~chosen, 0).amax(-1)
            non_target = masks.masked_fill(chosen, 0).amax(-1)
            numbers = self.frozen.class_numbers(labels)[:, None].expand(-1, masks.shape[1], -1)
            kept = self.frozen.split(self.frozen(batch, target, gate))
            removed = self.frozen.split(self.frozen(batch, 1 - target, gate))
            by_class = masks.gather(2, numbers)
            terms = explainer_loss(
                kept, removed, labels, target, non_target, by_class, batch.valid, loss_options
            )
            return terms.total(loss_options)

        return self.train_plainly(network, loss_of)

    # ------------------------------------------------ work

    def operations(self) -> dict[str, float]:
        """Useful operations per window of each kind of step, means over the windows."""
        lengths = np.asarray(self.windows.sequences.lengths)  # type: ignore[attr-defined]
        tokens = lengths // self.tokenizer.k + lengths % self.tokenizer.k + 1
        hidden, inner, layers = (
            self.config.hidden_size,
            self.config.intermediate_size,
            self.config.num_hidden_layers,
        )
        matrices = layers * (4 * hidden**2 + 3 * hidden * inner) * tokens.mean()
        attention = layers * hidden * (tokens.astype(float) ** 2).mean()
        masks = sum(p.numel() for p in self.explainer.parameters()) * tokens.mean()
        return {
            "finetune": 6 * matrices + 12 * attention,
            "train-explainer": 10 * matrices + 28 * attention + 6 * masks,
        }


def show(contest: Contest, rounds: int, peaks: dict[torch.dtype, float]) -> None:
    """Let all take turns, and print."""
    pairs: dict[str, tuple[Contestant, Contestant]] = {
        "finetune": (contest.finetune, contest.finetune_plainly),
        "train-explainer": (contest.explain, contest.explain_plainly),
    }
    seconds: dict[tuple[str, int], list[float]] = {(name, i): [] for name in pairs for i in (0, 1)}
    for _ in range(rounds):
        for name, pair in pairs.items():
            for i, contestant in enumerate(pair):
                seconds[name, i].append(contestant())
    work = contest.operations()
    for name in pairs:
        for i, dtype in enumerate((contest.dtype, torch.float32)):
            rate = contest.steps * contest.batch / statistics.median(seconds[name, i])
            done = rate * work[name]
            label = f"wyr {name}" if i == 0 else f"plain {name}"
            print(
                f"{label:<22} {rate:>9.1f} windows/s {done / 1e12:>8.3f} TFLOP/s {done / peaks[dtype]:>6.1%} "
                f"of the {str(dtype).removeprefix('torch.')} peak"
            )
        ratio = statistics.median(
            plain / own for own, plain in zip(seconds[name, 0], seconds[name, 1], strict=True)
        )
        print(f"{'':<22} wyr is {ratio:.2f} x as fast as the plain loop")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["demo", "50m"], default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--steps", type=int, default=20, help="measured, a multiple of --warmup")
    parser.add_argument("--warmup", type=int, default=5, help="steps that are not measured")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--windows", type=int, default=8192)
    parser.add_argument("--short", type=float, default=0.3, help="share of windows of less than 1,500 bp")
    options = parser.parse_args()
    if options.steps % options.warmup:
        parser.error("--steps must be a multiple of --warmup")
    keep_freed()  # as the commands do
    device = choose_device(options.device)
    card = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    contest = Contest(options, device)
    print(
        f"{options.size} model on {device} ({card}), {contest.dtype}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    side = 8192 if device.type == "cuda" else 3072
    peaks = {dtype: matrix_peak(dtype, device, side) for dtype in {torch.float32, contest.dtype}}
    for dtype, peak in peaks.items():
        print(f"matrix product {side} x {side} {dtype}: {peak / 1e12:.2f} TFLOP/s")
    for name, work in contest.operations().items():
        print(f"{name}: {work / 1e9:.2f} GFLOP per window")
    print(f"{options.steps} steps of {options.batch} windows after {options.warmup}, {options.rounds} rounds")
    show(contest, options.rounds, peaks)


if __name__ == "__main__":
    main()
