"""Reads of mixed files, mates from two files, names made different, regions, soft masks, pipes."""

from __future__ import annotations

import gzip
import os
import shutil
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy import TOKENIZER

from wyrcli.cli import main
from wyrcli.errors import InputError, WyrError
from wyrcli.explanation import Window
from wyrcli.inputs import InputOptions, open_windows
from wyrcli.reads import open_reads
from wyrcli.regions import Regions, read_regions
from wyrcli.sequences import Read, normalise
from wyrcli.windows import RecordCounts, split_windows

Write = Callable[[str | bytes], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """A function that puts a text into a new file, and returns its name."""
    numbers = iter(range(100))

    def write_file(text: str | bytes) -> str:
        path = tmp_path / f"dataset_{next(numbers)}"
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path)

    return write_file


def fastq(*names: str, sequence: str = "ACGTTGCAAC") -> str:
    """Records of these header lines."""
    return "".join(f"@{name}\n{sequence}\n+\n{'I' * len(sequence)}\n" for name in names)


def fasta(*names: str, sequence: str = "ACGTTGCAAC") -> str:
    """Records of these header lines."""
    return "".join(f">{name}\n{sequence}\n" for name in names)


def names(paths: list[str], **options: Any) -> list[str]:
    """Of all reads."""
    return [read.name for read in open_reads(paths, RecordCounts(), **options)]


def windows(paths: list[str], size: int = 12, **options: Any) -> tuple[list[Window], RecordCounts]:
    """Of nucleotides."""
    counts = RecordCounts()
    found = list(open_windows(paths, TOKENIZER, size, counts, InputOptions(**options)))
    assert counts.accounted() and counts.windows == len(found)
    return found, counts


# ---------------------------------------------------------------- mates


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["a", "b"], ["a", "b"], ["a/1", "a/2", "b/1", "b/2"]),
        (["a/1", "b/1"], ["a/2", "b/2"], ["a/1", "a/2", "b/1", "b/2"]),
        (["a 1:N:0:AC"], ["a 2:N:0:AC"], ["a/1", "a/2"]),
        (["a.1"], ["a.2"], ["a.1", "a.2"]),
        (["a1"], ["a1"], ["a1/1", "a1/2"]),
        ([], [], []),
    ],
)
def test_mates(write: Write, first: list[str], second: list[str], expected: list[str]) -> None:
    """In turn, with names that tell them apart, from FASTQ, FASTA or one of each."""
    assert names([write(fastq(*first)), write(fastq(*second))], paired=True) == expected
    assert (
        names([write(gzip.compress(fasta(*first).encode())), write(fastq(*second))], paired=True) == expected
    )


def test_pairs_of_files_one_after_the_other(write: Write) -> None:
    """As kraken2 takes them."""
    paths = [write(fastq(name)) for name in ("a", "a", "b", "b")]
    assert names(paths, paired=True) == ["a/1", "a/2", "b/1", "b/2"]
    assert [w.record for w in windows(paths, paired=True)[0]] == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("first", "second", "at", "record", "message"),
    [
        (["a", "b"], ["a", "c"], 1, 2, "is 'b'; expected its mate"),
        (["a", "b", "c"], ["a"], 0, 2, "no mate: .* ends after 1 reads"),
        (["a"], ["a", "b"], 1, 2, "no mate: .* ends after 1 reads"),
        (["a"], [], 0, 1, "ends after 0 reads"),
        (["a/1"], ["a/1"], 1, 1, "both files have this same mate"),
    ],
)
def test_mates_that_are_none(
    write: Write, first: list[str], second: list[str], at: int, record: int, message: str
) -> None:
    """File, record and name, and no read after them."""
    paths = [write(fastq(*first)), write(fastq(*second))]
    with pytest.raises(InputError, match=message) as caught:
        names(paths, paired=True)
    assert (caught.value.path, caught.value.record) == (paths[at], record)
    assert caught.value.name == [first, second][at][record - 1]


def test_files_that_are_no_pair(write: Write) -> None:
    """One file, three files, one file twice, a pipe twice, BAM."""
    path = write(fastq("a"))
    os.symlink(path, path + "_link")
    bam = write(gzip.compress(b"BAM\x01"))
    for paths, message in [
        ([path, bam], "a BAM file has both mates; expected it without --paired"),
        ([path], "in twos"),
        ([path] * 3, "in twos"),
        ([path, path + "_link"], "named for both mates"),
        (["-", "-"], "only once"),
    ]:
        with pytest.raises(InputError, match=message):
            names(paths, paired=True)
    assert main(["explain", path, "--paired"]) == 2


def test_a_malformed_mate_leaves_the_others_in_step(write: Write) -> None:
    """Its mate is explained alone."""
    first = fastq("a") + fastq("b").replace("+\nI", "+\n") + fastq("c")
    second = fastq("a") + fastq("b") + fastq("c").replace("ACG", "A-G")
    found, counts = windows([write(first), write(second)], paired=True, lenient=True)
    assert [(w.record, w.name) for w in found] == [(0, "a/1"), (1, "a/2"), (3, "b/2"), (4, "c/1")]
    assert counts.skipped["malformed"] == counts.skipped["bad_letters"] == 1
    with pytest.raises(InputError) as caught:
        windows([write(fastq("a", "b")), write(second.replace("@b", "@ "))], paired=True)
    assert (caught.value.record, caught.value.name) == (2, "")


def test_a_mate_whose_name_is_not_ascii(write: Write) -> None:
    """A fault of that read alone."""
    first = write(fastq("a/1", "b/1", "c/1"))
    second = write(fastq("a/2", "b/2", "c/2").encode().replace(b"@b", b"@b\xe9"))
    found, counts = windows([first, second], paired=True, lenient=True)
    assert [window.name for window in found] == ["a/1", "a/2", "b/1", "c/1", "c/2"]
    assert counts.skipped["not_ascii"] == 1
    with pytest.raises(InputError, match="0xe9"):
        windows([first, second], paired=True)


def test_errors_of_mates_name_their_file(write: Write) -> None:
    """Letters are looked at when the other file was read already."""
    bad = fastq("a") + fastq("b").replace("ACG", "A-G")
    for paths, at in (([bad, fastq("a", "b")], 0), ([fastq("a", "b"), bad], 1)):
        files = [write(text) for text in paths]
        with pytest.raises(InputError, match="found '-'") as caught:
            windows(files, paired=True)
        assert (caught.value.path, caught.value.record) == (files[at], 2)
        assert caught.value.name == f"b/{at + 1}"


# ---------------------------------------------------------------- names


def test_renamed_duplicates(write: Write) -> None:
    """As seqkit rename, over all files, and never to a name that is taken."""
    counts = RecordCounts()
    paths = [write(fasta("a", "b", "a", "a_2")), write(fasta("a", "b", "a_2", "c"))]
    assert [r.name for r in open_reads(paths, counts, rename=True)] == [
        *("a", "b", "a_2", "a_2_2"),
        *("a_3", "b_2", "a_2_3", "c"),
    ]
    assert counts.renamed == 5
    _, counts = windows(paths, rename_duplicates=True)
    assert counts.duplicate_names == 0 and counts.as_dict()["renamed"] == 5
    assert windows(paths)[1].duplicate_names == 4


@given(st.lists(st.sampled_from(["a", "a_2", "a_2_2", "b", "a_3"]), max_size=20))
def test_renamed_names_are_all_different(
    tmp_path_factory: pytest.TempPathFactory, given_names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("x") / "x.fa"
    path.write_text(fasta(*given_names))
    renamed = names([str(path)], rename=True)
    assert len(set(renamed)) == len(given_names)
    assert all(new.startswith(old) for new, old in zip(renamed, given_names, strict=True))


# ---------------------------------------------------------------- soft masks


@given(st.text(alphabet="ACGTUNRacgtunr", max_size=80))
def test_lower_case_kept_or_masked(sequence: str) -> None:
    """Masked, every lower-case letter is N, and the others are as they were."""
    kept, masked = normalise(sequence), normalise(sequence, mask_lower=True)
    assert kept == normalise(sequence.upper())
    assert masked == "".join("N" if a.islower() else b for a, b in zip(sequence, kept, strict=True))


def test_masked_windows(write: Write) -> None:
    """A window, or a record, all in lower case has nothing to explain; a letter that is none is an error."""
    path = write(">a\nACGTACGTACGTacgtacgtacgtACGTacgtacgt\n>b\nacgtacgt\n")
    found, counts = windows([path], mask_lower=True)
    assert [(w.start, w.sequence) for w in found] == [(0, "ACGTACGTACGT"), (24, "ACGTNNNNNNNN")]
    assert (counts.windows_without_acgt, counts.skipped["no_acgt"]) == (1, 1)
    assert [w.sequence[:4] for w in windows([path])[0]] == ["ACGT", "ACGT", "ACGT", "ACGT"]
    with pytest.raises(InputError, match="found 'e' at position 2"):
        windows([write(">a\nAeCGTACGT\n")], mask_lower=True)


# ---------------------------------------------------------------- regions

GENOME = ">one x\n" + "ACGTTGCA" * 10 + "\n>two\n" + "GGCCA" * 8 + "\n>none\nACGTACGT\n"


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_regions(write: Write, pack: Callable[[bytes], bytes]) -> None:
    """Windows inside them, in record coordinates and order, whatever the order of the file."""
    bed = "# c\ntrack name=x\nbrowser hide\n\ntwo\t4\t24\tname\t0\t+\r\none\t30\t40\none\t3\t15\n"
    found, counts = windows([write(GENOME)], regions=write(pack(bed.encode())))
    assert [(w.name, w.record, w.start, w.stop) for w in found] == [
        ("one", 0, 3, 15),
        ("one", 0, 30, 40),
        ("two", 1, 4, 16),
        ("two", 1, 16, 24),
    ]
    assert all(
        w.sequence == {"one": "ACGTTGCA" * 10, "two": "GGCCA" * 8}[w.name][w.start : w.stop] for w in found
    )
    assert counts.skipped["no_region"] == 1
    assert counts.regions["given"] == counts.regions["taken"] == 3
    assert counts.warnings == []


def test_regions_that_cannot_be_taken(write: Write) -> None:
    """Overlapping ones are merged, touching ones are not; short and unknown ones are told of."""
    bed = "one 0 10\none 8 20\none 20 30\none 40 42\nfar 0 10\nfar 5 8\n"
    found, counts = windows([write(GENOME)], size=24, regions=write(bed))
    assert [(w.start, w.stop) for w in found] == [(0, 20), (20, 30)]
    assert counts.regions == {
        "given": 6, "taken": 2, "merged": 1, "short": 1, "beyond_end": 0, "unknown_name": 2,
    }  # fmt: skip
    (warning,) = counts.warnings
    assert warning == (
        "of 6 regions, some were left out: 2 on names that no usable record has ('far'), 1 too short"
    )


def test_regions_beyond_the_end(write: Write) -> None:
    """Such a file belongs to another sequence: an error, but for who asks for leniency."""
    bed = write("one\t0\t10\none\t70\t81\n")
    with pytest.raises(InputError, match="'one', which has 80 letters") as caught:
        windows([write(GENOME)], regions=bed)
    assert (caught.value.path, caught.value.line) == (bed, 2)
    found, counts = windows([write(GENOME)], regions=bed, lenient=True)
    assert [(w.start, w.stop) for w in found] == [(0, 10)]
    assert counts.regions["beyond_end"] == 1 and "1 end beyond" in counts.warnings[0]
    # A record of which no region is left has none; it is not short.
    bed = write("one\t70\t81\n")
    found, counts = windows([write(GENOME)], regions=bed, lenient=True)
    assert not found and counts.skipped["no_region"] == counts.records and not counts.skipped["short"]


def test_regions_of_something_else(write: Write) -> None:
    """No name in common is an error; but an empty input is not."""
    bed = write("chr1\t0\t10\n")
    with pytest.raises(InputError, match="no record has a name of the regions \\('chr1'\\)"):
        windows([write(GENOME)], regions=bed)
    found, counts = windows([write("")], regions=bed)
    assert found == [] and counts.regions["unknown_name"] == 1


def test_regions_of_nothing_but_n(write: Write) -> None:
    """The record is skipped, as one that is N throughout."""
    path = write(">a\nACGTACGTNNNNNNNN\n>b\nACGTACGT\n")
    found, counts = windows([path], regions=write("a\t8\t16\nb\t0\t8\n"))
    assert [w.name for w in found] == ["b"]
    assert counts.skipped["no_acgt"] == 1


def test_standard_input_is_read_once(write: Write) -> None:
    """By the reads or by the regions."""
    for paths in (["-", "-"], ["-"]):
        with pytest.raises(InputError, match="only once"):
            open_windows(paths, TOKENIZER, 12, RecordCounts(), InputOptions(regions="-"))


def test_records_of_one_name_have_the_same_regions(write: Write) -> None:
    """And the regions are counted once."""
    found, counts = windows([write(fasta("a", "a"))], regions=write("a\t1\t9\n"))
    assert [(w.record, w.start, w.stop) for w in found] == [(0, 1, 9), (1, 1, 9)]
    assert counts.regions["taken"] == counts.regions["given"] == 1


@pytest.mark.parametrize(
    ("bed", "message"),
    [
        ("one\t0\n", "expected BED"),
        ("one\t0\tx\n", "line 1: found 'one.0.x'"),
        ("one\t5\t3\n", "0 <= start <= end"),
        ("one\t-5\t3\n", "0 <= start <= end"),
        ("", "no region"),
        ("#chrom\tstart\tend\n", "no region"),
        (b"\xff\xfe\n", "0xff"),
        (gzip.compress(b"one\t0\t9\n")[:-5], "cut off"),
    ],
)
def test_bad_bed(write: Write, bed: str | bytes, message: str) -> None:
    """Known before any model works."""
    path = write(bed)
    with pytest.raises(InputError, match=message) as caught:
        read_regions(path)
    assert caught.value.path == path


@given(
    st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)).map(sorted), max_size=8),
    st.integers(6, 30),
)
def test_windows_cover_the_regions(places: list[list[int]], size: int) -> None:
    """Each base of a region is in one window, and no other base is in any."""
    regions = Regions("x.bed")
    for line, (start, stop) in enumerate(places):
        regions.add("a", start, stop, line)
    counts = RecordCounts()
    found = split_windows([Read("a", "ACGT" * 25)], size, counts, stretches=regions)
    covered = [i for w in found for i in range(w.start, w.stop)]
    assert covered == sorted({i for start, stop in places if stop - start >= 6 for i in range(start, stop)})
    assert counts.accounted()
    assert sum(regions.counts.values()) == 2 * len(places)


# ---------------------------------------------------------------- memory


def test_a_chromosome_is_not_multiplied(tmp_path: Path) -> None:
    """Of several large records, the most that is ever held is some two copies of one."""
    size = 6_000_000
    lines = "\n".join(["ACGTTGCAgt" * 6] * (size // 60))
    path = tmp_path / "x.fa"
    path.write_text("".join(f">chr{i}\n{lines}\n" for i in range(3)))
    counts = RecordCounts()
    tracemalloc.start()
    for _ in open_windows([str(path)], TOKENIZER, 6000, counts, InputOptions(mask_lower=True)):
        pass
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert counts.bases == 3 * size and counts.windows == 3 * size // 6000
    assert peak < 2.6 * size + 4e6  # the buffers of the reader


# ---------------------------------------------------------------- other alphabets


def test_options_that_mean_nothing(write: Write) -> None:
    """Rather than to ignore them."""

    class Tokenizer:
        alphabet = "text"
        max_tokens = 99

    for options in ({"paired": True}, {"regions": "x"}, {"mask_lower": True}, {"lenient": True}):
        with pytest.raises(WyrError, match="means nothing to a model of texts"):
            open_windows([write("x")], Tokenizer(), 9, RecordCounts(), InputOptions(**options))  # type: ignore[arg-type]


def test_proteins_can_be_skipped_too(write: Write) -> None:
    """Bad letters and headers without a name."""

    class Tokenizer:
        alphabet = "protein"
        max_tokens = 99

        def count_tokens(self, text: str) -> int:
            return len(text) + 2

    path = write(">a\nMKV*\n>b\nMK-V\n>\nMK\n>c\n\n>a\nmkv\n")
    counts, skipped = RecordCounts(), []
    options = InputOptions(lenient=True, rename_duplicates=True)
    found = list(
        open_windows([path], Tokenizer(), 9, counts, options, lambda *record: skipped.append(record))  # type: ignore[arg-type]
    )
    assert [(w.record, w.name, w.sequence) for w in found] == [(0, "a", "MKV*"), (4, "a_2", "MKV")]
    assert skipped == [(1, "b", 4, "bad_letters"), (2, "", 2, "no_name"), (3, "c", 0, "empty")]
    assert counts.accounted()
    with pytest.raises(InputError, match="amino-acid") as caught:
        list(open_windows([path], Tokenizer(), 9, RecordCounts()))  # type: ignore[arg-type]
    assert (caught.value.path, caught.value.record, caught.value.name) == (path, 2, "b")
    with pytest.raises(InputError, match="expected FASTA"):
        list(open_windows([write(fastq("a"))], Tokenizer(), 9, RecordCounts(), options))  # type: ignore[arg-type]


# ---------------------------------------------------------------- pipes

CODE = (
    "import sys; from wyrcli.reads import *; from wyrcli.windows import RecordCounts; "
    "reads = open_reads(sys.argv[1:], RecordCounts(), paired=len(sys.argv) > 2); "
    "print(*(r.name for r in reads))"
)


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash for process substitution")
def test_process_substitution_of_both_mates(write: Write) -> None:
    """wyr explain --paired <(zcat R1.fq.gz) <(zcat R2.fq.gz)."""
    one, two = (write(gzip.compress(fastq("a", "b").encode())) for _ in range(2))
    command = f"{sys.executable} -c '{CODE}' <(gzip -dc < {one}) <(gzip -dc < {two})"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.stdout.split() == ["a/1", "a/2", "b/1", "b/2"], done.stderr


def test_a_fifo_that_drips(tmp_path: Path) -> None:
    """Every byte alone: compression and format are known all the same."""
    path = tmp_path / "fifo"
    os.mkfifo(path)

    def drip() -> None:
        with open(path, "wb", buffering=0) as file:
            for byte in gzip.compress(b"\xef\xbb\xbf\n" + fastq("a", "b").encode()):
                file.write(bytes([byte]))

    writer = threading.Thread(target=drip)
    writer.start()
    assert names([str(path)]) == ["a", "b"]
    writer.join()


def test_closing_early_closes_the_files(write: Write) -> None:
    """A stream that is not read to its end, of one file or of two."""
    for paired in (False, True):
        reads = open_reads([write(fastq("a", "b")), write(fastq("a", "b"))], RecordCounts(), paired=paired)
        next(reads)
        reads.close()
        assert list(reads) == []
