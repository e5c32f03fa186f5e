"""What becomes of ``wyr explain`` when things go wrong: counts of reads, whole outputs, exit codes, no hang.

Reads of the simulation (``wyr simulate``), cut into pieces of 150 bp, with malformed records and such without
a usable base among them.  One undisturbed run gives the bytes that all others are held against:

- two processes; four shards, put behind one another;
- killed (SIGKILL) at random moments, each time resumed, until it is done;
- SIGTERM and Ctrl-C; a run that must fail at a malformed record;
- out of memory: the classifier refuses batches above a few windows, and one in 500 at random (injected:
  a CPU has no such limit);
- a full disk, for the outputs and for the answers that ``--resume`` keeps (RLIMIT_FSIZE: a file may not grow
  beyond 200 kB; and /dev/full);
- a reader that closes the pipe;
- workers that are killed at random moments, and one that stops without a word;
- two runs that write the same output.

A run that takes ten times as long as the undisturbed one, and more than a minute, hangs: it is killed and the
case has failed.  Exits with 1 if any case has.

    python benchmarks/faults.py [--reads N] [--seed N] [--threads N] [--only WORD]
"""

from __future__ import annotations

import argparse
import collections
import hashlib
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

PIECE_BP = 150
BAD = {
    "bad_letters": lambda text: ("bad", text[:70] + "?" + text[71:]),
    "no_name": lambda text: ("", text),
    "empty": lambda text: ("empty", ""),
    "short": lambda text: ("short", text[:4]),
    "no_acgt": lambda text: ("n", "N" * len(text)),
}

SHORT_OF_MEMORY = """
import random, sys
import torch
from wyrcli.cli import main
from wyrcli.model.explanandum import Explanandum
classify, rng, told = Explanandum.classify, random.Random(1), [0, 0]
def limited(self, batch, *more):
    if len(batch) > 200 or (len(batch) > 1 and rng.random() < 0.002):
        told[0] += 1
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    told[1] += 1
    return classify(self, batch, *more)
Explanandum.classify = limited
code = main(sys.argv[1:])
print("refused", told[0], "answered", told[1], file=sys.stderr)
sys.exit(code)
"""


@dataclass
class Case:
    """One line of the table."""

    name: str
    codes: list[int] = field(default_factory=list)
    seconds: float = 0.0
    reads: str = ""
    outputs: str = ""
    notes: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def expect(self, is_so: bool, what: str) -> None:
        """Note what is not as it should be."""
        if not is_so:
            self.faults.append(what)


class Trial:
    """The input, the undisturbed run, and how others are started and judged."""

    def __init__(self, folder: Path, options: argparse.Namespace) -> None:
        self.folder, self.options = folder, options
        self.rng = random.Random(options.seed)
        self.reads = folder / "reads.fasta"
        self.skipped = write_reads(folder, self.reads, options.reads, self.rng)
        self.whole: dict[str, str] = {}
        self.usual = 60.0

    def command(self, name: str, *more: str, skip: bool = True) -> list[str]:
        """``wyr explain`` of the input, into files of this name."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        files = ["-o", str(out / "x.bed"), "-o", str(out / "x.bed.gz"), "--predictions", str(out / "p.tsv")]
        words = ["explain", str(self.reads), "--model", "demo", *files, "--threads", str(self.options.threads), "-q"]
        return [*words, *(["--on-error", "skip"] if skip else []), *more]

    def start(self, words: list[str], code: str = "", **more: object) -> subprocess.Popen[bytes]:
        """A process of its own, in a session of its own."""
        python = [sys.executable, "-c", code] if code else [sys.executable, "-m", "wyrcli"]
        return subprocess.Popen(  # type: ignore[call-overload, no-any-return]
            [*python, *words], stderr=subprocess.PIPE, start_new_session=True, **more
        )

    def await_start(self, name: str, process: subprocess.Popen[bytes]) -> None:
        """Until a run has opened its outputs."""
        start = time.monotonic()
        out = self.folder / name
        while not list(out.glob(".x.bed.tmp.*")) and process.poll() is None:
            if time.monotonic() - start > max(60, 10 * self.usual):
                return
            time.sleep(0.05)

    def finish(self, case: Case, process: subprocess.Popen[bytes]) -> str:
        """Wait, but not for ever; notes exit code and says what was on stderr."""
        start = time.monotonic()
        try:
            _, err = process.communicate(timeout=max(60, 10 * self.usual))
        except subprocess.TimeoutExpired:
            case.faults.append("HANGS")
            os.killpg(process.pid, signal.SIGKILL)
            _, err = process.communicate()
        case.seconds += time.monotonic() - start
        case.codes.append(process.returncode)
        text = err.decode()
        case.expect("Traceback" not in text, "a traceback")
        return text

    def hashes(self, name: str) -> dict[str, str]:
        """Of the outputs that are there."""
        files = sorted(p for p in (self.folder / name).iterdir() if p.suffix != ".tbi")
        return {p.name: hashlib.sha256(p.read_bytes()).hexdigest()[:16] for p in files if p.is_file()}

    def judge_whole(self, case: Case, name: str) -> None:
        """The outputs must be there, with the very bytes, and nothing beside them."""
        found = self.hashes(name)
        same = found == self.whole
        case.outputs = "whole, same bytes" if same else "DIFFER"
        case.expect(same, f"outputs: {sorted(found)}")
        if same:
            self.count(case, name)

    def judge_absent(self, case: Case, name: str) -> None:
        """There must be nothing, but for answers that are kept."""
        left = sorted(p.name for p in (self.folder / name).iterdir())
        kept = [p for p in left if p.endswith(".resume")]
        case.outputs = "absent" + (", answers kept" if kept else "")
        case.expect(left == kept, f"left: {left}")

    def count(self, case: Case, name: str) -> None:
        """Every read must have a row; see ``--predictions``."""
        found: collections.Counter[str] = collections.Counter()
        with open(self.folder / name / "p.tsv") as rows:
            next(rows)
            for row in rows:
                found[row.split("\t", 4)[3]] += 1
        skipped = {k.removeprefix("skipped:"): n for k, n in found.items() if k.startswith("skipped:")}
        n = found.total()
        case.reads = f"{n:,} of {self.options.reads:,}; {sum(skipped.values()):,} skipped"
        case.expect(n == self.options.reads and skipped == self.skipped, f"{skipped} for {self.skipped}")


def write_reads(folder: Path, path: Path, n: int, rng: random.Random) -> dict[str, int]:
    """Simulated pieces, one in 200 of them spoilt; returns how many there are of each fault."""
    made = folder / "simulated"
    words = ["simulate", str(made), "--seed", "20", "--reads", str(-(-n // 10)), "-q"]
    subprocess.run([sys.executable, "-m", "wyrcli", *words], check=True)
    spoilt: collections.Counter[str] = collections.Counter()
    written = 0
    with open(made / "reads.fasta") as source, open(path, "w") as sink:
        for line in source:
            if line.startswith(">"):
                name = line[1:].split()[0]
                continue
            for start in range(0, 1500, PIECE_BP):
                own, text = f"{name}_{start}", line[start : start + PIECE_BP].strip()
                if written == n:
                    return dict(spoilt)
                if rng.random() < 1 / 200:
                    fault = rng.choice(list(BAD))
                    spoilt[fault] += 1
                    own, text = BAD[fault](text)
                sink.write(f">{own}\n{text}\n")
                written += 1
    return dict(spoilt)


# ---------------------------------------------------------------- cases


def undisturbed(trial: Trial, case: Case) -> None:
    """The bytes that others are held against, and how long they take."""
    trial.finish(case, trial.start(trial.command("whole")))
    trial.usual = case.seconds
    case.expect(case.codes == [0], "failed")
    trial.whole = trial.hashes("whole")
    trial.judge_whole(case, "whole")


def two_processes(trial: Trial, case: Case) -> None:
    """Order and bytes are those of one."""
    trial.finish(case, trial.start(trial.command("two", "--processes", "2")))
    case.expect(case.codes == [0], "failed")
    trial.judge_whole(case, "two")


def four_shards(trial: Trial, case: Case) -> None:
    """Put behind one another."""
    for i in range(4):
        trial.finish(case, trial.start(trial.command(f"shard{i}", "--shard", f"{i + 1}/4")))
    case.expect(case.codes == [0] * 4, "failed")
    out = trial.folder / "shards"
    out.mkdir()
    for name in trial.whole:
        with open(out / name, "wb") as sink:
            for i in range(4):
                sink.write((trial.folder / f"shard{i}" / name).read_bytes())
    trial.judge_whole(case, "shards")


def killed_and_resumed(trial: Trial, case: Case) -> None:
    """SIGKILL at random moments; five times, or until the run is faster."""
    kills = 0
    while kills < 5:
        process = trial.start(trial.command("killed", "--resume"))
        wait = trial.rng.uniform(0.05, 0.45) * trial.usual
        time.sleep(wait)
        case.seconds += wait
        if process.poll() is not None:
            process.communicate()
            break
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        kills += 1
        case.codes.append(process.returncode)
        left = [p.name for p in (trial.folder / "killed").iterdir() if not p.name.startswith(".")]
        case.expect(set(left) <= {"x.bed.resume"}, f"after a kill: {left}")
    if process.returncode != 0:
        trial.finish(case, trial.start(trial.command("killed", "--resume")))
    case.notes.append(f"{kills} kills")
    case.expect(kills > 0 and case.codes[-1] == 0, "failed")
    trial.judge_whole(case, "killed")


def told_to_stop(trial: Trial, case: Case) -> None:
    """SIGTERM and Ctrl-C, with one process and with two."""
    expected = []
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        for processes in ("0", "2"):
            process = trial.start(trial.command("stopped", "--processes", processes))
            trial.await_start("stopped", process)
            time.sleep(trial.rng.uniform(0, 0.3) * trial.usual)
            os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
            err = trial.finish(case, process)
            case.expect(err in ("wyr: terminated\n", "wyr: interrupted\n"), err)
            expected.append(code)
    case.expect(case.codes == expected, f"exit codes {case.codes}")
    trial.judge_absent(case, "stopped")


def malformed_record(trial: Trial, case: Case) -> None:
    """Without --on-error skip."""
    err = trial.finish(case, trial.start(trial.command("strict", skip=False)))
    case.expect(case.codes == [1] and err.count("\n") == 1 and "record" in err, err)
    trial.judge_absent(case, "strict")


def short_of_memory(trial: Trial, case: Case) -> None:
    """No read is lost; the last digits may be others."""
    err = trial.finish(case, trial.start(trial.command("memory"), SHORT_OF_MEMORY))
    case.notes.append(err.strip().splitlines()[-1] if err else "")
    case.expect(case.codes == [0], err)
    if case.codes != [0]:
        return
    differing = n = 0
    with open(trial.folder / "whole" / "p.tsv") as a, open(trial.folder / "memory" / "p.tsv") as b:
        for one, other in zip(a, b, strict=True):
            n += 1
            # Names of taxa, not their probabilities.
            differing += one.split("\t")[:10:2] != other.split("\t")[:10:2]
    trial.count(case, "memory")
    case.outputs = f"whole, {differing} of {n:,} rows name another taxon"
    case.expect(differing <= n / 1000, "calls differ")


def limit_files() -> None:
    """In the child: no file may grow beyond 200 kB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))


def full_disk(trial: Trial, case: Case) -> None:
    """Of the outputs; of kept answers; of a device."""
    for more in ([], ["--resume"]):
        err = trial.finish(case, trial.start(trial.command("full", *more), preexec_fn=limit_files))
        case.expect(err.count("\n") == 1 and "full/" in err, err)
        trial.judge_absent(case, "full")
        for kept in (trial.folder / "full").glob("*.resume"):
            shutil.rmtree(kept)
    words = trial.command("full", "--tokens", "/dev/full")
    err = trial.finish(case, trial.start(words))
    case.expect(err.count("\n") == 1 and "No space left" in err, err)
    trial.judge_absent(case, "full")
    case.expect(case.codes == [1] * 3, "exit codes")


def closed_pipe(trial: Trial, case: Case) -> None:
    """Somebody reads a thousand lines and goes."""
    for processes in ("0", "2"):
        words = [*trial.command("pipe", "--processes", processes), "--tokens", "-"]
        process = trial.start(words, stdout=subprocess.PIPE)
        assert process.stdout is not None
        for _ in range(1000):
            process.stdout.readline()
        process.stdout.close()
        process.stdout = None
        err = trial.finish(case, process)
        case.expect(err == "", err)
    case.expect(case.codes == [1, 1], "exit codes")
    trial.judge_absent(case, "pipe")


def workers_of(pid: int) -> list[int]:
    """The workers of a run."""
    found = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in map(int, children.read_text().split()):
            try:
                if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes():
                    found.append(child)
            except OSError:
                continue
    return found


def dying_workers(trial: Trial, case: Case) -> None:
    """Four are killed at random moments."""
    process = trial.start(trial.command("workers", "--processes", "2"))
    kills = 0
    start = time.monotonic()
    while process.poll() is None and kills < 4 and time.monotonic() - start < 10 * trial.usual:
        # Longer than a worker takes to begin: three deaths over one batch end the run, and should.
        time.sleep(trial.rng.uniform(0.4, 0.8) * min(60, trial.usual))
        for worker in trial.rng.sample(own := workers_of(process.pid), min(1, len(own))):
            os.kill(worker, signal.SIGKILL)
            kills += 1
    case.seconds += time.monotonic() - start
    err = trial.finish(case, process)
    case.notes.append(f"{kills} workers killed")
    case.expect(case.codes == [0] and kills > 0, err)
    trial.judge_whole(case, "workers")


def silent_worker(trial: Trial, case: Case) -> None:
    """One is stopped and never goes on; how long it may be silent is made short."""
    code = "import sys\nfrom wyrcli import workers\nfrom wyrcli.cli import main\nworkers.SILENCE = 20.0\n"
    code += "sys.exit(main(sys.argv[1:]))\n"
    # A worker that is begun imports the main module: -c has none, so nothing of this runs there.
    process = trial.start(trial.command("silent", "--processes", "2"), code)
    start = time.monotonic()
    while not (own := workers_of(process.pid)) and process.poll() is None:
        time.sleep(0.1)
    time.sleep(min(10, 0.3 * trial.usual))
    for worker in own[:1]:
        os.kill(worker, signal.SIGSTOP)
    case.seconds += time.monotonic() - start
    err = trial.finish(case, process)
    case.expect(case.codes == [0] and bool(own), err)
    trial.judge_whole(case, "silent")


def same_output(trial: Trial, case: Case) -> None:
    """The second is refused at once, the first one goes on."""
    first = trial.start(trial.command("same"))
    trial.await_start("same", first)
    second = trial.start(trial.command("same"))
    err = trial.finish(case, second)
    case.expect("another run is writing it now" in err and err.count("\n") == 1, err)
    trial.finish(case, first)
    case.expect(case.codes == [1, 0], "exit codes")
    trial.judge_whole(case, "same")


CASES: dict[str, Callable[[Trial, Case], None]] = {
    "undisturbed": undisturbed,
    "two processes": two_processes,
    "four shards, joined": four_shards,
    "SIGKILL, --resume": killed_and_resumed,
    "SIGTERM, Ctrl-C": told_to_stop,
    "malformed record, no skip": malformed_record,
    "out of memory (injected)": short_of_memory,
    "full disk": full_disk,
    "reader closes the pipe": closed_pipe,
    "workers are killed": dying_workers,
    "a worker falls silent": silent_worker,
    "two runs, one output": same_output,
}


def run(trial: Trial, only: str) -> Iterator[Case]:
    """All cases, one after the other."""
    for name, act in CASES.items():
        if name != "undisturbed" and only not in name:
            continue
        case = Case(name)
        act(trial, case)
        yield case


def main() -> int:
    """Run and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--reads", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--only", default="", help="cases with this in their name, and the undisturbed run")
    options = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory(prefix="wyr-faults-") as folder:
        trial = Trial(Path(folder), options)
        print(f"{options.reads:,} reads of {PIECE_BP} bp, spoilt: {dict(sorted(trial.skipped.items()))}\n")
        print("| case | exit codes | reads accounted for | outputs | seconds | |\n|---|---|---|---|---|---|")
        for case in run(trial, options.only):
            codes = ", ".join(map(str, case.codes))
            failed += bool(case.faults)
            notes = "; ".join([*case.notes, *(f"FAILED: {fault.strip()}" for fault in case.faults)])
            row = (case.name, codes, case.reads, case.outputs, f"{case.seconds:.0f}", notes)
            print("| " + " | ".join(row) + " |", flush=True)
    print(f"\n{failed} cases failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
