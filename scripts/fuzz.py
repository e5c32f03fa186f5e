"""Fuzz what ``wyr explain`` reads and writes, without a model.

    python scripts/fuzz.py --minutes 30 --seed 1                # readers and writers, half of the time each
    python scripts/fuzz.py --only writers --minutes 5 --seed 2
    python scripts/fuzz.py --only readers --seed 1 --case 4711  # one case again, as a report names it

Every case is made from the seed, its part and its number alone, so it can be run again by itself.  The
oracles are in ``fuzz_readers.py`` and ``fuzz_writers.py``; what holds for both is here: a case ends within a
time limit, writes nothing to stdout or stderr, leaves no file open, and does not take the process with it.
For the latter, cases run in a child process; if one dies that is a finding, and the next goes on behind it.

The report is JSON on stdout: seed, date, seconds, and per part cases, kinds of cases and findings, of which
those with one cause (the place where an exception was raised, and its kind) are counted together.  Exit code
1 if there are findings.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

CASE_SECONDS = 60
SLOW_SECONDS = 5
MEMORY_BYTES = 4 << 30
PARTS = ("readers", "writers")
_CAUSES_SHOWN = 3  # examples of each


class HangError(BaseException):
    """A case took too long.  No Exception, so that nobody but us catches it."""


class Finding(NamedTuple):
    """A case whose oracle failed."""

    part: str
    case: int
    cause: str  # where and what kind; findings of one cause are one
    text: str  # the whole story


# ---------------------------------------------------------------- one case


def open_descriptors() -> set[tuple[str, str]]:
    """Number and file of each; nothing where the system does not tell."""
    found = set()
    for entry in Path("/proc/self/fd").glob("*"):
        with suppress(OSError):
            found.add((entry.name, os.readlink(entry)))
    return found


def check_descriptors(before: set[tuple[str, str]]) -> None:
    """AssertionError if a file is open that was not.

    Of a CRAM file that it cannot open, htslib (1.24) keeps our pipe: that is known, and closed here, lest a
    long run meet the limit of open files.
    """
    if not before or not open_descriptors() - before:
        return
    gc.collect()
    files = []
    for number, target in open_descriptors() - before:
        if target.startswith("pipe:"):
            os.close(int(number))
        else:
            files.append(target)
    assert not files, f"a file was left open: {files}"


@contextmanager
def silence(path: Path) -> Iterator[None]:
    """Send what is printed, by C libraries too, into a file; AssertionError if there is something."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with open(path, "wb") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for number, copy in zip((1, 2), kept, strict=True):
            os.dup2(copy, number)
            os.close(copy)
        said = path.read_bytes()
        path.unlink()
    assert not said, f"printed: {said[:500]!r}"


def _alarm(number: int, frame: object) -> None:
    raise HangError(f"no end after {CASE_SECONDS} s")


def cause_of(error: BaseException) -> str:
    """Kind of an exception and the innermost line of ours that it came through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "wyrcli" in f.filename] or list(frames)
    where = f"{Path(ours[-1].filename).name}:{ours[-1].name}" if ours else "?"
    last = f" <- {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__} in {where}{last}"


def run_case(part: str, seed: int, number: int, folder: Path) -> tuple[str, Finding | None]:
    """Run one case in a folder that is empty before and after; returns its kind, and what was found."""
    check = load_part(part)
    generator = random.Random(f"{seed}/{part}/{number}")
    inside = folder / "case"
    inside.mkdir()
    kinds: list[str] = []
    before = open_descriptors()
    old = signal.signal(signal.SIGALRM, _alarm)
    timer = signal.setitimer(signal.ITIMER_REAL, CASE_SECONDS)  # somebody else's, as pytest has one
    faulthandler.dump_traceback_later(3 * CASE_SECONDS, exit=True)
    begun = time.monotonic()
    error: BaseException | None = None
    try:
        with silence(folder / "said"), warnings.catch_warnings():
            warnings.simplefilter("error")
            check(generator, inside, kinds)
        check_descriptors(before)
    except (Exception, HangError) as caught:
        error = caught
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
        signal.setitimer(signal.ITIMER_REAL, *timer)
        shutil.rmtree(inside, ignore_errors=True)
    if time.monotonic() - begun > SLOW_SECONDS:
        kinds.append("slow")
    kind = " ".join(kinds) or "?"
    if error is None:
        return kind, None
    text = "".join(traceback.format_exception(error, limit=-12))[-6000:]
    return kind, Finding(part, number, cause_of(error), f"{kind}\n{text}")


def load_part(part: str) -> Callable[[random.Random, Path, list[str]], None]:
    """The check of a part: it raises whatever is wrong, and appends words on what the case is."""
    if part == "readers":
        import fuzz_readers

        return fuzz_readers.check
    import fuzz_writers

    return fuzz_writers.check


# ---------------------------------------------------------------- many cases


def scratch() -> str | None:
    """A place for files that is memory, where there is one: outputs are synced to the disk."""
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None


def run_cases(
    part: str,
    seed: int,
    seconds: float,
    tell: Callable[[int, str, Finding | None], None],
    start: int = 0,
    begin: Callable[[int], None] = lambda number: None,
) -> None:
    """Run cases in this process until the time is over."""
    end = time.monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="wyr-fuzz-", dir=scratch()) as name:
        number = start
        while time.monotonic() < end:
            begin(number)
            kind, finding = run_case(part, seed, number, Path(name))
            if finding is not None and finding.cause.startswith(HangError.__name__):
                # A machine that is too busy stops, too: what hangs, hangs twice.
                kind, finding = run_case(part, seed, number, Path(name))
                kind += " stalled"
            tell(number, kind, finding)
            number += 1


def _child(part: str, seed: int, seconds: float, start: int, current: Any, sink: Any) -> None:
    def begin(number: int) -> None:
        current.value = number

    # Of damaged CRAM, htslib (1.24) asks for 6 GB now and then, which takes 20 s.
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    run_cases(part, seed, seconds, lambda *told: sink.send(told), start, begin)
    sink.send(None)
    sink.close()


def fuzz_part(part: str, seed: int, seconds: float) -> dict[str, Any]:
    """Run a part's cases in child processes, one after the other, each until it ends or dies."""
    context = multiprocessing.get_context("spawn")
    begun = time.monotonic()
    cases, kinds, findings = 0, Counter[str](), list[Finding]()
    start = 0
    while (left := seconds - (time.monotonic() - begun)) > 0:
        source, sink = context.Pipe(duplex=False)
        current = context.Value("q", start)
        child = context.Process(target=_child, args=(part, seed, left, start, current, sink))
        child.start()
        sink.close()
        ended = False
        try:
            while (told := source.recv()) is not None:
                _, kind, finding = told
                cases += 1
                kinds.update(kind.split())
                if finding is not None:
                    findings.append(Finding(*finding))
                    print(f"{part} case {finding[1]}: {finding[2]}", file=sys.stderr, flush=True)
            ended = True
        except EOFError:
            pass
        child.join()
        if ended:
            break
        cases += 1
        died = f"the process died, exit code {child.exitcode}"
        findings.append(Finding(part, current.value, died, died))
        print(f"{part} case {current.value}: {died}", file=sys.stderr, flush=True)
        start = current.value + 1
    causes: dict[str, list[Finding]] = {}
    for finding in findings:
        causes.setdefault(finding.cause, []).append(finding)
    return {
        "seconds": round(time.monotonic() - begun, 1),
        "cases": cases,
        "kinds": dict(sorted(kinds.items())),
        "findings": len(findings),
        "causes": {
            cause: {"times": len(found), "examples": [[f.case, f.text] for f in found[:_CAUSES_SHOWN]]}
            for cause, found in causes.items()
        },
    }


def main() -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--minutes", type=float, default=1.0, help="in all; parts share them evenly")
    parser.add_argument("--only", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--case", type=int, help="run this case alone, in this process (needs --only)")
    options = parser.parse_args()
    if options.case is not None:
        if options.only == "all":
            parser.error("--case needs --only readers or --only writers")
        with tempfile.TemporaryDirectory(prefix="wyr-fuzz-", dir=scratch()) as name:
            kind, finding = run_case(options.only, options.seed, options.case, Path(name))
        print(finding.text if finding is not None else f"{kind}: nothing found")
        return int(finding is not None)
    parts = PARTS if options.only == "all" else (options.only,)
    report: dict[str, Any] = {
        "seed": options.seed,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    for part in parts:
        report[part] = fuzz_part(part, options.seed, 60 * options.minutes / len(parts))
    json.dump(report, sys.stdout, indent=1, ensure_ascii=True)
    print()
    return int(any(report[part]["findings"] for part in parts))


if __name__ == "__main__":
    sys.exit(main())
