"""Many processes, shards, runs that were killed, memory that is short: the same bytes, and no read lost."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import MIXED, TAXONOMY, TOKENIZER, as_windows, explainer, explanandum, sequences

from wyrcli import workers
from wyrcli.answers import Answer, from_bytes, is_out_of_memory, pack_answer, to_bytes, unpack_answer
from wyrcli.cli import main
from wyrcli.cli.options import set_threads
from wyrcli.errors import DeviceError, InputError, WyrError
from wyrcli.explanation import Explanation, Window
from wyrcli.inference import Numbered, choose_devices, explain, pool_windows
from wyrcli.inputs import InputOptions, new_counts, open_windows
from wyrcli.installed import default_model
from wyrcli.journal import Journal
from wyrcli.model.explanandum import Explanandum
from wyrcli.outputs import open_output
from wyrcli.reads import ReadStream, SomeReads
from wyrcli.scoring import BaseResolution, Scores
from wyrcli.sequences import Read
from wyrcli.shards import Shard, find_sections, find_shard, share_sections
from wyrcli.targets import Question, ask
from wyrcli.windows import RecordCounts
from wyrcli.workers import Recipe, Respondent, Workers, pack_texts, read_reply

CPU = torch.device("cpu")
NAMES = ("x.bed", "x.bed.gz", "x.gff3", "x.jsonl.gz", "x.bedgraph")
FAST = ("-q", "--threads", "1", "-b", "1", "--on-error", "skip", "--precision", "fp32")

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Run ``wyr`` in this process: exit code and stderr."""

    def call(*arguments: object) -> tuple[int, str]:
        capfd.readouterr()
        code = main([str(a) for a in arguments])
        return code, capfd.readouterr()[1]

    return call


@pytest.fixture(scope="session")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reads of many lengths, one of several windows, and some of each kind that is skipped."""
    rng = random.Random(3)
    path = tmp_path_factory.mktemp("scale") / "reads.fa"
    lengths = [1500, 300, 150, 4, 4000, 90, 1500, 0, *(rng.choice([150, 700, 1500]) for _ in range(42))]
    lines = [f">r{i % 40}\n{''.join(rng.choices('ACGT', k=n))}\n" for i, n in enumerate(lengths)]
    lines[20] = ">odd\nACGT?ACGTACGT\n"
    path.write_text(">first\nACG\n" + "".join(lines) + ">n\nNNNNNNNNNNNN\n")
    return path


def wanted(folder: Path, more: Sequence[str] = ()) -> list[object]:
    """Outputs whose parts can be put behind one another; a bedGraph has room for one target only."""
    names = NAMES[:-1] if more else NAMES
    outputs = [word for name in names for word in ("-o", folder / name)]
    rest = {
        "--tokens": "t.tsv.gz",
        "--predictions": "p.tsv",
        "--kraken-output": "k.tsv",
        "--safe-names": "n.tsv",
    }
    return [*outputs, *(word for option, name in rest.items() for word in (option, folder / name))]


def contents(folder: Path) -> dict[str, bytes]:
    """The files of a folder, without indexes and reports."""
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir()) if p.suffix not in (".tbi", ".json")}


MORE = {"plain": [], "two targets": ["--top-k", "2", "--overlap", "60"]}


@pytest.fixture(scope="session", params=MORE)
def single(
    reads: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[list[str], Path]:
    """Options, and the outputs of one run in one process."""
    folder = tmp_path_factory.mktemp("single")
    more = MORE[request.param]
    arguments = ["explain", reads, *wanted(folder, more), "--json", folder / "r.json", *more, *FAST]
    assert main([str(a) for a in arguments]) == 0
    return more, folder


# ---------------------------------------------------------------- sections and shards


texts = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 30)), max_size=40)


def make_windows(shape: list[tuple[int, int]]) -> list[Window]:
    """Records of so many windows of so many bases."""
    found = []
    for record, (n, length) in enumerate(shape):
        found += [Window(record, "r", i * length, (i + 1) * length, "A" * length) for i in range(n)]
    return found


@settings(max_examples=60)
@given(shape=texts, batch=st.sampled_from([1, 8, 40]), total=st.integers(1, 5))
def test_batches_of_a_shard_are_those_of_the_whole(
    shape: list[tuple[int, int]], batch: int, total: int
) -> None:
    """Shards part the records among them, and cut them into the same batches; borders come in time."""
    windows = make_windows(shape)
    borders: list[int] = []
    whole = [[w.window for w in b] for b in pool_windows(windows, TOKENIZER, batch, borders.append)]
    sections, tokens = find_sections(windows, TOKENIZER, batch)
    assert [section.first for section in sections[1:]] == borders
    together, end = [], 0
    for number in range(total):
        first, stop = share_sections(sections, tokens, Shard(number, total))
        if (first, stop) == (0, 0):
            continue
        assert first == end
        end = len(shape) if stop is None else stop
        own = [w for w in windows if first <= w.record < end]
        together += [[w.window for w in b] for b in pool_windows(own, TOKENIZER, batch)]
    assert together == whole and end == len(shape)


def test_shards_are_of_like_size() -> None:
    """None has more than a section above its share."""
    windows = make_windows([(1, 10)] * 1000)
    sections, tokens = find_sections(windows, TOKENIZER, 6)
    parts = [share_sections(sections, tokens, Shard(i, 7)) for i in range(7)]
    sizes = [(stop or 1000) - first for first, stop in parts]
    assert sum(sizes) == 1000 and max(sizes) - min(sizes) <= 2 * 8


ARRAY = {
    "SLURM_ARRAY_TASK_ID": "7",
    "SLURM_ARRAY_TASK_COUNT": "3",
    "SLURM_ARRAY_TASK_MIN": "5",
    "SLURM_ARRAY_TASK_MAX": "9",
    "SLURM_ARRAY_TASK_STEP": "2",
}


@pytest.mark.parametrize(
    ("text", "environment", "expected"),
    [
        ("1/1", {}, (0, 1)),
        ("3/3", ARRAY, (2, 3)),
        ("auto", ARRAY, (1, 3)),
        ("auto", {**ARRAY, "RANK": "0", "WORLD_SIZE": "2"}, (1, 3)),
        ("auto", {"RANK": "1", "WORLD_SIZE": "2"}, (1, 2)),
        ("auto", {"RANK": "2", "WORLD_SIZE": "2"}, None),
        ("auto", {"RANK": "x", "WORLD_SIZE": "2"}, None),
        ("auto", {}, None),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_ID": "6"}, None),
        ("auto", {**ARRAY, "SLURM_ARRAY_TASK_COUNT": "4"}, None),
        ("auto", {"SLURM_ARRAY_TASK_ID": "1"}, None),
        *((text, {}, None) for text in ("0/3", "4/3", "1", "1/0", "-1/3", "a/b", "", "1/3/5")),
    ],
)
def test_which_shard(text: str, environment: dict[str, str], expected: tuple[int, int] | None) -> None:
    """Said, or told by Slurm or torchrun."""
    if expected is None:
        with pytest.raises(ValueError, match=r"expected|auto: "):
            find_shard(text, environment)
    else:
        assert find_shard(text, environment) == expected


def test_shards_are_the_bytes_of_a_single_run(
    run: Run, reads: Path, single: tuple[list[str], Path], tmp_path: Path
) -> None:
    """Every text output, plain and BGZF; and every record is in one shard's report."""
    more, folder = single
    whole, parts, reports = contents(folder), [], []
    for number in range(4):
        part = tmp_path / str(number)
        part.mkdir()
        shard = ["--shard", f"{number + 1}/4", "--json", part / "r.json"]
        code, err = run("explain", reads, *wanted(part, more), *more, *FAST, *shard)
        assert code == 0, err
        parts.append(contents(part))
        reports.append(json.loads((part / "r.json").read_text()))
    assert {name: b"".join(part[name] for part in parts) for name in whole} == whole
    assert sum(not part["p.tsv"] for part in parts) == 0
    report = json.loads((folder / "r.json").read_text())
    for count in ("records", "bases", "windows", "records_windowed"):
        assert sum(r["read"][count] for r in reports) == report["read"][count] > 0
    skipped = [r["read"]["records_skipped"] for r in reports]
    for reason, n in report["read"]["records_skipped"].items():
        assert sum(own.get(reason, 0) for own in skipped) == n > 0
    assert sum(r["written"]["chunks"] for r in reports) == report["written"]["chunks"] > 0
    assert [r["execution"]["shard"] for r in reports] == ["1/4", "2/4", "3/4", "4/4"]


@pytest.mark.parametrize("rename", [False, True])
def test_some_of_the_records(reads: Path, rename: bool) -> None:
    """Of reads and of texts: their windows, names and counts are those of the whole."""
    texts = reads.with_name("x.txt")
    texts.write_text("".join(f"to be or not {i}\n\n" for i in range(9)))
    for path, tokenizer in ((reads, TOKENIZER), (texts, TextTokens())):
        options = InputOptions(lenient=path is reads, rename_duplicates=rename and path is reads)

        def take(
            records: tuple[int, int | None] | None,
            skipped: list[object],
            path: Path = path,
            tokenizer: Any = tokenizer,
            options: InputOptions = options,
        ) -> tuple[list[Window], RecordCounts]:
            counts = new_counts(tokenizer.alphabet)
            some = replace(options, records=records)
            told = lambda *about: skipped.append(about)  # noqa: E731
            return list(open_windows([str(path)], tokenizer, 300, counts, some, told)), counts

        told: list[object] = []
        whole, counts = take(None, told)
        told_of_parts: list[object] = []
        parts = [take(part, told_of_parts) for part in ((0, 3), (3, 3), (3, 11), (11, None), (500, None))]
        assert [window for windows, _ in parts for window in windows] == whole
        assert told_of_parts == told and len(told) > 1
        for name in ("records", "bases", "windows", "windowed", "renamed"):
            assert sum(getattr(own, name) for _, own in parts) == getattr(counts, name)


class TextTokens:
    """A token for each character."""

    alphabet, max_tokens = "text", 8

    def count_tokens(self, text: str) -> int:
        return len(text)


def test_alignments_left_out_are_counted_once() -> None:
    """By the shard whose record they come before."""

    class Source(ReadStream):
        def __init__(self, counts: RecordCounts) -> None:
            self.items, self.counts = iter(range(10)), counts

        def __next__(self) -> Read:
            self.counts.left_out["secondary"] = self.counts.left_out.get("secondary", 0) + 2
            return Read(f"r{next(self.items)}", "ACGT")

        def close(self) -> None: ...

        def error(self, message: str, name: str | None = None) -> InputError:
            return InputError(message)

    totals = []
    for first, stop in ((0, 4), (4, 7), (7, 10)):
        counts = RecordCounts()
        names = [read.name for read in SomeReads(Source(counts), counts, first, stop)]
        assert names == [f"r{i}" for i in range(first, stop)]
        totals.append(counts.left_out["secondary"])
    assert totals == [8, 6, 6]


def test_more_shards_than_sections(run: Run, tmp_path: Path) -> None:
    """Some have nothing to write; the whole is still the whole."""
    reads = tmp_path / "x.fa"
    reads.write_text(">a\nACGTTGCAACGTACCA\n")
    run("explain", reads, "-o", tmp_path / "x.bed.gz", "--no-index", *FAST)
    for number in (1, 2, 3):
        shard = ["--shard", f"{number}/3"]
        assert run("explain", reads, "-o", tmp_path / f"{number}.bed.gz", *FAST, *shard) == (0, "")
    parts = [(tmp_path / f"{number}.bed.gz").read_bytes() for number in (1, 2, 3)]
    assert b"".join(parts) == (tmp_path / "x.bed.gz").read_bytes()


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--shard", "0/3"], 2, "expected i/n"),
        (["--shard", "1/2", "--kraken-report", "r"], 2, "--kraken-report is of all reads"),
        (["--shard", "1/2", "--index"], 2, "a part has no index"),
        (["--processes", "-1"], 2, "--processes"),
        (["--device", "cpu,cpu"], 1, "'cpu' is named twice"),
        (["--engine", "ray", "--device", "cuda:0"], 2, "Ray chooses the GPUs"),
    ],
)
def test_what_does_not_go_together(
    run: Run, reads: Path, tmp_path: Path, options: list[str], code: int, message: str
) -> None:
    """A usage error, or one line, and nothing is written."""
    found, err = run("explain", reads, "-o", tmp_path / "x.bed", *FAST, *options)
    assert found == code and message in " ".join(err.replace("│", " ").split())
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("option", [["--shard", "1/2"], ["--resume"]])
def test_what_is_read_twice_must_be_a_file(run: Run, reads: Path, tmp_path: Path, option: list[str]) -> None:
    """No standard input, no named pipe."""
    os.mkfifo(tmp_path / "x.fa")
    for path in ("-", tmp_path / "x.fa"):
        code, err = run("explain", path, "-o", tmp_path / "x.bed", *option)
        assert code == 2 and "reads its input twice" in " ".join(err.replace("│", " ").split())
    code, err = run("explain", reads, "--resume", *FAST)
    assert code == 2 and "needs an output that is a file" in " ".join(err.replace("│", " ").split())


# ---------------------------------------------------------------- killed and resumed

KILLED = """
import os, signal, sys
from wyrcli import journal
from wyrcli.cli import main
journal.SECONDS = 0.0
write = journal.Journal._write
def write_and_die(self):
    write(self)
    if self._next >= int(sys.argv[1]):
        os.kill(os.getpid(), signal.SIGKILL)
journal.Journal._write = write_and_die
main(sys.argv[2:])
"""


@pytest.mark.parametrize("single", ["plain"], indirect=True)
def test_a_killed_run_goes_on(
    reads: Path, run: Run, single: tuple[list[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed twice; the outputs are those of a run that was not, and no batch was asked for again."""
    more, folder = single
    out = tmp_path / "out"
    out.mkdir()
    report = ["--json", tmp_path / "r.json"]
    arguments = list(map(str, ["explain", reads, *wanted(out, more), *more, *FAST, "--resume", *report]))
    kept = out / "x.bed.resume"
    for batches in (3, 11):
        killed = subprocess.run([sys.executable, "-c", KILLED, str(batches), *arguments], capture_output=True)
        assert killed.returncode == -signal.SIGKILL, killed.stderr
        assert kept.is_dir() and not (out / "x.bed").exists()
    (kept / ".answers-of-a-kill.0123").write_text("half")
    asked = []
    classify = Explanandum.classify
    monkeypatch.setattr(Explanandum, "classify", lambda *a, **k: asked.append(1) or classify(*a, **k))
    code, err = run(*arguments)
    assert code == 0, err
    assert contents(out) == contents(folder)  # and what the killed runs left is gone
    execution = json.loads((tmp_path / "r.json").read_text())["execution"]
    assert execution["batches_from_before"] == 11
    assert not kept.exists() and 0 < len(asked) < 40


def toy_explain(windows: list[Window], **more: Any) -> list[Explanation]:
    """Explain windows with the toy models."""
    models = (explanandum(), explainer("state"), TOKENIZER, TAXONOMY)
    return list(explain(iter(windows), *models, batch_tokens=20, device=CPU, **more))


def same(first: list[Explanation], second: list[Explanation]) -> bool:
    """Bit for bit."""
    return len(first) == len(second) and all(
        a.window == b.window
        and a.lineage == b.lineage
        and a.probabilities == b.probabilities
        and np.array_equal(a.mask, b.mask)
        and np.array_equal(a.rank_masks, b.rank_masks)
        and a.target == b.target
        for a, b in zip(first, second, strict=True)
    )


def begin(path: Path, windows: list[Window], n: int, **more: Any) -> None:
    """A run that stops behind ``n`` explanations."""
    models = (explanandum(), explainer("state"), TOKENIZER, TAXONOMY)
    with pytest.raises(KeyboardInterrupt), Journal(path, {"a": 1}) as journal:
        stream = explain(iter(windows), *models, batch_tokens=20, device=CPU, journal=journal, **more)
        for _ in range(n):
            next(stream)
        stream.close()
        raise KeyboardInterrupt


WINDOWS = as_windows([*sequences(40, 10), *MIXED, *sequences(20, 25, letters="ACGTN")])


@pytest.mark.parametrize("n", [1, 30, len(WINDOWS)])
@pytest.mark.parametrize("per_base", [None, BaseResolution(both_strands=True)])
def test_what_a_journal_holds_is_not_asked_again(
    tmp_path: Path, n: int, per_base: BaseResolution | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Answers come from the disk as they went there, whatever was asked."""
    more = {"question": ask(TAXONOMY, top_k=2), "per_base": per_base}
    whole = toy_explain(WINDOWS, **more)
    begin(tmp_path / "j", WINDOWS, 2 * n, **more)
    asked = []
    classify = Explanandum.classify
    monkeypatch.setattr(Explanandum, "classify", lambda *a, **k: asked.append(1) or classify(*a, **k))
    with Journal(tmp_path / "j", {"a": 1}) as journal:
        stored = journal.stored
        assert same(toy_explain(WINDOWS, journal=journal, **more), whole)
    frames = 1 if per_base is None else 4
    n_batches = len(list(pool_windows(WINDOWS, TOKENIZER, 20)))
    assert len(asked) == frames * (n_batches - stored) and stored > 0
    assert not (tmp_path / "j").exists()


def test_journals_that_do_not_fit(tmp_path: Path) -> None:
    """Of another run, of another input, of a run that is at work, or no journal: one line each."""
    path = tmp_path / "j"
    begin(path, WINDOWS, 10)
    with pytest.raises(WyrError, match=r"begun here differs: a 1 \(now 2\)"):
        Journal(path, {"a": 2})
    with Journal(path, {"a": 1}), pytest.raises(WyrError, match="another run is at work"):
        Journal(path, {"a": 1})
    begin(path, WINDOWS, 10)
    with pytest.raises(WyrError, match="kept of another input"), Journal(path, {"a": 1}) as journal:
        toy_explain(as_windows(sequences(40, 10, seed=8)), journal=journal)
    with pytest.raises(WyrError, match="kept of another input"), Journal(path, {"a": 1}) as journal:
        toy_explain([], journal=journal)
    with pytest.raises(WyrError, match="damaged"), Journal(path, {"a": 1}) as journal:
        (file,) = path.glob("answers-*")
        file.write_bytes(file.read_bytes()[:-7])
        toy_explain(WINDOWS, journal=journal)
    (path / "run.json").write_text("{")
    with pytest.raises(WyrError, match=r"run\.json cannot be read"):
        Journal(path, {"a": 1})
    (path / "run.json").unlink()
    with pytest.raises(WyrError, match="holds no answers"):
        Journal(path, {"a": 1})
    with pytest.raises(WyrError, match="cannot keep answers"):
        Journal(tmp_path / "no" / "j", {})


def test_a_gap_in_a_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies behind a file that is missing is done again."""
    monkeypatch.setattr("wyrcli.journal.SECONDS", 0.0)
    begin(tmp_path / "j", WINDOWS, 40)
    files = sorted((tmp_path / "j").glob("answers-*"))
    assert len(files) > 4
    files[2].unlink()
    with Journal(tmp_path / "j", {"a": 1}) as journal:
        assert journal.stored == 2
        assert same(toy_explain(WINDOWS, journal=journal), toy_explain(WINDOWS))


def test_a_run_that_answered_nothing_leaves_nothing(tmp_path: Path) -> None:
    """A wrong option may have ended it."""
    with pytest.raises(KeyboardInterrupt), Journal(tmp_path / "j", {}):
        raise KeyboardInterrupt
    assert not list(tmp_path.iterdir())


def test_resume_refuses_another_input(run: Run, reads: Path, tmp_path: Path) -> None:
    """A file that was changed since, or another question: exit 1, one line, and the answers stay."""
    own = tmp_path / "own.fa"
    own.write_bytes(reads.read_bytes())
    arguments = ["explain", own, "-o", tmp_path / "x.bed", *FAST, "--resume"]
    killed = [sys.executable, "-c", KILLED, "2", *map(str, arguments)]
    assert subprocess.run(killed, capture_output=True).returncode == -signal.SIGKILL
    for change in (["-b", "2"], ["--rank", "genus"], ["--mask-lower", "n"], ["--resolution", "base"]):
        code, err = run(*arguments, *change)
        assert code == 1 and "differs" in err and err.count("\n") == 1
    os.utime(own, (1, 1))
    code, err = run(*arguments)
    assert code == 1 and "own.fa" in err and (tmp_path / "x.bed.resume").is_dir()


def test_a_second_run_on_one_output(run: Run, reads: Path, tmp_path: Path) -> None:
    """Is refused before the work begins."""
    with open_output(str(tmp_path / "x.bed")):
        code, err = run("explain", reads, "-o", tmp_path / "x.bed", *FAST)
        assert (
            code == 1 and err == f"wyr: error: cannot write {tmp_path}/x.bed: another run is writing it now\n"
        )


# ---------------------------------------------------------------- short of memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("per_base", [None, BaseResolution(both_strands=True, sharpened=True)])
def test_batches_are_halved_where_memory_is_short(
    error: Exception, per_base: BaseResolution | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same masks, no window lost; and later batches are halved before they fail."""
    windows = as_windows([*sequences(64, 10), *MIXED])
    models = (explanandum(), explainer("state"), TOKENIZER, TAXONOMY)
    more: dict[str, Any] = {"batch_tokens": 64, "device": CPU, "per_base": per_base}
    whole = list(explain(iter(windows), *models, **more))
    sizes, failed = [], 0
    classify = Explanandum.classify

    def limited(self: Explanandum, batch: Any, *rest: Any) -> Any:
        nonlocal failed
        if len(batch) > 3:
            failed += 1
            raise error
        sizes.append(len(batch))
        return classify(self, batch, *rest)

    monkeypatch.setattr(Explanandum, "classify", limited)
    halved = list(explain(iter(windows), *models, **more))
    assert [e.window for e in halved] == windows
    for a, b in zip(whole, halved, strict=True):
        assert a.lineage == b.lineage
        np.testing.assert_allclose(a.rank_masks, b.rank_masks, atol=1e-5)
    assert max(sizes) <= 3 and failed <= 4


def test_a_window_that_does_not_fit_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says which; also where a worker met it.  Other errors are not taken for this one."""
    classify = Explanandum.classify

    def limited(self: Explanandum, batch: Any, *rest: Any) -> Any:
        if batch.valid.sum(-1).max() > 8:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return classify(self, batch, *rest)

    monkeypatch.setattr(Explanandum, "classify", limited)
    windows = [Window(i, f"r{i}", 0, n, "A" * n) for i, n in enumerate([8, 10, 40, 9])]
    models = (explanandum(), explainer("state"), TOKENIZER, TAXONOMY)
    with pytest.raises(WyrError, match=r"out of memory at 'r2', 0 to 40"):
        list(explain(iter(windows), *models, batch_tokens=99, device=CPU))
    respondent = Respondent(demo_recipe())
    batch = [Numbered(i, window._replace(sequence="A" * 60)) for i, window in enumerate(windows)]
    with pytest.raises(WyrError, match=r"out of memory at 'r0'"):
        read_reply(respondent.reply(pack_texts(batch)), batch)
    assert not is_out_of_memory(RuntimeError("shapes cannot be multiplied"))
    assert not is_out_of_memory(ValueError("out of memory"))


# ---------------------------------------------------------------- workers


def demo_recipe(**more: Any) -> Recipe:
    """The demo model on this CPU."""
    values = {"device": "cpu", "precision": "torch.float32", "threads": 1, "question": Question(), **more}
    return Recipe(str(default_model()), "state", "gate", **values)


def test_an_answer_as_bytes() -> None:
    """Comes back as it was; half of it is an error."""
    rng = np.random.default_rng(0)
    scores = Scores(rng.random((2, 3, 2)), rng.random((2, 3, 1)), rng.random((2, 1)), True)
    for own in (None, scores, scores._replace(agreement=None, per_base=False)):
        answer = Answer(np.array([[1, 2], [3, 4]]), rng.random((2, 2)), scores=own)
        content = to_bytes(pack_answer(answer))
        found = unpack_answer(from_bytes(content))
        assert np.array_equal(found.classes, answer.classes) and found.asked is None
        assert (found.scores is None) == (own is None)
        if own is not None:
            assert found.scores is not None and found.scores.per_base is own.per_base
            assert np.array_equal(found.scores.masks, own.masks)
            assert (found.scores.agreement is None) == (own.agreement is None)
        with pytest.raises(ValueError, match=r".+"):
            from_bytes(content[:-1])
    with pytest.raises(ValueError, match="without 'classes'"):
        unpack_answer({})


def test_what_a_worker_cannot_do_is_told(tmp_path: Path) -> None:
    """A user's mistake as such, a defect with its traceback."""
    respondent = Respondent(demo_recipe())
    batch = [Numbered(0, Window(0, "r", 0, 6, "ACGTAC"))]
    with pytest.raises(RuntimeError, match="in a worker:\nTraceback"):
        read_reply(respondent.reply(to_bytes({"lengths": np.array([1])})), batch)
    with pytest.raises(RuntimeError, match="1 windows were sent to a worker, and 2 came back"):
        read_reply(respondent.reply(pack_texts(batch * 2)), batch)
    with Workers([broken_recipe(tmp_path)]) as engine:
        with pytest.raises(WyrError, match="not a wyr checkpoint"):
            list(engine(iter([(batch, _readings(batch))])))
    assert not multiprocessing.active_children()


def broken_recipe(path: Path) -> Recipe:
    """A model that is not there."""
    return Recipe(str(path), "state", "gate", "cpu", "torch.float32", 1, Question())


def _readings(batch: list[Numbered]) -> Any:
    from wyrcli.inference import read_texts

    return read_texts(TOKENIZER, [numbered.window.sequence for numbered in batch], CPU, None)


def kill_at_sends(monkeypatch: pytest.MonkeyPatch, signals: dict[int, int]) -> list[int]:
    """Have the workers that get these messages killed or stopped; returns the list of those who were."""
    send, count = workers._Worker.send, [0]
    killed: list[int] = []

    def send_and_kill(self: Any, task: Any) -> None:
        send(self, task)
        count[0] += 1
        if count[0] in signals:
            os.kill(self.process.pid, signals[count[0]])
            killed.append(self.process.pid)

    monkeypatch.setattr(workers._Worker, "send", send_and_kill)
    return killed


@pytest.mark.parametrize("single", ["plain"], indirect=True)
def test_two_processes_give_the_same_bytes(
    run: Run, reads: Path, tmp_path: Path, single: tuple[list[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a worker is killed, and where one falls silent."""
    more, folder = single
    monkeypatch.setattr(workers, "SILENCE", 10.0)
    lost = kill_at_sends(monkeypatch, {7: signal.SIGKILL, 12: signal.SIGSTOP})
    code, err = run("explain", reads, *wanted(tmp_path, more), *more, *FAST, "--processes", "2")
    assert code == 0, err
    assert contents(tmp_path) == contents(folder)
    assert len(lost) == 2 and not multiprocessing.active_children()


def test_a_batch_that_kills_its_workers(
    run: Run, reads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ends the run after three of them: one line, no output, nobody left."""
    killed = kill_at_sends(monkeypatch, dict.fromkeys(range(100), signal.SIGKILL))
    code, err = run("explain", reads, "-o", tmp_path / "x.bed", *FAST, "--processes", "1")
    assert code == 1 and err.count("\n") == 1
    assert "3 workers ended at the batch" in err and "signal SIGKILL" in err
    assert len(set(killed)) == 3 and not list(tmp_path.iterdir())
    assert not multiprocessing.active_children()


def children_of(pid: int) -> list[int]:
    """The processes that a process has begun."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(word) for task in tasks for word in task.read_text().split()]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_run(tmp_path: Path, number: int) -> None:
    """Ctrl-C goes to all of them in a terminal: one line and 130.  A killed run leaves no process either."""
    fifo = tmp_path / "reads.fa"
    os.mkfifo(fifo)
    command = [sys.executable, "-m", "wyrcli", "explain", str(fifo), "-o", str(tmp_path / "x.bed"), "-q"]
    with subprocess.Popen(
        [*command, "--processes", "1", "-b", "1"], stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        with fifo.open("w") as writer:
            rng = random.Random(1)
            for i in range(40):
                writer.write(f">r{i}\n{''.join(rng.choices('ACGT', k=1500))}\n")
            writer.flush()
            deadline = time.monotonic() + 60
            while len(children := children_of(process.pid)) < 2 and time.monotonic() < deadline:
                time.sleep(0.05)  # a worker, and Python's tracker of resources
            time.sleep(1)
            os.killpg(process.pid, number) if number == signal.SIGINT else process.kill()
            _, err = process.communicate(timeout=60)
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{child}").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children and not any(Path(f"/proc/{child}").exists() for child in children)
    if number == signal.SIGINT:
        assert (process.returncode, err) == (130, b"wyr: interrupted\n")
        assert [p.name for p in tmp_path.iterdir()] == ["reads.fa"]


# ---------------------------------------------------------------- devices and threads


def test_several_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    """By number, or all; never two names for one."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    gpus = [torch.device("cuda", i) for i in range(3)]
    assert choose_devices("cuda:all") == gpus and choose_devices("cuda:2,cuda:0") == [gpus[2], gpus[0]]
    assert choose_devices("cuda") == [torch.device("cuda")] and choose_devices("cpu") == [CPU]
    for name in ("cuda:0,cuda:0", "cuda,cuda:1", "cpu,cuda:0", "cuda:3,cuda:0", "cuda:0,", ",", ""):
        with pytest.raises(DeviceError, match="device"):
            choose_devices(name)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(DeviceError, match="0 CUDA GPUs"):
        choose_devices("cuda:all")


def test_threads_are_those_that_the_scheduler_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the CPUs that the process may use, as many as Slurm gave the task; processes share them."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    for number, expected in (("", 8), ("3", 3), ("64", 8), ("0", 8), ("x", 8)):
        monkeypatch.setenv("SLURM_CPUS_PER_TASK", number)
        assert set_threads(0) == expected
    assert set_threads(2) == 2
    recipes = workers.make_recipes(demo_recipe(threads=8), [CPU], 3)
    assert [recipe.threads for recipe in recipes] == [2, 2, 2]
    pair = [torch.device("cuda", 0), torch.device("cuda", 1)]
    recipes = workers.make_recipes(demo_recipe(threads=1), pair, 2)
    assert [(r.device, r.threads) for r in recipes] == [
        ("cuda:0", 1), ("cuda:0", 1), ("cuda:1", 1), ("cuda:1", 1),
    ]  # fmt: skip


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU on this machine")
def test_gpus_give_the_same_bytes(run: Run, reads: Path, tmp_path: Path) -> None:
    """One process on one GPU, two on the same, one on each."""
    found = []
    for i, options in enumerate((["cuda:0"], ["cuda:0", "--processes", "2"], ["cuda:all"])):
        folder = tmp_path / str(i)
        folder.mkdir()
        code, err = run("explain", reads, *wanted(folder), *FAST, "--device", *options)
        assert code == 0, err
        found.append(contents(folder))
    assert found[0] == found[1] == found[2]


# ---------------------------------------------------------------- Ray


@pytest.mark.skipif(find_spec("ray") is None, reason="Ray is not installed")
@pytest.mark.parametrize("single", ["plain"], indirect=True)
@pytest.mark.timeout(280)
def test_ray_gives_the_same_bytes(reads: Path, tmp_path: Path, single: tuple[list[str], Path]) -> None:
    """Two actors on this machine.  In a process of its own: Ray warns, and leaves threads behind."""
    more, folder = single
    command = [sys.executable, "-m", "wyrcli", "explain", reads, *wanted(tmp_path, more), *more, *FAST]
    options = ["--engine", "ray", "--processes", "2", "--device", "cpu", "--json", tmp_path / "r.json"]
    options = list(map(str, options))
    patient = {**os.environ, "RAY_worker_niceness": "0"}  # 15 by default: a busy machine never gets to it
    done = subprocess.run([*map(str, command), *options], capture_output=True, text=True, env=patient)
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path) == contents(folder)
    execution = json.loads((tmp_path / "r.json").read_text())["execution"]
    assert (execution["engine"], execution["processes"]) == ("ray", 2)


def test_ray_is_asked_for_but_not_there(
    run: Run, reads: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the extra."""
    monkeypatch.setitem(sys.modules, "ray", None)
    code, err = run("explain", reads, "-o", tmp_path / "x.bed", *FAST, "--engine", "ray")
    assert code == 1 and "pip install 'wyrcli[ray]'" in err and err.count("\n") == 1
    assert not list(tmp_path.iterdir())
