"""Cases for the readers: files that are valid or were damaged, read strictly and leniently.

Oracles, for whatever is read:

* an InputError (one printable line that names one of the files) or an OSError, never another exception;
* records = windowed + skipped, each skipped one told of once; windows are of their record's letters, in
  order, and tile it but for windows of N, or lie on each other by the overlap that was asked for;
* where strict reading succeeds, names and letters are those that a slow parser finds, which is written
  here line by line and shares nothing with wyr; and lenient reading finds the same;
* where it fails, lenient reading finds at least what was read before;
* files that were not damaged are read.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pysam
from backports import zstd

from wyrcli.errors import InputError
from wyrcli.explanation import Window
from wyrcli.inputs import InputOptions, open_windows
from wyrcli.model.tokens import KmerTokenizer
from wyrcli.windows import RecordCounts

TOKENIZER = KmerTokenizer.nucleotide_transformer_v2()
IUPAC = "ACGTURYSWKMBDHVN"
COMPLEMENT = str.maketrans("ACGTURYSWKMBDHVN", "TGCAAYRSWMKVHDBN")
NAME_LETTERS = [chr(i) for i in range(33, 127)]
HOSTILE_NAMES = (
    "track1", "browser", "#x", ">y", "@z", "+", "a;b=c,d", "a/1", "a/2", "chr1:5-9", "<b>", "&amp;", "'", '"',
    "%s", "..", "/etc/passwd", "=1+1", "*", ".", "-", "NaN", "x" * 300,
)  # fmt: skip
NOISE = (
    b"", b"\n", b"\0" * 100, b"BAM\1", b"CRAM", b"\x1f\x8b", b"\x1f\x8b\x08\x04", b"BZh9", b"\xfd7zXZ\0",
    b"\x28\xb5\x2f\xfd", b"@HD\tVN:1.6\n", b"LOCUS x\n", b"PK\3\4", b">", b"@", b"@\n\n+\n\n", b">\n\n",
    b"\xef\xbb\xbf", b"\xef",
)  # fmt: skip
REFERENCE = "".join(random.Random(5).choices("ACGT", k=3000))


_LONGEST_RECORD = 30_000  # windows of one record


class Record(NamedTuple):
    """What is written into a file."""

    name: str
    comment: str
    sequence: str
    quality: str


class Loaded(NamedTuple):
    """What came out of one reading."""

    windows: list[Window]
    skipped: list[tuple[int, str, int, str]]
    counts: RecordCounts
    error: Exception | None


# ---------------------------------------------------------------- valid files


def make_name(rng: random.Random, number: int) -> str:
    """A name without white space."""
    kind = rng.random()
    if kind < 0.2:
        return rng.choice(HOSTILE_NAMES)
    if kind < 0.4:
        return "".join(rng.choices(NAME_LETTERS, k=rng.randint(1, 30)))
    return f"r{number}"


def make_records(rng: random.Random, *, plain: bool = False) -> list[Record]:
    """Records of all lengths; ``plain``: names that differ, upper case."""
    records = []
    for number in range(rng.choice([0, 1, 1, 2, 3, 5, 8, 20])):
        length = rng.choice([0, 1, 5, 6, 7, 59, 60, 61, 120, rng.randint(0, 400), rng.randint(0, 400)])
        if rng.random() < 0.004:
            length = 140_000  # beyond a piece of what is read at once
        letters = rng.choice(["ACGT", "ACGTN", IUPAC, IUPAC + IUPAC.lower(), "N", "acgt"])
        sequence = "".join(rng.choices("ACGT" if plain else letters, k=length))
        if not plain and rng.random() < 0.2 and length > 30:
            sequence = sequence[: length // 4] + "N" * (length // 2) + sequence[length // 4 + length // 2 :]
        quality = "".join(rng.choices(NAME_LETTERS, k=length))
        comment = rng.choice(["", "", " x y", "\tlength=5", " >@+"])
        name = f"r{number}" if plain else make_name(rng, number)
        records.append(Record(name, comment, sequence, quality))
    return records


def write_fasta(rng: random.Random, records: list[Record]) -> bytes:
    """Wrapped at any width."""
    width = rng.choice([1, 7, 60, 10**9])
    parts = []
    for record in records:
        sequence = record.sequence
        lines = [sequence[i : i + width] for i in range(0, len(sequence), width)] or (
            [""] * rng.randint(0, 1)
        )
        parts.append("\n".join([f">{record.name}{record.comment}", *lines]) + "\n")
    return "".join(parts).encode()


def write_fastq(rng: random.Random, records: list[Record]) -> bytes:
    """With or without names on the lines of '+'."""
    again = rng.random() < 0.2
    return "".join(
        f"@{r.name}{r.comment}\n{r.sequence}\n+{r.name + r.comment if again else ''}\n{r.quality}\n"
        for r in records
    ).encode()


def write_alignments(rng: random.Random, records: list[Record], path: Path, kind: str) -> None:
    """BAM, or CRAM of reads without a place or with one on :data:`REFERENCE`."""
    # With UR, for htslib else adds the path, which is another one when a case is run again.
    chromosome = {"SN": "chr1", "LN": len(REFERENCE), "UR": "reference.fa"}
    header = pysam.AlignmentHeader.from_dict({"HD": {"VN": "1.6"}, "SQ": [chromosome]})
    options = {}
    if kind == "cram":
        options = {"reference_filename": str(reference_file(path.parent))}
    with pysam.AlignmentFile(str(path), "wb" if kind == "bam" else "wc", header=header, **options) as file:
        for record in records:
            segment = pysam.AlignedSegment(header)
            segment.query_name = (
                record.name[:250] if record.name != "*" else "star"
            )  # which is no name in SAM
            place = rng.randrange(len(REFERENCE) - 500)
            aligned = rng.random() < 0.5 and len(record.sequence) > 10
            segment.flag = rng.choice([0, 16, 256, 2048, 512, 1 | 64, 1 | 128 | 16]) if aligned else 4
            segment.query_sequence = (
                REFERENCE[place : place + 50] if aligned else record.sequence.upper() or None
            )
            if aligned:
                segment.reference_id, segment.reference_start, segment.mapping_quality = 0, place, 60
                segment.cigarstring = "50M"
            if segment.query_sequence:
                segment.query_qualities = pysam.qualitystring_to_array("I" * len(segment.query_sequence))
            file.write(segment)


def reference_file(folder: Path) -> Path:
    """The reference, written once per folder."""
    path = folder / "reference.fa"
    if not path.exists():
        path.write_text(f">chr1\n{REFERENCE}\n")
        pysam.faidx(str(path))
    return path


def bgzf(data: bytes, folder: Path) -> bytes:
    """As bgzip writes it."""
    path = folder / "x.bgz"
    with pysam.BGZFile(str(path), "w") as file:
        file.write(data)
    data = path.read_bytes()
    path.unlink()
    return data


def compress(rng: random.Random, data: bytes, folder: Path) -> tuple[str, bytes]:
    """In any of the ways that are read, of one stream or two."""
    kind = rng.choice(["plain", "plain", "gz", "bgz", "bz2", "xz", "zst", "gz2", "bz22", "xz2", "zst2"])
    packs: dict[str, Callable[[bytes], bytes]] = {
        "gz": lambda d: gzip.compress(d, 1, mtime=0),
        "bz2": bz2.compress,
        "xz": lambda d: lzma.compress(d, preset=0),
        "zst": zstd.compress,
    }
    if kind == "plain":
        return kind, data
    if kind == "bgz":
        return kind, bgzf(data, folder)
    pack = packs[kind[:-1] if kind not in packs else kind]
    if kind in packs:
        return kind, pack(data)
    cut = rng.randint(0, len(data))
    return kind, pack(data[:cut]) + pack(data[cut:])


# ---------------------------------------------------------------- damage


def _spot(rng: random.Random, data: bytes) -> int:
    return rng.randrange(len(data) + 1)


def _flip(rng: random.Random, data: bytes) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 8])):
        if changed:
            changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _insert(rng: random.Random, data: bytes) -> bytes:
    at = _spot(rng, data)
    what = rng.choice(
        [
            b"\0", b"\0" * 50, b"\xff", b"\xc3\xa9", b"\xe2\x80\xae", b"\x1b[31m", b"\r", b"\n", b"\r\n",
            b"\n\n\n", b">", b"@", b"+", b"#", b";", b"\n>", b"\n@", b"\n+\n", b"\n#", b" ", b"\t", b"\x0b",
            b"\x0c", b"\x1c", b"\x85", b"\xef\xbb\xbf", b"*", b"-", b"E", b"x" * 5000, rng.randbytes(20),
            b"\x1a", b"\xe2\x80\xa8",
        ]
    )  # fmt: skip
    return data[:at] + what + data[at:]


def _cut(rng: random.Random, data: bytes) -> bytes:
    return data[: _spot(rng, data)]


def _remove(rng: random.Random, data: bytes) -> bytes:
    at = _spot(rng, data)
    return data[:at] + data[at + rng.choice([1, 2, 10, 300]) :]


def _repeat(rng: random.Random, data: bytes) -> bytes:
    one, two = sorted((_spot(rng, data), _spot(rng, data)))
    return data[:two] + data[one:two] + data[two:]


def _lines(
    change: Callable[[random.Random, list[bytes], int], None],
) -> Callable[[random.Random, bytes], bytes]:
    def damage(rng: random.Random, data: bytes) -> bytes:
        lines = data.split(b"\n")
        change(rng, lines, rng.randrange(len(lines)))
        return b"\n".join(lines)

    return damage


def _swap(rng: random.Random, lines: list[bytes], at: int) -> None:
    other = rng.randrange(len(lines))
    lines[at], lines[other] = lines[other], lines[at]


def _mix_ends(rng: random.Random, data: bytes) -> bytes:
    return b"".join(line + rng.choice([b"\n", b"\r\n", b"\r"]) for line in data.split(b"\n"))


BYTES: list[Callable[[random.Random, bytes], bytes]] = [_flip, _insert, _cut, _remove, _repeat]
LINES: list[Callable[[random.Random, bytes], bytes]] = [
    _lines(lambda rng, lines, at: lines.pop(at) and None),
    _lines(lambda rng, lines, at: lines.insert(at, lines[at])),
    _lines(lambda rng, lines, at: lines.insert(at, b"")),
    _lines(
        lambda rng, lines, at: lines.insert(
            at, rng.choice([b"  ", b"\t", b"junk", b">", b"@", b"+", b"#c", b";"])
        )
    ),
    _lines(_swap),
    _lines(lambda rng, lines, at: lines.__setitem__(at, lines[at][:-1])),
    _lines(lambda rng, lines, at: lines.__setitem__(at, lines[at] + b"\r")),
    _lines(lambda rng, lines, at: lines.__setitem__(at, lines[at] + b"y" * 200_000 * (rng.random() < 0.1))),
    _lines(lambda rng, lines, at: lines.__setitem__(at, lines[at] + b" " * rng.randint(1, 3))),
    _lines(lambda rng, lines, at: lines.__setitem__(at, lines[at].upper() + b"!")),
    lambda rng, data: data.replace(b"\n", b"\r\n"),
    lambda rng, data: data.replace(b"\n", b"\r"),
    lambda rng, data: data.replace(b"\n", b"\n\n"),
    lambda rng, data: data.rstrip(b"\n"),
    lambda rng, data: data + b"\n" * rng.randint(1, 5),
    lambda rng, data: b"\xef\xbb\xbf" + data,
    lambda rng, data: rng.choice([b"\n", b"\r\n", b"\r", b"\n\r\n\n"]) + data,
    _mix_ends,
]


def damage_text(rng: random.Random, data: bytes) -> bytes:
    """One to three changes of any kind."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        data = rng.choice(LINES if rng.random() < 0.6 else BYTES)(rng, data)
    return data


def damage_packed(rng: random.Random, data: bytes) -> bytes:
    """A compressed file, with bytes changed, cut off, or followed by others."""
    if rng.random() < 0.2:
        return data + rng.choice(
            [b"\0" * 30, b"junk", b"\n", data, gzip.compress(b">q\nACGTACGT\n"), data[:5]]
        )
    return rng.choice(BYTES)(rng, data)


# ---------------------------------------------------------------- the slow parser


def unpack(data: bytes) -> bytes:
    """What a compressed file holds, by the standard library."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    if data.startswith(b"BZh"):
        return bz2.decompress(data)
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        with zstd.ZstdFile(io.BytesIO(data)) as file:
            return file.read()
    return data


def parse_slowly(data: bytes) -> list[tuple[str, str]]:
    """Names and sequences of a text that is valid."""
    mark = b"\xef\xbb\xbf"  # a second one, as careless tools make it, does no harm
    text = data.removeprefix(mark).removeprefix(mark).decode("ascii").strip("\r\n")
    records: list[tuple[str, str]] = []
    if text.startswith(">"):
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            if line.startswith(">"):
                words = line[1:].split()
                records.append((words[0] if words else "", ""))
            else:
                name, letters = records[-1]
                records[-1] = name, letters + line.strip()
        return records
    lines = [line.removesuffix("\r") for line in text.split("\n")] if text else []
    lines += [""] * (-len(lines) % 4)  # a last record may be empty, and end in blank lines
    for i in range(0, len(lines), 4):
        words = lines[i][1:].split()
        records.append((words[0] if words else "", lines[i + 1]))
    return records


def normalise_slowly(sequence: str, mask_lower: bool) -> str:
    """A, C, G, T and N."""
    out = []
    for letter in sequence:
        if mask_lower and letter.islower():
            out.append("N")
        else:
            upper = letter.upper().replace("U", "T")
            out.append(upper if upper in "ACGT" else "N")
    return "".join(out)


# ---------------------------------------------------------------- reading


def load(paths: list[str], window: int, options: InputOptions, expected: list[str]) -> Loaded:
    """Read all; what must hold whatever the files are is checked here."""
    counts, windows = RecordCounts(), list[Window]()
    skipped: list[tuple[int, str, int, str]] = []
    error: Exception | None = None
    try:
        windows.extend(
            open_windows(paths, TOKENIZER, window, counts, options, lambda *told: skipped.append(told))
        )
    except InputError as caught:
        error = caught
        text = str(caught)
        assert text.isprintable() and len(text) < 3000, f"not one printable line: {text!r}"
        assert any(path in text for path in expected), f"names no file: {text!r}"
    except OSError as caught:
        error = caught
    if error is None:
        assert counts.accounted(), counts.as_dict()
        assert counts.records == counts.windowed + len(skipped)
    ordinals = [s[0] for s in skipped]
    assert ordinals == sorted(set(ordinals)), "a skipped record was told of twice"
    assert not set(ordinals) & {w.record for w in windows}
    if error is None:
        assert counts.windows == len(windows)
    check_windows(windows, window, options.overlap)
    return Loaded(windows, skipped, counts, error)


def check_windows(windows: list[Window], longest: int, overlap: int) -> None:
    """What holds for windows one by one, and for neighbours."""
    for window in windows:
        size = window.stop - window.start
        assert 0 < size <= longest and len(window.sequence) == size and window.stop <= window.length
        assert set(window.sequence) <= set("ACGTN") and window.sequence.strip("N")
        assert len(window.qualities) in (0, size)
        # BAM files that were damaged inside may hold anything as a name.
        assert window.name and (window.source is not None or not any(c.isspace() for c in window.name))
    for one, two in pairwise(windows):
        assert (one.record, one.start) < (two.record, two.start), "windows are not in order"
        assert one.record != two.record or one.stop - two.start <= overlap


def check_letters(read: Loaded, truth: list[tuple[str, str]], options: InputOptions, window: int) -> None:
    """Each record is covered by its windows, with its letters; what is not covered is N or was skipped."""
    assert read.counts.records == len(truth), (
        f"{read.counts.records} records, the slow parser finds {len(truth)}"
    )
    assert read.counts.bases == sum(len(sequence) for _, sequence in truth)
    own: dict[int, list[Window]] = {}
    for piece in read.windows:
        own.setdefault(piece.record, []).append(piece)
    skipped = {record: reason for record, _, _, reason in read.skipped}
    for number, (name, sequence) in enumerate(truth):
        letters = normalise_slowly(sequence, options.mask_lower)
        covered = bytearray(len(letters))
        for piece in own.get(number, []):
            assert options.rename_duplicates or piece.name == name, (piece.name, name)
            assert piece.length == len(letters) and piece.sequence == letters[piece.start : piece.stop]
            covered[piece.start : piece.stop] = b"\1" * (piece.stop - piece.start)
        if options.regions is None and number in own:
            left = "".join(letter for letter, seen in zip(letters, covered, strict=True) if not seen)
            assert not left.strip("N"), "bases that no window covers"
        if options.regions is None and number not in own:
            assert len(letters) < 6 or not letters.strip("N"), (
                f"skipped as {skipped.get(number)}: {letters[:50]}"
            )
    if options.rename_duplicates:
        names = {w.record: w.name for w in read.windows}
        assert len(set(names.values())) == len(names), "two records of one name"


def compare(strict: Loaded, lenient: Loaded) -> None:
    """Lenient reading finds what strict reading finds, and more where that fails."""
    seen = [(w.record, w.name, w.start, w.stop, w.sequence) for w in strict.windows]
    also = [(w.record, w.name, w.start, w.stop, w.sequence) for w in lenient.windows]
    if strict.error is None:
        assert lenient.error is None, f"strict reading succeeds, lenient reading not: {lenient.error}"
        assert seen == also, "lenient reading differs"
        assert strict.counts.records == lenient.counts.records and not lenient.counts.malformed()
    elif lenient.error is None:
        assert also[: len(seen)] == seen, "lenient reading loses what strict reading found before its error"
    else:  # which looks ahead, and so meets the damage of a stream a record earlier
        n = min(len(seen), len(also))
        assert also[:n] == seen[:n] and n >= len(seen) - _LONGEST_RECORD, (
            "before their errors, readings differ"
        )


# ---------------------------------------------------------------- cases


def check(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """One case of any kind."""
    chosen = rng.choices([_text, _alignments, _paired, _regions, _mixture], [50, 20, 10, 12, 8])[0]
    chosen(rng, folder, kinds)


def _options(rng: random.Random) -> tuple[int, InputOptions]:
    window = rng.choice([6, 13, 60, 61, 1500])
    overlap = 6 * rng.randint(0, window // 18) if rng.random() < 0.2 else 0
    options = InputOptions(
        mask_lower=rng.random() < 0.15, rename_duplicates=rng.random() < 0.15, overlap=overlap
    )
    return window, options


def _with(options: InputOptions, **changes: object) -> InputOptions:
    return InputOptions(**(options.__dict__ | changes))  # type: ignore[arg-type]


def _both(paths: list[str], window: int, options: InputOptions, expected: list[str]) -> tuple[Loaded, Loaded]:
    strict = load(paths, window, options, expected)
    lenient = load(paths, window, _with(options, lenient=True), expected)
    compare(strict, lenient)
    return strict, lenient


def _text(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """FASTA or FASTQ, plain or compressed, whole, or damaged before or after it was compressed."""
    records = make_records(rng)
    is_fasta = rng.random() < 0.5
    text = write_fasta(rng, records) if is_fasta else write_fastq(rng, records)
    how = rng.choices(["whole", "text", "packed"], [25, 55, 20])[0]
    if how == "text":
        text = damage_text(rng, text)
    pack, data = compress(rng, text, folder)
    if how == "packed":
        data = damage_packed(rng, data)
    kinds += ["fasta" if is_fasta else "fastq", pack.rstrip("2") if pack != "bz2" else pack, f"{how}-damage"]
    path = folder / "dataset_1.dat"
    path.write_bytes(data)
    window, options = _options(rng)
    strict, _ = _both([str(path)], window, options, [str(path)])
    if how == "whole":
        assert strict.error is None, f"a valid file was refused: {strict.error}"
        truth = [(r.name, r.sequence) for r in records]
        check_letters(strict, truth, options, window)
    if strict.error is None:
        kinds.append("read")
        try:
            plain = text if how != "packed" else unpack(data)
        except (OSError, EOFError, lzma.LZMAError, zstd.ZstdError, zlib.error, ValueError):
            return  # other libraries are stricter here and there, about what follows a stream
        check_letters(strict, parse_slowly(plain), options, window)
    else:
        kinds.append("refused")


def _alignments(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """BAM and CRAM, whole or with bytes changed."""
    kind = rng.choice(["bam", "bam", "cram"])
    path = folder / "dataset_2.dat"
    write_alignments(rng, make_records(rng), path, kind)
    whole = rng.random() < 0.2
    if not whole:
        data = path.read_bytes()
        if kind == "bam" and rng.random() < 0.5:  # inside, where checksums do not see it
            data = bgzf(rng.choice(BYTES)(rng, gzip.decompress(data)), folder)
        else:
            data = damage_packed(rng, data)
        path.write_bytes(data)
    window, options = _options(rng)
    if kind == "cram":
        options = _with(options, reference=str(reference_file(folder)))
    kinds += [kind, "whole" if whole else "damaged"]
    strict, _ = _both([str(path)], window, options, [str(path), str(options.reference)])
    kinds.append("read" if strict.error is None else "refused")
    if whole:
        assert strict.error is None, f"a valid file was refused: {strict.error}"
        truth = []
        reference = options.reference
        before = pysam.set_verbosity(0)  # that there is no index
        with pysam.AlignmentFile(str(path), check_sq=False, reference_filename=reference) as file:
            pysam.set_verbosity(before)
            for segment in file.fetch(until_eof=True):
                if segment.flag & (256 | 2048):
                    continue
                sequence = segment.query_sequence or ""
                if segment.flag & 16:
                    sequence = sequence.translate(COMPLEMENT)[::-1]
                truth.append((segment.query_name, sequence))
        named = _with(options, rename_duplicates=True)  # mates have names of their own: not compared here
        check_letters(strict._replace(windows=_rename(strict.windows)), truth, named, window)


def _rename(windows: list[Window]) -> list[Window]:
    return [w._replace(name=f"r{w.record}") for w in windows]


def _paired(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """Two files of mates; one of them may be damaged."""
    records = make_records(rng, plain=True)
    paths, truth = [], []
    how = rng.choice(["whole", "text", "text", "packed"])
    victim = rng.randrange(2)
    for mate in (1, 2):
        named = [r._replace(name=f"{r.name}/{mate}", comment="") for r in records]
        text = write_fasta(rng, named) if rng.random() < 0.3 else write_fastq(rng, named)
        if how == "text" and victim == mate - 1:
            text = damage_text(rng, text)
        _, data = compress(rng, text, folder)
        if how == "packed" and victim == mate - 1:
            data = damage_packed(rng, data)
        path = folder / f"mates_{mate}.dat"
        path.write_bytes(data)
        paths.append(str(path))
        truth.append([(r.name, r.sequence) for r in named])
    window, options = _options(rng)
    kinds += ["paired", f"{how}-damage"]
    strict, _ = _both(paths, window, _with(options, paired=True), paths)
    kinds.append("read" if strict.error is None else "refused")
    if how == "whole":
        assert strict.error is None, f"valid files were refused: {strict.error}"
        check_letters(strict, [mate for pair in zip(*truth, strict=True) for mate in pair], options, window)


def _regions(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """A BED file of stretches of the records."""
    records = make_records(rng, plain=True)
    path, bed = folder / "reads.fa", folder / "dataset_3.bed"
    path.write_bytes(write_fasta(rng, records))
    rows, places = [], list[tuple[str, int, int]]()
    for record in records:
        for _ in range(rng.choice([0, 1, 1, 2, 4])):
            start, stop = sorted(rng.randint(0, len(record.sequence)) for _ in range(2))
            places.append((record.name, start, stop))
            more = rng.choice(["", "\tname\t0\t+"])
            rows.append(f"{record.name}\t{start}\t{stop}{more}\n")
    rng.shuffle(rows)
    rows.insert(0, rng.choice(["", "#comment\n", "track name=x\n", "browser position\n", "\n"]))
    text = "".join(rows).encode()
    whole = rng.random() < 0.4
    if not whole:
        text = damage_text(rng, text)
    _, data = compress(rng, text, folder)
    if not whole and rng.random() < 0.3:
        data = damage_packed(rng, data)
    bed.write_bytes(data)
    window, options = _options(rng)
    options = _with(options, regions=str(bed), rename_duplicates=False)
    kinds += ["regions", "whole" if whole else "damaged"]
    strict, lenient = _both([str(path)], window, options, [str(bed), str(path)])
    for read in (strict, lenient):
        if read.error is None:
            told = dict(read.counts.regions)
            given = told.pop("given")
            assert given == sum(told.values()), read.counts.regions
    kinds.append("read" if strict.error is None else "refused")
    if whole and places:
        assert strict.error is None, f"a valid file was refused: {strict.error}"
        check_letters(strict, [(r.name, r.sequence) for r in records], options, window)
        wanted = {(n, i) for n, a, b in places if b - a >= 6 for i in range(a, b)}
        found = {(w.name, i) for w in strict.windows for i in range(w.start, w.stop)}
        assert found == wanted, "windows do not cover the regions"


def _mixture(rng: random.Random, folder: Path, kinds: list[str]) -> None:
    """Several files of several formats, or one of several formats behind each other, or noise."""
    paths = []
    for number in range(rng.randint(1, 3)):
        parts = []
        for _ in range(rng.choice([1, 1, 2])):
            records = make_records(rng)
            text = rng.choice([write_fasta, write_fastq])(rng, records)
            if rng.random() < 0.2:
                text = rng.choice(NOISE) + rng.choice([b"", b"", rng.randbytes(rng.randint(1, 300))])
            parts.append(compress(rng, text, folder)[1] if rng.random() < 0.4 else text)
        path = folder / f"dataset_{number}.dat"
        path.write_bytes(b"".join(parts))
        paths.append(str(path))
    window, options = _options(rng)
    kinds.append("mixture")
    strict, _ = _both(paths, window, options, paths)
    kinds.append("read" if strict.error is None else "refused")
