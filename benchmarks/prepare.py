"""How fast ``wyr prepare`` is and how much memory it takes, beside a plain Biopython and pandas script.

Prints, from one run on one machine:

- seconds, Mbp/s and peak memory of ``wyr prepare`` at 1x and 10x input, and of the plain script at 1x (it
  holds all windows in memory): medians over rounds at 1x, where the two take turns;
- the ratio of their speeds at 1x, the ratio of the memory of ``wyr prepare`` at 10x and 1x, and how long
  the 7.8 Gbp of the paper's data would take at the speed of 10x;
- the windows that both keep, which must be equal in number: the rules are the same.

Both are measured as processes of their own, from their start to their end, with the database of the
taxonomy already built.  Peak memory is that of the whole process tree.  The input is random genomes of
1 Mbp made on the spot (gzip, wrapped, with repeats, N, other IUPAC letters and lower case), or with
``--real`` the genomes of a folder: all of them for 10x, every tenth for 1x.  Linux only.

    python benchmarks/prepare.py [--mbp N] [--factor N] [--rounds N] [--real DIR]
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RANKS = ("superkingdom", "phylum", "genus")
SPLITS = ("train", "validation", "test")
WINDOW_BP = 1500
MIN_BP = 200
MIN_ACGT = 0.5
SHARE = 0.1  # of validation, and of test
PAPER_GBP = 7.8

GENOME_BP = 1_000_000
LINE_BP = 80
REPEATED = 0.02  # of the windows are copies of one of so many elements, half of them reverse complements
ELEMENTS = 100

# Runs a command and prints its seconds and its peak memory in kB.  A process of its own, because a child
# begins with the memory of its parent: this one is small.  The kernel knows the peak of each process,
# which polling may miss; polling sees processes that run side by side.
MEASURE = """
import resource, subprocess, sys, threading, time
def tree_kb(pid):
    try:
        with open(f"/proc/{pid}/status") as file:
            own = sum(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            return own + sum(tree_kb(child) for child in file.read().split())
    except (FileNotFoundError, ProcessLookupError):
        return 0
def watch():
    global peak
    while not done.wait(0.05):
        peak = max(peak, tree_kb(process.pid))
peak, done = 0, threading.Event()
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
watcher = threading.Thread(target=watch)
watcher.start()
process.wait()
seconds = time.perf_counter() - start
done.set()
watcher.join()
peak = max(peak, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
print(seconds, peak)
sys.exit(process.returncode)
"""


class Collection(NamedTuple):
    """Genomes, one a file, with the table of their taxids and the taxonomy."""

    files: list[Path]
    labels: Path
    taxdump: Path


class Measured(NamedTuple):
    """One run."""

    seconds: float
    peak_mb: float
    windows: int


# ---------------------------------------------------------------- input


def make_collection(folder: Path, n_genomes: int, seed: int = 0) -> Collection:
    """Random genomes of the species of the toy taxonomy, in turn."""
    from wyrcli.simulation import simulate, toy_world

    simulate(folder / "toy", n_reads=1)
    taxids = [taxid for group in toy_world().species for taxid, _ in group]
    rng = np.random.default_rng(seed)
    elements = rng.integers(0, 4, (ELEMENTS, WINDOW_BP), dtype=np.uint8)
    labels = folder / "manifest.tsv"
    files = []
    with labels.open("w") as table:
        table.write("file\ttaxid\n")
        for i in range(n_genomes):
            path = folder / f"genome{i}.fna.gz"
            records = make_genome(rng, elements)
            # The fastest compression: making the input is not what is measured.
            path.write_bytes(gzip.compress(b"".join(format_fasta(f"contig{i}", records)), 1))
            table.write(f"{path.name}\t{taxids[i % len(taxids)]}\n")
            files.append(path)
    return Collection(files, labels, folder / "toy" / "taxdump")


def make_genome(rng: np.random.Generator, elements: NDArray[np.uint8]) -> list[NDArray[np.uint8]]:
    """The letters of some contigs, GENOME_BP together; ``elements``: codes, (ELEMENTS, WINDOW_BP)."""
    contigs = []
    borders = 997 * (1 + np.sort(rng.choice(1000, 4, replace=False)))  # none is empty
    for length in np.diff([0, *borders, GENOME_BP]):
        codes = rng.integers(0, 4, length, dtype=np.uint8)
        tiles = codes[: length // WINDOW_BP * WINDOW_BP].reshape(-1, WINDOW_BP)
        copies = elements[rng.integers(ELEMENTS, size=len(tiles))]
        copies = np.where(rng.random((len(tiles), 1)) < 0.5, 3 - copies[:, ::-1], copies)
        tiles[:] = np.where(rng.random((len(tiles), 1)) < REPEATED, copies, tiles)
        letters = np.frombuffer(b"ACGT", np.uint8)[codes]
        odd = rng.integers(length, size=length // 50_000)
        letters[odd] = rng.choice(np.frombuffer(b"RYSWKMBDHVN", np.uint8), size=len(odd))
        for start in rng.integers(length, size=length // 100_000):
            letters[start : start + rng.integers(10, 3000)] = ord("N")
        for start in rng.integers(length, size=length // 50_000):
            letters[start : start + rng.integers(100, 5000)] |= 0x20  # lower case
        contigs.append(letters)
    return contigs


def format_fasta(name: str, contigs: Sequence[NDArray[np.uint8]]) -> Iterator[bytes]:
    """FASTA text in lines of LINE_BP."""
    for number, letters in enumerate(contigs, 1):
        yield b">%b.%d made by benchmarks/prepare.py\n" % (name.encode(), number)
        whole = len(letters) // LINE_BP * LINE_BP
        lines = letters[:whole].reshape(-1, LINE_BP)
        yield np.pad(lines, ((0, 0), (0, 1)), constant_values=ord("\n")).tobytes()
        if whole < len(letters):
            yield letters[whole:].tobytes() + b"\n"


def find_collection(folder: Path) -> Collection:
    """A folder with ``genomes.tsv``, ``taxdump`` and files .fna.gz, which may lie in folders of their own."""
    return Collection(sorted(folder.rglob("*.fna.gz")), folder / "genomes.tsv", folder / "taxdump")


def count_bases(files: Sequence[Path]) -> int:
    """Bases in FASTA files."""
    total = 0
    for path in files:
        with gzip.open(path) as file:
            total += sum(len(line.rstrip()) for line in file if not line.startswith(b">"))
    return total


# ---------------------------------------------------------------- contestants


def prepare_plainly(files: Sequence[str], labels: str, database: str, output: str) -> None:
    """The steps of ``wyr prepare`` as one would write them with Biopython, pandas and ete3.

    Its output is the same but for the places of N in the arrays and the checksums of the inputs.
    """
    import pandas as pd
    from Bio import SeqIO
    from Bio.Seq import Seq
    from ete3 import NCBITaxa

    table = pd.read_csv(labels, sep="\t")
    taxid_of = dict(zip(table["file"], table["taxid"], strict=True))

    rows = []
    for path in files:
        file = Path(path).name
        with gzip.open(path, "rt") as handle:
            for record in SeqIO.parse(handle, "fasta"):
                sequence = re.sub("[^ACGT]", "N", str(record.seq).upper())
                for start in range(0, len(sequence), WINDOW_BP):
                    window = sequence[start : start + WINDOW_BP]
                    if len(window) < MIN_BP or len(window) - window.count("N") < MIN_ACGT * len(window):
                        continue
                    reverse = str(Seq(window).reverse_complement())
                    rows.append(
                        {
                            "name": record.id,
                            "start": start,
                            "stop": start + len(window),
                            "file": file,
                            "taxid": taxid_of[file],
                            "gc": (window.count("G") + window.count("C")) / (len(window) - window.count("N")),
                            "sequence": window,
                            "canonical": min(window, reverse),
                        }
                    )
    windows = pd.DataFrame(rows)

    ncbi = NCBITaxa(dbfile=database, update=False)
    lineages = []
    for taxid in windows["taxid"].unique():
        track = ncbi.get_lineage(taxid)
        taxon_at = {rank: taxon for taxon, rank in ncbi.get_rank(track).items()}
        names = ncbi.get_taxid_translator(track)
        lineages.append({"taxid": taxid, **{rank: names.get(taxon_at.get(rank)) for rank in RANKS}})
    windows = windows.merge(pd.DataFrame(lineages), on="taxid").dropna(subset=list(RANKS))
    windows = windows.drop_duplicates("canonical").drop(columns="canonical")

    classes = {rank: sorted(windows[rank].unique()) for rank in RANKS}
    genomes = np.random.default_rng(0).permutation(windows["file"].unique())
    n = round(SHARE * len(genomes))
    parts = {"validation": genomes[:n], "test": genomes[n : 2 * n], "train": genomes[2 * n :]}
    Path(output).mkdir()
    for split, chosen in parts.items():
        part = windows[windows["file"].isin(chosen)]
        part.to_parquet(Path(output) / f"{split}.parquet", compression="zstd", index=False)
        # What trains without being in memory: two bits a base, where each sequence begins, and its labels.
        code_of = np.zeros(256, np.uint8)
        code_of[list(b"ACGT")] = range(4)
        packed = []
        for window in part["sequence"]:
            codes = code_of[np.frombuffer(window.encode(), np.uint8)]
            codes = np.pad(codes, (0, -len(codes) % 4)).reshape(-1, 4)
            packed.append(codes[:, 0] | codes[:, 1] << 2 | codes[:, 2] << 4 | codes[:, 3] << 6)
        np.save(Path(output) / f"{split}.bases.npy", np.concatenate(packed))
        np.save(Path(output) / f"{split}.offsets.npy", np.cumsum([0, *map(len, packed)]))
        numbers = [part[rank].astype(pd.CategoricalDtype(classes[rank])).cat.codes for rank in RANKS]
        np.save(Path(output) / f"{split}.labels.npy", np.stack(numbers, axis=1).astype(np.int32))


def wyr_command(collection: Collection, output: Path) -> list[str]:
    """``wyr prepare`` with the rules of the plain script."""
    command = [sys.executable, "-m", "wyrcli", "prepare", *map(str, collection.files)]
    command += ["--labels", str(collection.labels), "--taxonomy", str(collection.taxdump)]
    command += ["-o", str(output), "--window", str(WINDOW_BP), "--split", "genome"]
    return [*command, "--validation", str(SHARE), "--test", str(SHARE), "--seed", "0", "-q"]


def plain_command(collection: Collection, database: Path, output: Path) -> list[str]:
    """This file, to run :func:`prepare_plainly` alone."""
    arguments = [list(map(str, collection.files)), str(collection.labels), str(database), str(output)]
    return [sys.executable, __file__, "--plain", json.dumps(arguments)]


def measure(command: list[str], output: Path, cache: Path) -> Measured:
    """Run a command that writes a dataset into ``output``; what it says is shown only if it fails."""
    import pyarrow.parquet as pq

    environment = os.environ | {"WYR_CACHE": str(cache)}
    run = [sys.executable, "-c", MEASURE, *command]
    done = subprocess.run(run, check=False, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise SystemExit(done.stderr)
    seconds, peak_kb = done.stdout.split()
    windows = sum(pq.read_table(output / f"{split}.parquet", columns=["start"]).num_rows for split in SPLITS)
    return Measured(float(seconds), float(peak_kb) / 1000, windows)


def summarise(runs: Sequence[Measured]) -> Measured:
    """Median time and highest memory of runs on the same input."""
    (windows,) = {run.windows for run in runs}
    return Measured(statistics.median(r.seconds for r in runs), max(r.peak_mb for r in runs), windows)


# ---------------------------------------------------------------- the table


def describe_machine() -> str:
    """Processor and versions."""
    with open("/proc/cpuinfo") as file:
        models = [line.split(":")[1].strip() for line in file if line.startswith("model name")]
    packages = ", ".join(f"{name} {version(name)}" for name in ("wyrcli", "biopython", "pandas", "pyarrow"))
    cores = len(os.sched_getaffinity(0))
    return (
        f"{cores} cores of {models[0] if models else platform.machine()}, "
        f"Python {platform.python_version()}, {packages}"
    )


def contest(small: Collection, large: Collection, rounds: int, work: Path) -> None:
    """Run both and print."""
    from wyrcli.ncbi import NcbiTaxonomy

    cache = work / "cache"
    NcbiTaxonomy.open(small.taxdump, cache).close()
    (database,) = cache.glob("*.sqlite")
    mbp, large_mbp = (count_bases(collection.files) / 1e6 for collection in (small, large))
    wyr_runs, plain_runs = [], []
    for i in range(rounds):
        output = work / f"wyr{i}"
        wyr_runs.append(measure(wyr_command(small, output), output, cache))
        output = work / f"plain{i}"
        plain_runs.append(measure(plain_command(small, database, output), output, cache))
    wyr, plain = summarise(wyr_runs), summarise(plain_runs)
    big = measure(wyr_command(large, work / "wyr-large"), work / "wyr-large", cache)

    print(f"{'':<12} {'files':>6} {'Mbp':>7} {'seconds':>8} {'Mbp/s':>7} {'peak MB':>8} {'windows kept':>13}")
    rows = [
        ("wyr prepare", small, mbp, wyr),
        ("wyr prepare", large, large_mbp, big),
        ("plain", small, mbp, plain),
    ]
    for name, collection, size, run in rows:
        print(
            f"{name:<12} {len(collection.files):>6} {size:>7.1f} {run.seconds:>8.2f} "
            f"{size / run.seconds:>7.2f} {run.peak_mb:>8.0f} {run.windows:>13,}"
        )
    print(f"speed of wyr prepare: {plain.seconds / wyr.seconds:.2f} x the plain script's, on {mbp:.1f} Mbp")
    growth = large_mbp / mbp
    print(f"peak memory of wyr prepare: {big.peak_mb / wyr.peak_mb:.3f} x for {growth:.1f} x the input")
    minutes = PAPER_GBP * 1000 / large_mbp * big.seconds / 60
    print(f"extrapolated for {PAPER_GBP} Gbp from the run on {large_mbp:.1f} Mbp: {minutes:.1f} minutes")
    if wyr.windows == plain.windows:
        print("both keep the same number of windows")
    else:
        counts = json.loads((work / "wyr0" / "dataset.json").read_text())
        dropped = [f"{what}: {counts[what]['dropped']}" for what in ("records", "windows")]
        print(f"NOT the same number of windows; wyr prepare dropped of {', of '.join(dropped)}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mbp", type=int, default=100, help="of random genomes at 1x, of 1 Mbp each")
    parser.add_argument("--factor", type=int, default=10, help="how many times as much 10x is")
    parser.add_argument("--rounds", type=int, default=3, help="at 1x")
    parser.add_argument("--real", type=Path, metavar="DIR", help="genomes.tsv, taxdump and *.fna.gz")
    parser.add_argument("--plain", type=json.loads, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plain:
        prepare_plainly(*options.plain)
        return
    print(describe_machine())
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        if options.real:
            large = find_collection(options.real)
            small = large._replace(files=large.files[:: options.factor])
        else:
            start = time.perf_counter()
            large = make_collection(work, options.mbp * options.factor)
            small = large._replace(files=large.files[: options.mbp])
            print(f"{len(large.files)} genomes made in {time.perf_counter() - start:.1f} s")
        contest(small, large, options.rounds, work)


if __name__ == "__main__":
    main()
