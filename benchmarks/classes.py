"""Does ``wyr explain-classes`` find what was planted, and what does it cost?

Recovery, with the demo model on simulated reads, whose motifs are known.  For each rank and each way to score
(masks; integrated gradients; TF-IDF with a linear SVM, whose best terms stand for scores), on the same reads:

- motifs: taxa of which one correlates with the planted matrix (Pearson 0.9 or more, after alignment); how
  many were kept at 5 %, how many of these are of no motif of their taxon, and how many are a decoy;
- keywords: how many, the share that are k-mers of the taxon's motif, or lie a base beside it, the share of
  the motif's k-mers that are keywords, and how many k-mers of decoys (in or beside no motif) are.

Cost: reads/s of scoring and tallying beside bare masks, and peak memory of the command at 1x and 10x reads.

    python benchmarks/classes.py [--reads N] [--steps N] [--memory-reads N] [--threads N]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wyrcli.checkpoint import load_checkpoint, load_explainer
from wyrcli.class_explanation import (
    Findings,
    choose_classes,
    class_reads,
    explain_classes,
    find_class_motifs,
    sample_others,
)
from wyrcli.class_motifs import ClassRead, Motif, adjust_motifs, compare, find_motifs
from wyrcli.class_quality import measure_quality, rank_by_svm
from wyrcli.class_scores import PassOptions
from wyrcli.class_tables import quality_table
from wyrcli.dataset import Dataset, LabelledWindows
from wyrcli.examination import Subject, examine
from wyrcli.installed import find_model
from wyrcli.keywords import Criteria
from wyrcli.simulation import MOTIF_BP, toy_world
from wyrcli.terms import KmerTerms, Terms, turn_kmer

FDR = 0.05
ALIKE = 0.9


def make_dataset(folder: Path, n_reads: int, seed: int) -> Path:
    """Simulated reads as a dataset with nothing but a test split."""
    reads, data = folder / f"reads-{n_reads}", folder / f"data-{n_reads}"
    wyr = [sys.executable, "-m", "wyrcli"]
    subprocess.run([*wyr, "simulate", reads, "--seed", str(seed), "--reads", str(n_reads), "-q"], check=True)
    subprocess.run(
        [*wyr, "prepare", reads / "reads.fasta", "--labels", reads / "labels.tsv", "--taxonomy",
         reads / "taxdump", "--validation", "0", "--test", "1", "-o", data, "-q"],
        check=True, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    return data


def planted(rank: int, name: str) -> tuple[str, NDArray[np.float64]]:
    """Letters and matrix (24, 4) of a taxon's motif; rank 3 and a number: of a decoy."""
    world = toy_world()
    codes = world.decoys[int(name)] if rank == 3 else world.motifs[rank][world.names[rank].index(name)]
    return "".join("ACGT"[code] for code in codes), np.eye(4)[codes]


def lies_in(term: str, motif: str) -> bool:
    """On either strand."""
    return term in motif or term in turn_kmer(motif)


def lies_beside(term: str, motif: str) -> bool:
    """All but one base of it, at an end of the motif, on either strand."""
    return any(
        term[1:] == one[: len(term) - 1] or term[:-1] == one[1 - len(term) :]
        for one in (motif, turn_kmer(motif))
    )


def describe(
    method: str, found: Findings, motifs: Sequence[Sequence[Motif]], words: Sequence[Sequence[str]]
) -> None:
    """A line per rank."""
    taxonomy = found.taxonomy
    decoys = [planted(3, str(i)) for i in range(len(toy_world().decoys))]
    every = [planted(r, name)[0] for r, taxa in enumerate(taxonomy.taxa) for name in taxa]
    for r, rank in enumerate(taxonomy.ranks):
        rows = [i for i, own in enumerate(found.asked) if own.rank == r]
        recovered = kept = false = of_decoys = inside = beside = bad = 0
        recall = []
        for i in rows:
            letters, matrix = planted(r, taxonomy.taxa[r][found.asked[i].number])
            own = [motif for motif in motifs[i] if motif.is_kept(FDR)]
            alike = [compare(motif.probabilities, matrix).correlation for motif in own]
            recovered += max(alike, default=0.0) >= ALIKE
            kept += len(own)
            false += sum(value < ALIKE for value in alike)
            of_decoys += sum(
                max(compare(motif.probabilities, decoy).correlation for _, decoy in decoys) >= ALIKE
                for motif in own
            )
            good = [word for word in words[i] if lies_in(word, letters)]
            inside += len(good)
            beside += sum(lies_beside(word, letters) for word in words[i] if word not in good)
            bad += sum(
                any(lies_in(word, decoy) for decoy, _ in decoys)
                and not any(lies_in(word, motif) or lies_beside(word, motif) for motif in every)
                for word in words[i]
            )
            recall.append(len(good) / (MOTIF_BP - len(words[i][0]) + 1) if words[i] else 0.0)
        n = max(sum(len(words[i]) for i in rows), 1)
        print(
            f"| {method} | {rank} | {recovered} of {len(rows)} | {kept} | {false} | {of_decoys} | "
            f"{sum(len(words[i]) for i in rows)} | {inside / n:.1%} | {beside / n:.1%} | "
            f"{np.mean(recall):.1%} | {bad} |",
            flush=True,
        )


def svm_motifs(found: Findings, words: Sequence[Sequence[str]], terms: Terms) -> list[list[Motif]]:
    """Motifs from the terms of an SVM: bases of a read count as kept where these terms stand."""
    motifs = []
    for row in range(len(found.asked)):
        weights = {word: 1 / (1 + place) for place, word in enumerate(words[row])}
        reads = [mark(read, set(words[row]), terms) for read in class_reads(found, row)]
        motifs.append(find_motifs(weights, reads, sample_others(found, row)))
    for r in range(len(found.taxonomy.ranks)):
        rows = [i for i, own in enumerate(found.asked) if own.rank == r]
        for i, own in adjust_motifs({str(i): motifs[i] for i in rows}).items():
            motifs[int(i)] = list(own)
    return motifs


def mark(read: ClassRead, words: set[str], terms: Terms) -> ClassRead:
    """The read with a score of 1 where one of the words stands, and 0 elsewhere."""
    scores = np.zeros(len(read.sequence), np.float32)
    places = terms.find(read.sequence)
    for number, start, stop in zip(*(part.tolist() for part in places), strict=True):
        if terms.letters(number) in words:
            scores[start:stop] = 1
    return read._replace(scores=scores)


def recovery(subject: Subject, windows: LabelledWindows, steps: int) -> None:
    """All methods on the same reads."""
    checkpoint = load_checkpoint(find_model(Path("demo")))
    explainer = load_explainer(checkpoint.path).explainer
    taxonomy = checkpoint.taxonomy
    asked, _ = choose_classes(taxonomy, windows.labels)
    print(f"\n{len(windows)} reads, {len(asked)} classes")
    print(
        "| scores | rank | taxa recovered | motifs kept | false | decoys | keywords | in the motif | beside "
        "it | motif's k-mers found | decoys' k-mers |"
    )
    print("|---|---|---|---|---|---|---|---|---|---|---|")
    quality = []
    first: Findings | None = None
    for source in ("mask", "gradients") if steps else ("mask",):
        terms = KmerTerms(6)
        options = PassOptions(source, steps=steps or 1)  # type: ignore[arg-type]
        found = explain_classes(
            subject, explainer, windows, taxonomy, asked, terms, options, Criteria(fdr=FDR)
        )
        find_class_motifs(found)
        words = [[own.term for own in found.kept(i)] for i in range(len(asked))]
        describe(source, found, found.motifs, words)
        first = first or found
        chosen = {i: [own.number for own in found.kept(i)] for i in range(len(asked))}
        quality += measure_quality(source, asked, chosen, first.scored.scores, first.frequencies)
    assert first is not None
    ranked = rank_by_svm(windows, asked, first.terms)
    # As many as the motif has k-mers: more than it can know.
    numbers = [own[: MOTIF_BP - 5].tolist() for own in ranked]
    words = [[first.terms.letters(number) for number in own] for own in numbers]
    describe("svm", first, svm_motifs(first, words, first.terms), words)
    chosen = dict(enumerate(numbers))
    quality += measure_quality("svm", asked, chosen, first.scored.scores, first.frequencies)
    print()
    print(quality_table(quality, taxonomy).to_markdown())


def speed(subject: Subject, windows: LabelledWindows) -> None:
    """CPU seconds of bare masks and of the whole pass, in turn."""
    checkpoint = load_checkpoint(find_model(Path("demo")))
    explainer, taxonomy = load_explainer(checkpoint.path).explainer, checkpoint.taxonomy
    asked, _ = choose_classes(taxonomy, windows.labels)
    times: dict[str, list[float]] = {"masks alone": [], "explain-classes, keywords": [], "motifs": []}
    for _ in range(3):
        start = time.process_time()
        examine(subject, explainer, windows, with_answers=False)
        times["masks alone"].append(time.process_time() - start)
        start = time.process_time()
        found = explain_classes(
            subject, explainer, windows, taxonomy, asked, KmerTerms(6), PassOptions(), Criteria()
        )
        times["explain-classes, keywords"].append(time.process_time() - start)
        start = time.process_time()
        find_class_motifs(found)
        times["motifs"].append(time.process_time() - start)
    print(f"\n{len(windows)} reads, fp32, {torch.get_num_threads()} thread; CPU time, median of 3")
    for name, seconds in times.items():
        middle = float(np.median(seconds))
        print(f"{name:<26} {middle:7.2f} s   {len(windows) / middle:7.1f} reads/s")
    ratios = np.array(times["explain-classes, keywords"]) / np.array(times["masks alone"])
    print(f"keywords over masks alone: {np.median(ratios):.2f}")


def memory(folder: Path, n_reads: int) -> None:
    """Peak of the whole command at 1x and 10x."""
    peaks = []
    for n in (n_reads, 10 * n_reads):
        data = make_dataset(folder, n, seed=4242)
        code = (
            "import resource, sys; from wyrcli.cli import main; "
            "code = main(sys.argv[1:]); "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr); "
            "sys.exit(code)"
        )
        asked = ["explain-classes", "--data", str(data), "-o", str(folder / f"found-{n}"), "--check", "0"]
        done = subprocess.run(
            [sys.executable, "-c", code, *asked, "--no-page", "--threads", "1", "-q"],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        peaks.append(int(done.stderr.split("peak ")[1].split()[0]) / 1024)
    print(
        f"\npeak memory: {peaks[0]:,.0f} MB for {n_reads:,} reads, {peaks[1]:,.0f} MB for {10 * n_reads:,}: "
        f"{peaks[1] / peaks[0]:.3f} times (aim: at most 1.1)"
    )


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reads", type=int, default=1000, help="0 leaves recovery and speed out")
    parser.add_argument("--steps", type=int, default=0, help="of integrated gradients; 0 = without them")
    parser.add_argument("--seed", type=int, default=7777)
    parser.add_argument("--speed-reads", type=int, default=500, help="0 leaves it out")
    parser.add_argument("--memory-reads", type=int, default=500, help="0 leaves it out")
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    os.environ.setdefault("OMP_NUM_THREADS", str(options.threads))
    checkpoint = load_checkpoint(find_model(Path("demo")))
    subject = Subject(checkpoint.explanandum, checkpoint.tokenizer, torch.device("cpu"), 32)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.reads or options.speed_reads:
            n = max(options.reads, options.speed_reads)
            windows = Dataset.open(make_dataset(folder, n, options.seed)).split_for(
                "test", checkpoint.taxonomy
            )
            if options.reads:
                recovery(subject, windows.select(np.arange(options.reads)), options.steps)
            if options.speed_reads:
                speed(subject, windows.select(np.arange(options.speed_reads)))
        if options.memory_reads:
            memory(folder, options.memory_reads)


if __name__ == "__main__":
    main()
