"""What an explanation costs beside the classification, and what the machine could do.

Prints, from one run on one machine:

- the measured matrix-product peak (bf16 and fp32);
- reads/s of the bare classifier, of explain with the ``state`` and the ``lstm`` Explainer, and of the
  paper's way (fp32, batch 48, mask values of all 1,937 classes for every token).  The classifier and the
  paper's way go from sequences in memory to numpy arrays, explain to BED text; with the fraction of the
  peak that each reaches;
- what all outputs together cost beside BED alone, in files of a temporary directory;
- peak memory of ``wyr explain`` at 1x and 10x input.

The contestants take turns within each round and ratios are medians over rounds, because machines are
noisy.  Sizes: ``demo`` is the model that comes with wyr; ``50m`` is the Nucleotide Transformer v2 50M
with random weights and the paper's 1,937 classes.

    python benchmarks/explain.py [--size demo|50m] [--device cpu|cuda] [--reads N] [--rounds N]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from wyrcli.checkpoint import default_model, load_checkpoint, load_explainer
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
from wyrcli.model.backbone import BackboneConfig, NucleotideTransformer
from wyrcli.model.explainer import Explainer, LstmExplainer, StateExplainer
from wyrcli.model.explanandum import Explanandum
from wyrcli.model.tokens import KmerTokenizer
from wyrcli.results import Requests, open_results
from wyrcli.taxonomy import Taxonomy
from wyrcli.writers import BedWriter

READ_BP = 1500
PAPER_SIZES = (4, 55, 1878)  # superkingdoms, phyla, genera: 1,937 classes
PAPER_BATCH = 48


def matrix_peak(dtype: torch.dtype, device: torch.device, size: int) -> float:
    """Best of several square matrix products, in operations (multiply and add count two) per second."""
    a = torch.randn(size, size, device=device).to(dtype)
    b = torch.randn(size, size, device=device).to(dtype)
    best = 0.0
    for _ in range(12):
        wait(device)
        start = time.perf_counter()
        a @ b
        wait(device)
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best


def wait(device: torch.device) -> None:
    """Let a GPU finish."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def operations_per_read(config: BackboneConfig, n_tokens: int) -> float:
    """Operations of the matrix products of one forward pass of the backbone."""
    hidden, inner = config.hidden_size, config.intermediate_size
    linear = 2 * n_tokens * (4 * hidden**2 + 3 * hidden * inner)
    attention = 2 * 2 * n_tokens**2 * hidden
    return float(config.num_hidden_layers * (linear + attention))


def random_windows(n: int, seed: int = 0) -> list[Window]:
    """Uniform random reads of the paper's length."""
    letters = np.frombuffer(b"ACGT", dtype=np.uint8)
    codes = np.random.default_rng(seed).integers(0, 4, (n, READ_BP))
    return [Window(i, f"read{i}", 0, READ_BP, letters[row].tobytes().decode()) for i, row in enumerate(codes)]


class Contest:
    """The models, and one function per contestant that works through all windows."""

    def __init__(self, size: str, device: torch.device, batch: int) -> None:
        self.device, self.batch = device, batch
        self.dtype = choose_precision("auto", device)
        torch.manual_seed(0)
        if size == "demo":
            loaded = load_checkpoint(default_model())
            explanandum, self.tokenizer = loaded.explanandum, loaded.tokenizer
            self.taxonomy = loaded.taxonomy
            state = load_explainer(loaded.path, "state", "gate").explainer
        else:
            explanandum = Explanandum(NucleotideTransformer(BackboneConfig()), PAPER_SIZES).freeze()
            self.tokenizer = KmerTokenizer.nucleotide_transformer_v2()
            names = tuple(tuple(f"taxon{i}" for i in range(size)) for size in PAPER_SIZES)
            self.taxonomy = Taxonomy(("superkingdom", "phylum", "genus"), names)
            shape = explanandum.backbone.config
            # As wyr train-explainer makes it: the states of all layers, embeddings included.
            n_states = shape.num_hidden_layers + 1
            state = StateExplainer(shape.hidden_size, n_states, sum(PAPER_SIZES)).eval()
        self.config = explanandum.backbone.config
        vocabulary = self.config.vocab_size
        lstm = LstmExplainer(vocabulary, sum(explanandum.sizes)).eval()
        self.paper_lstm = LstmExplainer(vocabulary, sum(PAPER_SIZES)).eval().to(device)
        self.paper_explanandum = self.copy(explanandum).to(device)
        self.explanandum = explanandum.to(device, self.dtype)
        self.state = state.to(device, self.dtype)
        self.lstm = lstm.to(device, self.dtype)

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

    def contestants(self) -> dict[str, Callable[[list[Window]], None]]:
        """Name to function."""
        return {
            "classifier alone": self.classify,
            "explain, state": lambda w: self.explain(w, self.state),
            "explain, lstm": lambda w: self.explain(w, self.lstm),
            "the paper's way": self.run_paper,
        }


def speeds(contest: Contest, windows: list[Window], rounds: int) -> dict[str, list[float]]:
    """Seconds of each contestant in each round; all take turns."""
    contestants = contest.contestants()
    few = windows[: min(len(windows), 2 * contest.batch)]
    for run in contestants.values():
        run(few)
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, run in contestants.items():
            wait(contest.device)
            start = time.perf_counter()
            run(windows)
            wait(contest.device)
            seconds[name].append(time.perf_counter() - start)
    return seconds


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
    parser.add_argument("--reads", type=int, default=768)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--memory-reads", type=int, default=2000, help="0 leaves the memory test out")
    options = parser.parse_args()
    device = choose_device(options.device)
    contest = Contest(options.size, device, options.batch)
    card = (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"{torch.get_num_threads()} CPU threads"
    )
    print(
        f"{options.size} model on {device} ({card}), {contest.dtype}, torch {torch.__version__}, "
        f"Python {platform.python_version()}"
    )
    side = 8192 if device.type == "cuda" else 3072
    peaks = {dtype: matrix_peak(dtype, device, side) for dtype in {torch.float32, contest.dtype}}
    for dtype, peak in peaks.items():
        print(f"matrix product {side} x {side} {dtype}: {peak / 1e12:.2f} TFLOP/s")
    windows = random_windows(options.reads)
    work = operations_per_read(contest.config, READ_BP // contest.tokenizer.k + 1)
    print(
        f"{work / 1e9:.3f} GFLOP per read of {READ_BP} bp (backbone); {options.reads} reads, "
        f"{options.rounds} rounds in turn"
    )
    seconds = speeds(contest, windows, options.rounds)
    bare = seconds["classifier alone"]
    for name, times in seconds.items():
        rate = options.reads / statistics.median(times)
        ratio = statistics.median(t / b for t, b in zip(times, bare, strict=True))
        dtype = torch.float32 if name == "the paper's way" else contest.dtype
        print(
            f"{name:<18} {rate:>9.1f} reads/s   {ratio:>6.2f} x the classifier's time   "
            f"{rate * work / peaks[dtype]:>6.1%} of the {str(dtype).removeprefix('torch.')} peak"
        )
    for name, rate, ratio in cost_of_outputs(contest, windows, options.rounds):
        print(f"{name:<28} {rate:>9.1f} reads/s   {ratio:>6.3f} x the time of BED alone")
    if options.memory_reads:
        used = dict(peak_memory(options.memory_reads, options.device))
        (small, first), (large, second) = used.items()
        print(
            f"peak memory of wyr explain: {first:.0f} MB for {small:,} reads, {second:.0f} MB for {large:,}: "
            f"{second / first:.3f} x"
        )


if __name__ == "__main__":
    main()
