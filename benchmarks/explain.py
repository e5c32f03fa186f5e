"""What an explanation costs beside the classification, and what the machine could do.

Prints Markdown, from one run on one machine:

- the measured matrix-product peak (bf16 and fp32);
- side by side: the bare classifier; explain with the ``state`` and the ``lstm`` Explainer; the paper's way
  (fp32, batch 48, mask values of all 1,937 classes for every token); LIME, KernelSHAP and integrated
  gradients on the same model, by wyr's own batched code and by captum, each at the batch size that was the
  fastest when all were tried.  The classifier and the paper's way go from sequences in memory to numpy
  arrays, explain to BED text, the peers to a score per token;
- of each: reads/s, the time beside the classifier's by the clock and by CPU time, peak memory, the fraction
  of the matrix-product peak, and what no clock is needed for: passes of the model, operations and bytes
  copied per read, tensors allocated per batch (:mod:`tally`);
- what all outputs together cost beside BED alone, in files of a temporary directory;
- peak memory of ``wyr explain`` at 1x and 10x input.

Each contestant has a process of its own, so that no one's memory helps or hurts another.  They take turns
within each round and ratios are medians over rounds, because machines are noisy.  Sizes: ``demo`` is the
model that comes with wyr, on simulated reads; ``50m`` is the Nucleotide Transformer v2 50M with random
weights and the paper's 1,937 classes.

    python benchmarks/explain.py [--size demo|50m] [--device cpu|cuda] [--threads N] [--reads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from tally import Tally
from torch import Tensor

from wyrcli.checkpoint import load_checkpoint, load_explainer
from wyrcli.examination import Subject
from wyrcli.explanation import Window
from wyrcli.formats import Settings
from wyrcli.inference import (
    choose_device,
    choose_precision,
    explain,
    infer,
    pool_windows,
    prefetch,
    tokenize_pools,
)
from wyrcli.installed import find_model
from wyrcli.memory import keep_freed
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.explainer import Explainer, LstmExplainer, StateExplainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.masking import gate, scale_embedding
from wyrcli.model.tokens import KmerTokenizer, TokenBatch
from wyrcli.peers import PEERS, Options
from wyrcli.results import Requests, open_results
from wyrcli.simulation import simulate_blocks
from wyrcli.taxonomy import Taxonomy
from wyrcli.writers import BedWriter

READ_BP = 1500
PAPER_SIZES = (4, 55, 1878)  # superkingdoms, phyla, genera: 1,937 classes
PAPER_BATCH = 48
PEER_BATCHES = (16, 32, 64, 128, 256)
PEER_ROUNDS = 3  # of the rounds; they take seconds for a read


def matrix_peak(
    dtype: torch.dtype, device: torch.device, size: int, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Best of several square matrix products, in operations (multiply and add count two) per second."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(12):
        wait(device)
        start = clock()
        a @ b
        wait(device)
        best = max(best, 2 * size**3 / (clock() - start))
    return best


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def random_windows(n: int, seed: int = 0) -> list[Window]:
    """Uniform random reads of the paper's length."""
    return _windows(np.random.default_rng(seed).integers(0, 4, (n, READ_BP)))


def simulated_windows(n: int) -> list[Window]:
    """Reads with motifs of the demo's taxa, of the same length."""
    blocks = simulate_blocks(seed=7777, n_reads=n, length=READ_BP)
    return _windows(np.concatenate([block.codes for block in blocks]))


def _windows(codes: np.ndarray[Any, Any]) -> list[Window]:
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    return [Window(i, f"read{i}", 0, READ_BP, letters[row].tobytes().decode()) for i, row in enumerate(codes)]


class Contest:
    """The models, and one function per contestant that works through all windows."""

    def __init__(self, size: str, device: torch.device, batch: int) -> None:
        self.device, self.batch = device, batch
        self.dtype = choose_precision("auto", device)
        self.size = size
        torch.manual_seed(0)
        if size == "demo":
            loaded = load_checkpoint(find_model(Path("demo")))
            explanandum, self.tokenizer = loaded.explanandum, loaded.tokenizer
            self.taxonomy, self.path = loaded.taxonomy, loaded.path
        else:
            explanandum = Explanandum(NucleotideTransformer(BackboneConfig()), PAPER_SIZES).freeze()
            self.tokenizer = KmerTokenizer.nucleotide_transformer_v2()
            names = tuple(tuple(f"taxon{i}" for i in range(size)) for size in PAPER_SIZES)
            self.taxonomy = Taxonomy(("superkingdom", "phylum", "genus"), names)
        self.config = explanandum.backbone.config
        self.plain = explanandum  # in fp32, on the CPU

    @cached_property
    def explanandum(self) -> Explanandum:
        """As ``wyr explain`` has it."""
        return self.copy(self.plain).to(self.device, self.dtype)

    @cached_property
    def state(self) -> Explainer:
        """The demo's, or as wyr train-explainer makes it: the states of all layers, embeddings included."""
        if self.size == "demo":
            return load_explainer(self.path, "state", "gate").explainer.to(self.device, self.dtype)
        n_states = self.config.num_hidden_layers + 1
        network = StateExplainer(self.config.hidden_size, n_states, sum(PAPER_SIZES))
        return network.eval().to(self.device, self.dtype)

    @cached_property
    def lstm(self) -> Explainer:
        """The paper's network, for this model's classes."""
        network = LstmExplainer(self.config.vocab_size, sum(self.plain.sizes))
        return network.eval().to(self.device, self.dtype)

    @cached_property
    def paper_lstm(self) -> Explainer:
        """The paper's network for the paper's classes, in fp32."""
        return LstmExplainer(self.config.vocab_size, sum(PAPER_SIZES)).eval().to(self.device)

    @cached_property
    def paper_explanandum(self) -> Explanandum:
        """The classifier in fp32."""
        return self.copy(self.plain).to(self.device)

    def windows(self, n: int) -> list[Window]:
        """What is read."""
        return simulated_windows(n) if self.size == "demo" else random_windows(n)

    @staticmethod
    def copy(explanandum: Explanandum) -> Explanandum:
        """The same classifier in fp32."""
        twin = Explanandum(NucleotideTransformer(explanandum.backbone.config), explanandum.sizes)
        twin.load_state_dict(explanandum.state_dict())
        return twin.freeze()

    def batch_tokens(self) -> int:
        """The bound that ``wyr explain --batch-size`` sets."""
        return self.batch * (READ_BP // self.tokenizer.k + 1)

    def classify(self, windows: list[Window]) -> None:
        """The bare classifier: the stages of ``wyr explain`` without an Explainer, to numpy arrays."""
        pools = pool_windows(iter(windows), self.tokenizer, self.batch_tokens())
        batches = prefetch(tokenize_pools(pools, self.tokenizer, self.device))
        for _ in infer(batches, self.explanandum, None, self.device):
            pass

    def explain(self, windows: list[Window], explainer: Explainer) -> None:
        """All that ``wyr explain`` does between reading and the disk: chunks as BED text included."""
        with open(os.devnull, "w") as nowhere:
            bed = BedWriter(nowhere, self.taxonomy.ranks)
            for explanation in explain(
                windows,
                self.explanandum,
                explainer,
                self.tokenizer,
                self.taxonomy,
                batch_tokens=self.batch_tokens(),
                device=self.device,
            ):
                bed.write(explanation)

    def explain_to(self, windows: list[Window], requests: Requests) -> None:
        """The same, to files as ``wyr explain`` opens them."""
        with open_results(requests, Settings(self.taxonomy, window_bp=READ_BP)) as results:
            for explanation in explain(
                windows,
                self.explanandum,
                self.state,
                self.tokenizer,
                self.taxonomy,
                batch_tokens=self.batch_tokens(),
                device=self.device,
            ):
                results.write(explanation)

    @torch.inference_mode()
    def run_paper(self, windows: list[Window]) -> None:
        """The paper's way: fp32, batches of 48, a mask value for every class of every token."""
        for first in range(0, len(windows), PAPER_BATCH):
            chosen = [w.sequence for w in windows[first : first + PAPER_BATCH]]
            batch = self.tokenizer.batch(chosen).to(self.device)
            logits, states = self.paper_explanandum.classify(batch)
            self.paper_explanandum.predict(logits)[0].cpu()
            self.paper_lstm(batch, states).sigmoid().cpu().numpy()

    # ------------------------------------------------ peers: what else explains the same model

    def run_peer(self, name: str, options: Options, windows: list[Window], batch: int) -> None:
        """One of wyr's, which pack variants of windows into whole batches and fit in closed form."""
        subject = Subject(self.explanandum, self.tokenizer, self.device, batch)
        sequences = [window.sequence for window in windows]
        classes = subject.predict(sequences)
        PEERS[name].explain(subject, sequences, classes, options)

    def run_captum(self, name: str, options: Options, windows: list[Window], batch: int) -> None:
        """The same by captum, a read at a time, as it asks for."""
        for window in windows:
            self._ask_captum(name, options, window, batch)

    def _ask_captum(self, name: str, options: Options, window: Window, batch: int) -> None:
        from captum import attr

        subject = Subject(self.explanandum, self.tokenizer, self.device, batch)
        tokens = self.tokenizer.batch([window.sequence]).to(self.device)
        with torch.no_grad():
            predicted = self.explanandum.predict(self.explanandum(tokens))[0]
        columns = self.explanandum.class_numbers(predicted)
        n = int(tokens.valid.sum())
        operator = scale_embedding if name == "integrated-gradients" else gate

        def value(masks: Tensor) -> Tensor:
            """Of masks (S, T): the sum over ranks of the log-probability of the predicted class."""
            rows = len(masks)
            many = TokenBatch(
                tokens.ids.expand(rows, -1),
                tokens.attention.expand(rows, -1),
                tokens.valid.expand(rows, -1),
                tokens.spans,
                tokens.padded,
            )
            logits = self.explanandum(many, torch.nn.functional.pad(masks.float(), (1, 0)), operator)
            return subject.normalise(logits).gather(1, columns.expand(rows, -1)).sum(1)

        ones = torch.ones(1, n, device=self.device)
        if name == "integrated-gradients":
            attr.IntegratedGradients(value).attribute(
                ones, n_steps=options.steps, method="gausslegendre", internal_batch_size=batch
            )
            return
        method, samples = {
            "lime": (attr.Lime, options.lime_samples),
            "kernel-shap": (attr.KernelShap, 2 * n + options.shap_samples),
        }[name]
        features = torch.arange(n, device=self.device)[None]
        with torch.no_grad():
            method(value).attribute(
                ones, feature_mask=features, n_samples=samples, perturbations_per_eval=batch
            )

    def contestants(self) -> dict[str, Contestant]:
        """By name."""
        own = {
            "classifier alone": Contestant(self.classify),
            "explain, state": Contestant(lambda w: self.explain(w, self.state)),
            "explain, lstm": Contestant(lambda w: self.explain(w, self.lstm)),
            "the paper's way": Contestant(self.run_paper, torch.float32),
        }
        few = Options(lime_samples=256, steps=50)
        for name in ("lime", "kernel-shap", "integrated-gradients"):
            for who, method in (("wyr", self.run_peer), ("captum", self.run_captum)):
                # A batch of KernelSHAP is one of LIME, which tries fewer of them.
                short = partial(method, "lime" if name == "kernel-shap" else name, few)
                own[f"{name}, {who}"] = Contestant(partial(method, name, Options()), None, short)
        return own


class Contestant(NamedTuple):
    """``run`` works through windows; in ``dtype``, by default the contest's.

    A peer has a ``short`` form of itself too, with fewer samples, and is told a batch size.
    """

    run: Callable[..., None]
    dtype: torch.dtype | None = None
    short: Callable[..., None] | None = None


class Turn(NamedTuple):
    """What one turn took: ``wall`` and ``cpu`` in seconds; ``memory``: peak of the process so far, in MB."""

    wall: float
    cpu: float
    memory: float


class Counted(NamedTuple):
    """What one read takes, and what one batch: see :class:`tally.Tally`."""

    evaluations: float
    operations: float
    copied: float
    allocations: int


def peak_resident(device: torch.device) -> float:
    """Largest memory of this process so far, in MB; on a GPU, of its tensors there."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    # Not ru_maxrss, which begins with that of the process that started this one.
    lines = Path("/proc/self/status").read_text().splitlines()
    (peak,) = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    return peak * 1024 / 1e6


def play(name: str, options: argparse.Namespace, pipe: Connection) -> None:
    """One contestant's process.

    Says first what it :class:`Counted`; then answers ("try", batch), ("use", batch) and ("go", reads), until
    None comes.
    """
    keep_freed()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    contest = Contest(options.size, device, options.batch)
    contestant = contest.contestants()[name]
    windows = contest.windows(options.reads)
    settings: dict[str, int] = {}

    def take_turn(run: Callable[..., None], some: list[Window], **chosen: int) -> Turn:
        wait(device)
        wall, cpu = time.perf_counter(), time.process_time()
        run(some, **chosen)
        wait(device)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        return Turn(wall, cpu, peak_resident(device))

    def count(some: list[Window]) -> Counted:
        answer = Explanandum.classify
        rows = 0

        def counted(self: Explanandum, batch: TokenBatch, *args: Any, **kwargs: Any) -> Any:
            nonlocal rows
            rows += len(batch)
            return answer(self, batch, *args, **kwargs)

        Explanandum.classify = counted  # type: ignore[method-assign]
        try:
            with Tally() as tally:
                contestant.run(some, **settings)
        finally:
            Explanandum.classify = answer  # type: ignore[method-assign]
        n = len(some)
        return Counted(rows / n, tally.operations / n, tally.copied / n, tally.allocations)

    # Before anything is compiled: a program hides what it does.
    if contestant.short is None:
        found = count(windows[: options.batch])
    else:
        settings["batch"] = options.batch
        found = count(windows[:1])
    if options.compile:
        contest.explanandum.backbone.compile_layers()
    if contestant.short is None:
        contestant.run(windows[: 2 * options.batch])
    pipe.send(found)
    while (order := pipe.recv()) is not None:
        what, number = order
        if what == "try":
            assert contestant.short is not None
            pipe.send(take_turn(contestant.short, windows[:1], batch=number))
        elif what == "use":
            settings["batch"] = number
            pipe.send(None)
        else:
            pipe.send(take_turn(contestant.run, windows[:number], **settings))


class Players:
    """The contestants' processes."""

    def __init__(self, options: argparse.Namespace, names: list[str], stack: ExitStack) -> None:
        self._pipes: dict[str, Any] = {}
        self.counts: dict[str, Counted] = {}
        context = multiprocessing.get_context("spawn")
        for name in names:
            own, others = context.Pipe()
            process = context.Process(target=play, args=(name, options, others), daemon=True)
            process.start()
            others.close()
            self._pipes[name] = own
            stack.callback(process.join, 10)
            stack.callback(self._end, own)
            self.counts[name] = own.recv()  # one after the other: none warms up beside another

    @staticmethod
    def _end(pipe: Any) -> None:
        with suppress(OSError):  # it died
            pipe.send(None)

    def ask(self, name: str, what: str, number: int) -> Any:
        """Have it done, and wait."""
        self._pipes[name].send((what, number))
        return self._pipes[name].recv()


def compete(options: argparse.Namespace, contest: Contest, peaks: dict[torch.dtype, float]) -> None:
    """All contestants side by side, as a table."""
    contestants = contest.contestants()
    if not options.peers:
        contestants = {name: own for name, own in contestants.items() if own.short is None}
    turns: dict[str, list[Turn]] = {name: [] for name in contestants}
    reads = {name: options.reads if own.short is None else 1 for name, own in contestants.items()}
    sizes: dict[str, dict[int, float]] = {}
    with ExitStack() as stack:
        players = Players(options, list(contestants), stack)
        for name, own in contestants.items():
            if own.short is not None:
                players.ask(name, "try", PEER_BATCHES[0])  # imports and first calls
                tried = {size: players.ask(name, "try", size).wall for size in PEER_BATCHES}
                sizes[name] = tried
                players.ask(name, "use", min(tried, key=lambda size: tried[size]))
        for round_ in range(options.rounds):
            for name, own in contestants.items():
                if own.short is None or round_ < PEER_ROUNDS:
                    turns[name].append(players.ask(name, "go", reads[name]))
    print(
        "| | reads/s | time, of the classifier's | CPU time, of the classifier's | of the peak | peak MB "
        "| passes per read | GFLOP per read | kB copied per read | tensors per batch |"
    )
    print("|---|" + "---|" * 9)

    def ratio(name: str, which: str, other: str) -> float:
        """Median over rounds of the time of a read, beside that of another contestant."""
        pairs = zip(turns[name], turns[other], strict=False)  # in the rounds that both took part in
        factor = reads[other] / reads[name]
        return statistics.median(getattr(a, which) / getattr(b, which) * factor for a, b in pairs)

    for name, own in contestants.items():
        rate = reads[name] / statistics.median(turn.wall for turn in turns[name])
        counted = players.counts[name]
        dtype = own.dtype or contest.dtype
        share = f"{rate * counted.operations / peaks[dtype]:.1%} of {str(dtype).removeprefix('torch.')}"
        # Tensors of a peer are counted for a whole read: its batches are its own affair.
        cells = (
            name,
            f"{rate:,.{1 if rate > 10 else 3}f}",
            f"{ratio(name, 'wall', 'classifier alone'):,.2f}",
            f"{ratio(name, 'cpu', 'classifier alone'):,.2f}",
            share,
            f"{turns[name][-1].memory:,.0f}",
            f"{counted.evaluations:,.0f}",
            f"{counted.operations / 1e9:,.3f}",
            f"{counted.copied / 1e3:,.0f}",
            f"{counted.allocations:,}",
        )
        print(f"| {' | '.join(cells)} |")
    print()
    for other in list(contestants)[3:]:
        by = ratio(other, "wall", "explain, state"), ratio(other, "cpu", "explain, state")
        print(f"- `explain` with `state` is {by[0]:,.1f} times as fast as {other} ({by[1]:,.1f} by CPU time)")
    for name, tried in sizes.items():
        shown = ", ".join(f"{size}: {1e3 * seconds:,.0f}" for size, seconds in tried.items())
        print(f"- {name}: ms for a read with few samples, by batch size: {shown}")


PLAIN = (".bed", ".bedgraph", ".bw", ".gff3", ".tsv", ".parquet", ".jsonl", ".npz", ".bam")
PACKED = (".bed.gz", ".bedgraph.gz", ".bw", ".gff3.gz", ".tsv.gz", ".parquet", ".jsonl.gz", ".npz", ".bam")


def cost_of_outputs(
    contest: Contest, windows: list[Window], rounds: int
) -> Iterator[tuple[str, float, float]]:
    """Name, reads/s and median ratio to BED alone, of all outputs as plain and as compressed files."""
    windows = [window._replace(qualities="I" * READ_BP, length=READ_BP) for window in windows]
    with tempfile.TemporaryDirectory() as folder:
        taxids = any(any(ids) for ids in contest.taxonomy.taxids)

        def everything(suffixes: tuple[str, ...]) -> Requests:
            return Requests(
                [f"{folder}/x{suffix}" for suffix in suffixes],
                predictions=f"{folder}/p.tsv",
                kraken_output=f"{folder}/k.txt" if taxids else None,
                kraken_report=f"{folder}/r.txt" if taxids else None,
                safe_names=f"{folder}/s.tsv",
            )

        contestants = {
            "BED alone": Requests([f"{folder}/only.bed"]),
            "all outputs": everything(PLAIN),
            "all outputs, .gz and indexes": everything(PACKED),
        }
        for requests in contestants.values():
            contest.explain_to(windows[: contest.batch], requests)
        seconds: dict[str, list[float]] = {name: [] for name in contestants}
        for _ in range(rounds):
            for name, requests in contestants.items():
                start = time.perf_counter()
                contest.explain_to(windows, requests)
                seconds[name].append(time.perf_counter() - start)
    for name, times in seconds.items():
        ratio = statistics.median(t / b for t, b in zip(times, seconds["BED alone"], strict=True))
        yield name, len(windows) / statistics.median(times), ratio


def peak_memory(n_reads: int, device: str) -> Iterator[tuple[int, float]]:
    """Peak resident memory in MB of ``wyr explain`` at 1x and 10x input, from its own report."""
    with tempfile.TemporaryDirectory() as folder:
        for factor in (1, 10):
            reads = Path(folder) / "reads.fasta"
            with reads.open("w") as file:
                for window in random_windows(n_reads * factor):
                    file.write(f">{window.name}\n{window.sequence}\n")
            report = Path(folder) / "report.json"
            command = [
                sys.executable,
                "-m",
                "wyrcli",
                "explain",
                str(reads),
                "-o",
                str(Path(folder) / "x.bed"),
                "--model",
                "demo",
            ]
            command += [
                "--tokens",
                str(Path(folder) / "x.tsv"),
                "--json",
                str(report),
                "--device",
                device,
                "-q",
            ]
            subprocess.run(command, check=True)
            yield n_reads * factor, json.loads(report.read_text())["execution"]["peak_memory_mb"]


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=["demo", "50m"], default="demo")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of the CPU")
    parser.add_argument("--reads", type=int, default=256, help="of a turn; peers take one")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--compile", action="store_true", help="layers of the classifier, by torch.compile")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--outputs", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--memory-reads", type=int, default=2000, help="0 leaves the memory test out")
    options = parser.parse_args()
    keep_freed()
    torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    contest = Contest(options.size, device, options.batch)
    card = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{options.threads} CPU threads"
    print(
        f"{options.size} model on {device} ({card}), {contest.dtype}, torch {torch.__version__}, "
        f"Python {platform.python_version()}; reads of {READ_BP} bp, {options.rounds} rounds in turn"
        f"{', layers compiled' if options.compile else ''}\n"
    )
    side = 8192 if device.type == "cuda" else 3072
    peaks = {dtype: matrix_peak(dtype, device, side) for dtype in {torch.float32, contest.dtype}}
    for dtype, peak in peaks.items():
        print(f"- matrix product {side} x {side} {dtype}: {peak / 1e12:.2f} TFLOP/s")
    print()
    compete(options, contest, peaks)
    if options.outputs:
        print("\n| | reads/s | time, of BED alone |\n|---|---|---|")
        for name, rate, ratio in cost_of_outputs(contest, contest.windows(options.reads), options.rounds):
            print(f"| {name} | {rate:,.1f} | {ratio:.3f} |")
    if options.memory_reads:
        used = dict(peak_memory(options.memory_reads, options.device))
        (small, first), (large, second) = used.items()
        print(
            f"\nPeak memory of `wyr explain`: {first:.0f} MB for {small:,} reads, {second:.0f} MB for "
            f"{large:,}: {second / first:.3f} times."
        )


if __name__ == "__main__":
    main()
