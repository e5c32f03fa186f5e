"""Records of every format with their labels, and nothing lost in silence."""

from __future__ import annotations

import bz2
import gzip
import hashlib
import io
import json
import lzma
import os
import random
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import pandas as pd
import pytest

import wyrcli.sources
from wyrcli.errors import InputError
from wyrcli.sources import SourceReader, SourceRecord, read_sources

RANKS = ("superkingdom", "genus")
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
}


def genbank(
    name: str = "NC_000001.1",
    sequence: str = "ACGTACGTAC" * 9,
    *,
    xrefs: tuple[str, ...] = ("taxon:562",),
    links: tuple[str, ...] = (),
    end: str | None = None,
    length: int | None = None,
) -> str:
    """A record as NCBI writes it, with a gene whose location is odd."""
    length = len(sequence) if length is None else length
    lines = [
        f"LOCUS       {name.split('.')[0]:<16} {length:>11} bp    DNA     linear   BCT 01-JAN-1980",
        "DEFINITION  Some bacterium, whose author is M\xfcller.",
        f"ACCESSION   {name.split('.')[0]}",
        f"VERSION     {name}",
        *((f"DBLINK      {links[0]}", *(f"            {link}" for link in links[1:])) if links else ()),
        "FEATURES             Location/Qualifiers",
        f"     source          1..{length}",
        '                     /organism="Some bacterium"',
        *(f'                     /db_xref="{xref}"' for xref in xrefs),
        "     gene            1..?..9(odd",
        '                     /db_xref="taxon:99"',
    ]
    if end is None:
        lines.append("ORIGIN")
        for start in range(0, len(sequence), 60):
            row = sequence[start : start + 60].lower()
            lines.append(f"{start + 1:>9} " + " ".join(row[i : i + 10] for i in range(0, len(row), 10)))
    else:
        lines.append(end)
    return "\n".join([*lines, "//", ""])


class Folder:
    """A folder that files are put into."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def put(self, name: str, data: bytes | str) -> str:
        """Write a file; its path."""
        path = self.path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)
        return str(path)

    def zip(self, name: str, members: dict[str, bytes | str], method: int = zipfile.ZIP_DEFLATED) -> str:
        """Write an archive; its path."""
        path = self.path / name
        with zipfile.ZipFile(path, "w", method) as archive:
            for member, data in members.items():
                archive.writestr(member, data)
        return str(path)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """An empty one."""
    return Folder(tmp_path)


def read(*paths: str, labels: str | None = None, ranks: tuple[str, ...] | None = None) -> list[SourceRecord]:
    """All records of the inputs."""
    return list(read_sources(paths, labels=None if labels is None else Path(labels), ranks=ranks))


def cells(records: Iterable[SourceRecord]) -> list[tuple[object, ...]]:
    """Name, sequence, label, genome, file and split of each."""
    return [record[:6] for record in records]


def refuse(
    *paths: str, match: str, labels: str | None = None, ranks: tuple[str, ...] | None = None
) -> InputError:
    """The error that reading ends with: one printable line."""
    with pytest.raises(InputError, match=match) as caught:
        read(*paths, labels=labels, ranks=ranks)
    assert str(caught.value).isprintable()
    return caught.value


# ---------------------------------------------------------------- every format

SEQUENCES = ["ACGTAC", "GGGTTTA", "TTTTTTTT"]
TABLE = "name\tsequence\ttaxid\n" + "".join(f"r{i}\t{s}\t{56 + i}\n" for i, s in enumerate(SEQUENCES))
CONTENT: dict[str, str] = {
    "FASTA": "".join(f">r{i}|kraken:taxid|{56 + i} x\n{s}\n" for i, s in enumerate(SEQUENCES)),
    "FASTQ": "".join(
        f"@r{i}|kraken:taxid|{56 + i} x\n{s}\n+\n{'I' * len(s)}\n" for i, s in enumerate(SEQUENCES)
    ),
    "GenBank": "".join(genbank(f"r{i}.1", s, xrefs=(f"taxon:{56 + i}",)) for i, s in enumerate(SEQUENCES)),
    "table": TABLE,
    "CSV": TABLE.replace("\t", ","),
    "BERTax JSON": json.dumps(SEQUENCES),
}
COMPANION = "56\n57\n58\n"
every_format = pytest.mark.parametrize("kind", CONTENT)


def put_content(folder: Folder, kind: str, change: Callable[[bytes], bytes] = bytes) -> str:
    """A file of a format, whose name tells nothing but for the JSON's companion."""
    if kind == "BERTax JSON":
        folder.put("set_species_picked.txt", COMPANION)
        return folder.put("set_fragments.json", change(CONTENT[kind].encode()))
    return folder.put("dataset_1.dat", change(CONTENT[kind].encode()))


@every_format
@pytest.mark.parametrize("ending", COMPRESS)
def test_formats_are_known_by_content(folder, kind, ending):
    """Compressed or not; every record comes out once, with its label."""
    path = put_content(folder, kind, COMPRESS[ending])
    reader = read_sources([path])
    records = list(reader)
    assert [record.sequence.upper() for record in records] == SEQUENCES
    assert [record.label for record in records] == [56, 57, 58]
    assert {record.file for record in records} == {path}
    assert {record.split for record in records} == {None}
    file = reader.files[-1] if kind != "BERTax JSON" else reader.files[1]
    data = Path(path).read_bytes()
    assert (file.path, file.bytes, file.records) == (path, len(data), 3)
    assert file.sha256 == hashlib.sha256(data).hexdigest()
    assert file.format == {"CSV": "table"}.get(kind, kind)
    assert reader.bytes_read == reader.total_bytes == len(data)


@every_format
def test_marks_and_line_ends_do_no_harm(folder, kind):
    """A byte order mark, blank lines before, CRLF."""
    expected = read(put_content(folder, kind))
    path = put_content(
        folder, kind, lambda data: b"\xef\xbb\xbf" + b"\r\n" * 2 + data.replace(b"\n", b"\r\n")
    )
    assert read(path) == expected


def test_record_names(folder):
    """What the records are called and belong to where nothing but the record tells."""
    names = {kind: [(r.name, r.genome) for r in read(put_content(folder, kind))] for kind in CONTENT}
    assert names["FASTA"][0] == ("r0|kraken:taxid|56", "")
    assert names["GenBank"][1] == ("r1.1", "")
    assert names["table"][2] == ("r2", "")
    assert names["BERTax JSON"][1] == ("fragment2", "taxid 57")


@every_format
def test_standard_input_through_a_pipe(folder, kind):
    """Nothing seeks; a list of BERTax has no companion there."""
    code = (
        "import sys; from wyrcli.sources import read_sources; r = read_sources(['-']);"
        "print(len(list(r)), r.total_bytes, r.files[0].bytes)"
    )
    data = gzip.compress(CONTENT[kind].encode())
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True)
    if kind == "BERTax JSON":
        assert b"without their taxids" in done.stderr
    else:
        assert done.stdout.split() == [b"3", b"None", str(len(data)).encode()], done.stderr


@pytest.mark.parametrize("what", ["zip", "parquet"])
def test_what_cannot_be_read_from_a_pipe(folder, what):
    """Both formats have their index at the end."""
    path = folder.zip("a.zip", {"a.fa": ">a\nAC\n"})
    if what == "parquet":
        pd.DataFrame({"sequence": ["AC"], "taxid": [1]}).to_parquet(path)
    code = "from wyrcli.sources import read_sources; list(read_sources(['-']))"
    done = subprocess.run(
        [sys.executable, "-c", code], input=Path(path).read_bytes(), capture_output=True, text=False
    )
    assert b"cannot be read from a pipe" in done.stderr


@pytest.mark.parametrize("text", ["", "\n\r\n \n", "\ufeff"])
def test_empty_files_hold_no_record(folder, text):
    """Nor do tables without rows and lists without elements."""
    for compress in COMPRESS.values():
        reader = read_sources([folder.put("a", compress(text.encode()))])
        assert list(reader) == []
        assert reader.files[0].format == "empty"
    assert read(folder.put("b", "sequence\ttaxid\n")) == []
    folder.put("c_species_picked.txt", "")
    assert read(folder.put("c_fragments.json", "[]")) == []


def test_several_inputs_keep_their_order(folder):
    """And the reader knows where it is."""
    paths = [folder.put("2", CONTENT["FASTA"]), folder.put("3", ""), folder.put("1", TABLE)]
    reader = read_sources(paths)
    seen = []
    for record in reader:
        error = reader.error("bad", record.name)
        seen.append((record.file, error.path, error.record))
    assert seen == [(path, path, n) for path in (paths[0], paths[2]) for n in (1, 2, 3)]
    assert [file.records for file in reader.files] == [3, 0, 3]


def test_progress_while_reading(folder):
    """The bytes read rise from file to file, of an archive too."""
    text = "".join(f">r{i}\n{'ACGT' * 5000}\n" for i in range(200))
    members: dict[str, bytes | str] = {f"{i}.fa": text for i in range(3)}
    reader = read_sources([folder.put("a.fa", text), folder.zip("a.zip", members, method=zipfile.ZIP_STORED)])
    steps = [reader.bytes_read for _ in reader]
    assert steps == sorted(steps) and len(set(steps)) > 20
    assert 0 < steps[0] < steps[-1] <= reader.total_bytes == reader.bytes_read


def test_closing_early(folder):
    """Nothing comes afterwards."""
    reader = read_sources([folder.put("a.fa", CONTENT["FASTA"])])
    assert isinstance(reader, SourceReader) and iter(reader) is reader
    next(reader)
    reader.close()
    assert list(reader) == [] and reader.files == []


def test_repeated_names_are_all_given_out(folder):
    """BERTax's FASTA files have the taxid as name."""
    records = read(folder.put("Archaea.fa", ">562 0\nAC\n>562 1\nGT\n>7 0\nAA\n"))
    assert [(r.name, r.label, r.genome) for r in records] == [("562", 562, "562")] * 2 + [("7", 7, "7")]


# ---------------------------------------------------------------- cut and damaged files


def cuts(data: bytes) -> Iterator[bytes]:
    """Data cut at many places, the last bytes each."""
    places = {len(data) * i // 23 for i in range(1, 23)} | set(range(len(data) - 12, len(data)))
    yield from (data[:place] for place in sorted(places) if place > 0)


@every_format
@pytest.mark.parametrize("ending", [ending for ending in COMPRESS if ending])
def test_cut_compressed_files(folder, kind, ending):
    """Wherever the cut is, it is an error."""
    path = put_content(folder, kind, COMPRESS[ending])
    for data in cuts(Path(path).read_bytes()):
        Path(path).write_bytes(data)
        with pytest.raises(InputError) as caught:
            read(path)
        assert caught.value.path == path


@pytest.mark.parametrize("kind", ["GenBank", "BERTax JSON"])
def test_cut_text(folder, kind):
    """Formats that have an end: a cut is an error, or nothing is missing."""
    path = put_content(folder, kind)
    whole = CONTENT[kind].encode()
    n_silent = 0
    for place in range(1, len(whole)):
        Path(path).write_bytes(whole[:place])
        try:
            records = read(path)
        except InputError:
            continue
        n_silent += 1
        # What is left are whole records: all that have their '//'.
        assert kind == "GenBank" and len(records) == whole[:place].count(b"\n//") > 0
        assert whole[:place].endswith((b"//", b"//\n"))
        assert [r.sequence for r in records] == SEQUENCES[: len(records)]
    assert n_silent == (5 if kind == "GenBank" else 0)


@pytest.mark.parametrize(
    "method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
)
def test_cut_and_damaged_archives(folder, method):
    """Cut anywhere, or with any byte of the members changed: an error."""
    members: dict[str, bytes | str] = {f"{i}.fa": CONTENT["FASTA"] for i in range(3)}
    path = folder.zip("a.zip", members, method)
    assert len(read(path)) == 9
    data = Path(path).read_bytes()
    for cut in cuts(data):
        Path(path).write_bytes(cut)
        with pytest.raises(InputError):
            read(path)
    for place in range(40, data.index(b"PK\x01\x02") - 40, 7):
        Path(path).write_bytes(data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
        try:
            names = [(r.name, r.sequence) for r in read(path)]
        except InputError as error:
            assert error.path is not None and error.path.startswith(path)
        else:  # dates and the like in a member's header
            assert len(names) == 9 and len(set(names)) == 3


def test_archive_cut_behind_an_archive_inside(folder):
    """Its index must not be taken for that of the whole."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("inner.fa", ">x\nAC\n")
    path = folder.zip("a.zip", {"a.fa": ">a\nAC\n", "b": inner.getvalue()}, zipfile.ZIP_STORED)
    data = Path(path).read_bytes()
    end = data.index(b"PK\x05\x06") + 22
    assert zipfile.is_zipfile(io.BytesIO(data[:end]))
    Path(path).write_bytes(data[:end])
    refuse(path, match="damaged or cut off")


def test_records_before_the_damage_are_given_out(folder):
    """The number in the error is that of the first that is missing."""
    text = "sequence\ttaxid\n" + "".join(f"{'ACGT' * i}\t{i}\n" for i in range(1, 4000))
    path = folder.put("a.tsv.gz", gzip.compress(text.encode())[:-9])
    reader = read_sources([path])
    n = 0
    with pytest.raises(InputError, match="cut off"):
        for _ in reader:
            n += 1
    assert 0 < n < 4000 and reader.files == []


# ---------------------------------------------------------------- labels of FASTA and FASTQ


def test_labels_come_only_from_the_table(folder):
    """The header is not looked at then, by name and by file."""
    labels = folder.put(
        "labels.tsv",
        "name\tfile\ttaxid\tgenome\tsplit\nr0\t\t7\tg1\tval\n\ta.fa\t8\t\t\n\tb.fa\t9\tg2\ttest\n",
    )
    a = folder.put("a.fa", ">r0 kraken:taxid|5\nAC\n>r1 kraken:taxid|5\nAC\n")
    b, c = folder.put("x/b.fa", ">s kraken:taxid|5\nAC\n"), folder.put("c.fa", ">t kraken:taxid|5\nAC\n")
    records = read(a, b, c, labels=labels)
    assert [r.is_listed for r in records] == [True, True, True, False]
    assert cells(records) == [
        ("r0", "AC", 7, "g1", a, "validation"),
        ("r1", "AC", 8, "a.fa", a, None),
        ("s", "AC", 9, "g2", b, "test"),
        ("t", "AC", None, "", c, None),
    ]


def test_a_split_in_the_table_outweighs_the_name_of_the_file(folder):
    """Where it tells one."""
    labels = folder.put("labels.tsv", "name\ttaxid\tsplit\na\t8\ttest\nb\t9\t\n")
    records = read(folder.put("train.fa", ">a\nAC\n>b\nAC\n"), labels=labels)
    assert [r.split for r in records] == ["test", "train"]


def test_files_of_one_name_are_two_genomes(folder):
    """The base name does for a genome only where there is one such file."""
    labels = folder.put("labels.tsv", "file\ttaxid\na.fa\t8\nc.fa\t9\n")
    paths = [folder.put(name, ">r\nAC\n") for name in ("x/a.fa", "y/a.fa", "y/c.fa")]
    assert [r.genome for r in read(*paths, labels=labels)] == [paths[0], paths[1], "c.fa"]
    archive = folder.zip("z.zip", {"a.fa": ">r\nAC\n", "d/c.fa": ">r\nAC\n"})
    assert [r.genome for r in read(archive, labels=labels)] == ["a.fa", "c.fa"]
    assert [r.genome for r in read(paths[2], archive, labels=labels)] == [
        "c.fa",
        "a.fa",
        f"{archive}/d/c.fa",
    ]


def test_an_archive_can_be_labelled_as_a_file(folder):
    """One genome per archive."""
    labels = folder.put("labels.tsv", "file\ttaxid\nz.zip\t8\n")
    archive = folder.zip("z.zip", {"a.fa": ">r\nAC\n", "b.fa": ">s\nAC\n"})
    assert [(r.label, r.genome) for r in read(archive, labels=labels)] == [(8, "z.zip")] * 2


@pytest.mark.parametrize(
    ("name", "genome"),
    [
        ("NZ_ABCD01000012.1", "NZ_ABCD01"),
        ("ABCDEF020000012", "ABCDEF02"),
        ("ABCD01000012.1|kraken:taxid|562", "ABCD01"),
        ("kraken:taxid|562|NZ_ABCD01000012.1", "NZ_ABCD01"),
        ("ABCDE01000012.1", ""),
        ("abcd01000012.1", ""),
        ("ABCD0100012", ""),
        ("xABCD01000012", ""),
        ("NC_000913.3", ""),
    ],
)
def test_contigs_of_a_project_belong_together(folder, name, genome):
    """INSDC's names of WGS contigs begin with their project."""
    assert [r.genome for r in read(folder.put("a.fa", f">{name} x\nAC\n"))] == [genome]


def test_ranks_need_a_table(folder):
    """Headers, features and companions tell taxids."""
    for kind in ("FASTA", "FASTQ", "GenBank", "BERTax JSON"):
        error = refuse(put_content(folder, kind), match="tell only taxids", ranks=RANKS)
        assert error.record is None
    labels = folder.put("l.csv", "file,domain,genus\ndataset_1.dat,Bacteria,unknown\n")
    records = read(put_content(folder, "GenBank"), labels=labels, ranks=RANKS)
    assert {r.label for r in records} == {("Bacteria", "")}


@pytest.mark.parametrize("text", [">\nAC\n", "> a\nAC\n", "@\nAC\n+\nII\n"])
def test_records_without_a_name(folder, text):
    """Nothing could be looked up."""
    assert refuse(folder.put("a", text), match="no name").record == 1


def test_errors_of_fasta_and_fastq_name_the_record(folder):
    """As in the strict reader, inside an archive too."""
    bad = "@a\nACGT\n+\nIIII\n@b\nACGT\n+\nIII\n"
    error = refuse(folder.put("a", bad), match="record 2")
    assert (error.record, error.name, error.line) == (2, "b", 8)
    error = refuse(folder.zip("a.zip", {"in/b.fq": bad}), match="record 2")
    assert error.path == str(folder.path / "a.zip/in/b.fq") and error.line == 8


# ---------------------------------------------------------------- GenBank


def test_genbank_genomes(folder):
    """Assembly, else BioSample, else project, else the accession."""
    links = [
        ("BioProject: PRJNA1", "BioSample: SAMN1", "Assembly: GCF_1.2"),
        ("BioProject: PRJNA1", "BioSample: SAMN1"),
        (),
    ]
    text = "".join(genbank(f"ABCD0100000{i}.1", links=link) for i, link in enumerate(links))
    records = read(folder.put("a.gb", text + genbank("NC_1.2", xrefs=("GI:1",))))
    assert [r.genome for r in records] == ["Assembly:GCF_1.2", "BioSample:SAMN1", "ABCD01", ""]
    assert [r.label for r in records] == [562, 562, 562, None]


def test_genbank_of_prokka(folder):
    """A long name pushes columns out of place, or runs into the length; sequence and features are whole."""
    good = genbank("NODE_1.1", "ACGT" * 300)
    for locus in (
        "NODE_1_length_1200_cov_30.156 1200 bp   DNA     linear   ",
        "NODE_1_length_1200 1200 bp   DNA     linear   BCT 01-JAN-2020",
        "NODE_1_length_1200_cov_30.1561200 bp   DNA     linear   ",
    ):
        path = folder.put("a.gbk", f"LOCUS       {locus}\n{good[good.index('DEFINITION') :]}")
        assert [(r.name, r.label, r.sequence) for r in read(path)] == [("NODE_1.1", 562, "ACGT" * 300)]
    short = genbank("NODE_1.1", "ACGT" * 300, length=1300)
    refuse(folder.put("b.gbk", short), match="Expected sequence length 1300, found 1200")


def test_genbank_with_two_taxa(folder):
    """A chimera has no one label; a table can give it one."""
    two = genbank("A1.1") + genbank("B1.1", xrefs=("taxon:5", "taxon:562"))
    path = folder.put("a.gb", two)
    error = refuse(path, match="found the taxids 5, 562; expected one")
    assert (error.record, error.name) == (2, "B1.1")
    labels = folder.put("labels.tsv", "name\ttaxid\nA1\t1\nB1\t2\n")
    assert [r.label for r in read(path, labels=labels)] == [1, 2]


def test_genbank_without_sequence(folder):
    """A record that says of which others it is made is given out; one whose sequence is gone is not."""
    (record,) = read(folder.put("a.gb", genbank(end="CONTIG      join(A00001.1:1..90)")))
    assert (record.name, record.sequence, record.label) == ("NC_000001.1", "", 562)
    error = refuse(folder.put("b.gb", genbank(end="ORIGIN")), match="no sequence; expected 90 letters")
    assert (error.record, error.name) == (1, "NC_000001.1")


GOOD = genbank("GOOD.1")
BAD_GENBANK = {
    "no end": (genbank("BAD.1").removesuffix("//\n"), 2, "BAD.1", "cut off"),
    "end cut": (genbank("BAD.1").removesuffix("/\n"), 2, "BAD.1", "cut off"),
    "no end inside": (genbank("BAD.1").removesuffix("//\n") + GOOD, 2, "BAD.1", "another 'LOCUS'"),
    "shorter": (genbank("BAD.1", length=91), 2, "BAD.1", "91"),
    "longer": (genbank("BAD.1", length=89), 2, "BAD.1", "89"),
    "LOCUS broken": (genbank("BAD.1").replace("LOCUS", "LOCU"), 1, "GOOD.1", "expected 'LOCUS'"),
    "text between": ("text\n" + GOOD, 1, "GOOD.1", "found 'text' after the record"),
    "no length": (genbank("BAD.1").replace(" bp ", "    "), 2, "BAD", "not a GenBank record"),
}


@pytest.mark.parametrize("case", BAD_GENBANK)
def test_malformed_genbank(folder, case):
    """Each error names record and accession; the record before was given out."""
    text, number, name, match = BAD_GENBANK[case]
    reader = read_sources([folder.put("a.gb", GOOD + text)])
    assert next(reader).name == "GOOD.1"
    with pytest.raises(InputError, match=match) as caught:
        next(reader)
    assert (caught.value.record, caught.value.name) == (number, name)


def test_genbank_sequences_are_whole(folder):
    """More than a line, more than a buffer."""
    sequence = "ACGTTGCAAC" * 30_001
    records = read(folder.put("a.gb", genbank("A.1", sequence) + genbank("B.1", "ACG")))
    assert [r.sequence.upper() for r in records] == [sequence, "ACG"]


# ---------------------------------------------------------------- BERTax


def put_bertax(folder: Folder, fragments: str, taxids: str, ending: str = "") -> str:
    """A JSON with its companion."""
    folder.put(f"A_species_picked.txt{ending}", COMPRESS[ending](taxids.encode()))
    return folder.put(f"A_fragments.json{ending}", COMPRESS[ending](fragments.encode()))


@pytest.mark.parametrize("ending", COMPRESS)
def test_bertax_json(folder, ending):
    """Both files compressed, and both named by a shell's glob."""
    path = put_bertax(folder, '["AC", "GT",\n"AA"]\n', "5\r\n5\r\n7\n\n", ending)
    expected = [
        ("fragment1", "AC", 5, "taxid 5", path, None),
        ("fragment2", "GT", 5, "taxid 5", path, None),
        ("fragment3", "AA", 7, "taxid 7", path, None),
    ]
    assert cells(read(path)) == expected
    companion = str(folder.path / f"A_species_picked.txt{ending}")
    reader = read_sources([companion, path])
    assert cells(reader) == expected
    assert [(f.path, f.format, f.records) for f in reader.files] == [
        (companion, "BERTax taxids", 0),
        (path, "BERTax JSON", 3),
    ]
    assert reader.files[0].sha256 == hashlib.sha256(Path(companion).read_bytes()).hexdigest()


def test_bertax_companion_of_another_compression(folder):
    """Each file is compressed or not for itself."""
    folder.put("A_species_picked.txt.gz", gzip.compress(b"\xef\xbb\xbf5\n"))
    assert [r.label for r in read(folder.put("A_fragments.json", '["AC"]'))] == [5]


def test_bertax_with_a_table_of_labels(folder):
    """No companion is needed then."""
    labels = folder.put("l.tsv", "file\ttaxid\nA_fragments.json\t5\n")
    (record,) = read(folder.put("A_fragments.json", '["AC"]'), labels=labels)
    assert record[:6] == ("fragment1", "AC", 5, "A_fragments.json", record.file, None)


BAD_BERTAX = {
    "fewer taxids": ('["AC", "GT", "AA", "CC"]', "5\n6\n", "holds 4 sequences, but .* holds 2 taxids"),
    "more taxids": ('["AC"]', "5\n6\n7\n", "holds 1 sequences, but .* holds 3 taxids"),
    "no taxids": ('["AC"]', "", "holds 1 sequences, but .* holds 0 taxids"),
    "number": ('["AC", 5]', "5\n6\n", "record 2: the element is a number; expected a string"),
    "null": ('["AC", null]', "5\n6\n", "record 2: the element is null"),
    "object": ('["AC", {"a": "AC"}]', "5\n6\n", "record 2: the element is an object"),
    "list": ('["AC", ["GT"]]', "5\n6\n", "record 2: the element is a list"),
    "word as taxid": ('["AC", "GT"]', "5\nE. coli\n", "line 2: found 'E. coli'; expected one taxid"),
    "negative taxid": ('["AC", "GT"]', "5\n-6\n", "line 2: found '-6'"),
    "blank line": ('["AC", "GT"]', "5\n\n6\n", "line 3: found a blank line before it"),
    "second list": ('["AC"] ["GT"]', "5\n6\n", "damaged or cut off.*trailing garbage"),
    "long taxid": ('["AC"]', "1" * 19 + "\n", "line 1: found '1111"),
    "two on a line": ('["AC", "GT"]', "5 6\n", "line 1: found '5 6'"),
}


@pytest.mark.parametrize("case", BAD_BERTAX)
def test_malformed_bertax(folder, case):
    """Sequences and taxids must never be out of step."""
    fragments, taxids, match = BAD_BERTAX[case]
    refuse(put_bertax(folder, fragments, taxids), match=match)


def test_bertax_halves_without_the_other(folder):
    """Whichever of both is missing."""
    refuse(folder.put("A_fragments.json", '["AC"]'), match="beside it 'X_species_picked.txt'")
    refuse(folder.put("B.json", '["AC"]'), match="without their taxids")
    companion = folder.put("C_species_picked.txt", "5\n")
    refuse(companion, match="expected 'C_fragments.json' among the inputs")
    other = folder.put("sub/C_fragments.json", '["AC"]')
    refuse(other, companion, match="expected 'C_fragments.json'")
    refuse(folder.zip("a.zip", {"d/C_species_picked.txt": "5\n"}), match="C_fragments.json")


@pytest.mark.parametrize("place", [1, 20, -9, -1])
def test_bertax_with_a_cut_companion(folder, place):
    """The error names the companion."""
    path = put_bertax(folder, json.dumps(["AC"] * 50), "562\n" * 50)
    data = gzip.compress(b"562\n" * 50)
    os.remove(folder.path / "A_species_picked.txt")
    companion = folder.put("A_species_picked.txt.gz", data[:place])
    assert refuse(path, match="found" if place == 1 else "cut off").path == companion


def test_bertax_json_is_streamed(folder):
    """The first record comes long before the end is read."""
    path = put_bertax(folder, json.dumps(["ACGT" * 375] * 4000), "5\n" * 4000)
    reader = read_sources([path])
    next(reader)
    assert reader.bytes_read < reader.total_bytes / 4
    assert sum(1 for _ in reader) == 3999


def test_other_json(folder):
    """An object is no list of sequences."""
    refuse(folder.put("a.json", '{"a": "AC", "sequence": "AC"}'), match='found \'{"a": "AC"')


# ---------------------------------------------------------------- tables


def test_tables_of_bertax_and_microbert(folder):
    """BERTax's own columns, and rank columns; the file's name tells the split."""
    text = "\tx\ty\ttax_id\tsuperkingdom\tgenus\n0\tAC\t1\t562\tBacteria\tEscherichia\n"
    path = folder.put("train.tsv", text)
    assert cells(read(path)) == [("row1", "AC", 562, "", path, "train")]
    assert read(path, ranks=RANKS)[0].label == ("Bacteria", "Escherichia")


def test_cells_of_a_table(folder):
    """Names, genomes and splits, empty cells, and words for no taxon."""
    path = folder.put(
        "a.csv",
        "sequence,genus,superkingdom,name,genome,split,taxid\n"
        "AC,Nyavirus,Viruses,n1,g1,val,5\n"
        "GT,unknown,Bacteria,,,Training,\n"
        "AA,,,n3,,,7\n",
    )
    assert cells(read(path)) == [
        ("n1", "AC", 5, "g1", path, "validation"),
        ("row2", "GT", None, "", path, "train"),
        ("n3", "AA", 7, "", path, None),
    ]
    assert [r.kind for r in read(path)] == ["row", "nameless row", "row"]
    labels = [r.label for r in read(path, ranks=("domain", "genus"))]
    assert labels == [("Viruses", "Nyavirus"), ("Bacteria", ""), None]


def test_parquet(folder):
    """The same cells; its hash is that of the file."""
    frame = pd.DataFrame({"name": ["a", "b"], "sequence": ["AC", "GT"], "taxid": [5, None]}).astype(
        {"taxid": "Int64"}
    )
    path = str(folder.path / "a.dat")
    frame.to_parquet(path)
    reader = read_sources([path])
    assert [r[:4] for r in reader] == [("a", "AC", 5, ""), ("b", "GT", None, "")]
    (file,) = reader.files
    data = Path(path).read_bytes()
    assert (file.format, file.records) == ("Parquet", 2)
    assert (file.bytes, file.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert reader.bytes_read == reader.total_bytes == len(data)
    refuse(folder.zip("a.zip", {"a.parquet": data}), match="Parquet file inside an archive.*unpack it")
    refuse(folder.put("a.parquet.gz", gzip.compress(data)), match="Parquet file inside")


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ("AC\tx5\t", r"record 2: taxid is 'x5'; expected a number"),
        ("AC\t5.0\t", r"record 2: taxid is '5.0'"),
        ("AC\t5\tholdout", r"record 2: split is 'holdout'"),
        ("AC\t5\ttest\tmore", r"record 2: found 4 cells; expected 3"),
        ("AC\t5", r"record 2: found 2 cells; expected 3"),
    ],
)
def test_malformed_rows(folder, row, match):
    """Each error has the number of the row."""
    refuse(folder.put("a.tsv", f"sequence\ttaxid\tsplit\nAC\t5\t\n{row}\n"), match=match)


def test_tables_without_labels(folder):
    """A table of labels can tell them, by name or by file."""
    path = folder.put("a.tsv", "name\tsequence\tsplit\nn1\tAC\tval\nn2\tGT\t\n")
    refuse(path, match="found the columns name, sequence, split; expected 'taxid' too")
    refuse(path, match="expected one for each of the ranks", ranks=RANKS)
    labels = folder.put("l.tsv", "name\ttaxid\tgenome\tsplit\nn1\t5\tg\ttest\nn2\t6\t\ttrain\n")
    assert cells(read(path, labels=labels)) == [
        ("n1", "AC", 5, "g", path, "validation"),
        ("n2", "GT", 6, "", path, "train"),
    ]
    labels = folder.put("r.tsv", "file\tdomain\tgenus\na.tsv\tBacteria\tVibrio\n")
    records = read(path, labels=labels, ranks=RANKS)
    assert [(r.label, r.genome) for r in records] == [(("Bacteria", "Vibrio"), "a.tsv")] * 2


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train.tsv", "train"),
        ("test.csv.gz", "test"),
        ("bertax_test.tsv", "test"),
        ("my-dev.set.tsv", "validation"),
        ("VALIDATION.tsv", "validation"),
        ("x.val.tsv", "validation"),
        ("latest.tsv", None),
        ("train_test.tsv", None),
        ("contest-1.tsv", None),
    ],
)
def test_splits_by_the_name_of_the_file(folder, name, split):
    """Of tables and of FASTA, also in an archive."""
    assert [r.split for r in read(folder.put(name, "sequence\ttaxid\nAC\t5\n"))] == [split]
    assert [r.split for r in read(folder.put(name, ">a\nAC\n"))] == [split]
    assert [r.split for r in read(folder.zip("a.zip", {f"in/{name}": ">a\nAC\n"}))] == [split]


# ---------------------------------------------------------------- manifests


def test_manifest(folder):
    """Its rows name the files and tell their labels, genomes and splits."""
    a = folder.put("data/s/a.fa", ">r1 kraken:taxid|1\nAC\n>r2\nGT\n")
    b = folder.put("data/b.gb", genbank("B1.1"))
    path = folder.put("data/all.csv", "file,taxid,genome,split\ns/a.fa,5,,test\nb.gb,6,g,\ns/a.fa,5,,test\n")
    reader = read_sources([path])
    assert [(r.name, r.label, r.genome, r.split, r.file) for r in reader] == [
        ("r1", 5, "a.fa", "test", a),
        ("r2", 5, "a.fa", "test", a),
        ("B1.1", 6, "g", None, b),
    ]
    assert [(f.format, f.records) for f in reader.files] == [("manifest", 0), ("FASTA", 2), ("GenBank", 1)]
    assert reader.total_bytes == reader.bytes_read == sum(map(os.path.getsize, (a, b, path)))


def test_manifest_with_ranks_and_by_name(folder):
    """Beside a name, the file says where the record lies."""
    folder.put("a.fa", ">r1\nAC\n>r2\nGT\n")
    path = folder.put("m.tsv", "name\tfile\tdomain\tgenus\nr1\ta.fa\tBacteria\tVibrio\nr2\ta.fa\tViruses\t\n")
    assert [r.label for r in read(path, ranks=RANKS)] == [("Bacteria", "Vibrio"), ("Viruses", "")]


def test_manifest_beside_other_inputs(folder):
    """It tells the labels of its own files only."""
    a, b = folder.put("a.fa", ">r\nAC\n"), folder.put("b.fa", ">r kraken:taxid|7\nAC\n")
    path = folder.put("m.tsv", "file\ttaxid\na.fa\t5\n")
    assert [(r.file, r.label) for r in read(path, b)] == [(a, 5), (b, 7)]
    labels = folder.put("l.tsv", "file\ttaxid\na.fa\t1\nb.fa\t2\n")
    assert [(r.file, r.label) for r in read(path, b, labels=labels)] == [(a, 5), (b, 2)]
    refuse(a, path, match="the same input is named twice")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("file\ttaxid\na.fa\t5\nnone.fa\t5\n", "record 2: found 'none.fa'; expected a file"),
        ("file\ttaxid\na.fa\t5\n\t5\n", "record 2: found ''; expected a file"),
        ("file\ttaxid\na.fa\tx\n", "record 1: taxid is 'x'"),
        ("file\tnote\na.fa\tx\n", "expected 'taxid'"),
        ("file\ttaxid\nother.tsv\t5\n", "a list of files that another list names"),
    ],
)
def test_malformed_manifests(folder, text, match):
    """Rows that name no file, and lists without labels."""
    folder.put("a.fa", ">r\nAC\n")
    folder.put("other.tsv", "file\ttaxid\na.fa\t5\n")
    refuse(folder.put("m.tsv", text), match=match)


def test_manifest_from_a_pipe(folder):
    """It is read twice: for the files and for their labels."""
    path = folder.put("m.tsv", "file\ttaxid\na.fa\t5\n")
    code = "import sys; from wyrcli.sources import read_sources; list(read_sources([sys.argv[1]]))"
    for argument in ("-", "/dev/stdin"):
        command = [sys.executable, "-c", code, argument]
        done = subprocess.run(command, input=Path(path).read_bytes(), capture_output=True)
        assert b"a list of files from a pipe; give it as a file" in done.stderr


# ---------------------------------------------------------------- archives


def test_archive_with_everything(folder):
    """All formats in one, in the order of the archive; what is no data is passed over."""
    members: dict[str, bytes | str] = {
        "README": 'hello, world: "text\n',
        "top/": "",
        "top/z.fa": CONTENT["FASTA"],
        "__MACOSX/top/._z.fa": b"\0\5\26\7",
        "top/.DS_Store": b"\0\0\0\1Bud1",
        "top/notes.md": "# Notes\n",
        "top/md5sum.txt": "d41d8cd98f00b204e9800998ecf8427e  z.fa\n",
        "dataset_catalog.json": '{"assemblies": []}',
        "top/a.fq.gz": gzip.compress(CONTENT["FASTQ"].encode()),
        "top/c_species_picked.txt": COMPANION,
        "top/c_fragments.json.xz": lzma.compress(CONTENT["BERTax JSON"].encode()),
        "top/seqs.txt": CONTENT["FASTA"],
        "b.gbff": CONTENT["GenBank"],
        "test.tsv": CONTENT["table"],
        "empty.fa": "",
    }
    path = folder.zip("data.zip", members)
    reader = read_sources([path])
    records = list(reader)
    order = ["top/z.fa", "top/a.fq.gz", "top/c_fragments.json.xz", "top/seqs.txt", "b.gbff", "test.tsv"]
    assert [r.file for r in records] == [f"{path}/{name}" for name in order for _ in range(3)]
    assert [r.sequence.upper() for r in records] == SEQUENCES * 6
    assert [r.label for r in records] == [56, 57, 58] * 6
    assert {r.split for r in records[-3:]} == {"test"}
    (file,) = reader.files
    assert (file.format, file.records, file.bytes) == ("zip", 18, os.path.getsize(path))
    assert file.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("members", "match"),
    [
        ({"a.zip": b"PK\3\4rest"}, "a zip archive inside an archive"),
        ({"a.bin": b"\0\1\2"}, "expected FASTA"),
        ({"classes.pkl": b"\x80\4K\1."}, "expected FASTA"),
        ({"labels.tsv": "name\ttaxid\na\t5\n"}, "a table with the columns name, taxid"),
        ({"m.tsv": "file\ttaxid\na.fa\t5\n"}, "a list of files inside an archive"),
        ({"README.txt": "sequence\ttaxid\nAC\tx\n"}, "taxid is 'x'"),
        ({"a_fragments.json": '["AC"]', "b_species_picked.txt": "5\n"}, "expected 'b_fragments.json'"),
        ({"a_fragments.json": '["AC"]'}, "without their taxids"),
        ({"a_fragments.json": '["AC"]', "a_species_picked.txt": "x\n"}, "a_species_picked.txt, line 1"),
    ],
)
def test_members_that_cannot_be_read(folder, members, match):
    """The error names archive and member."""
    error = refuse(folder.zip("d.zip", members), match=match)
    assert error.path is not None and error.path.startswith(str(folder.path / "d.zip/"))


def test_encrypted_archive(folder):
    """There is no way to tell a password."""
    path = folder.zip("a.zip", {"a.fa": ">a\nAC\n"}, zipfile.ZIP_STORED)
    data = bytearray(Path(path).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\1\2") + 8] |= 1
    Path(path).write_bytes(data)
    assert refuse(path, match="encrypted").path == f"{path}/a.fa"


def test_damaged_members_named_like_documentation(folder):
    """A damaged table is no text to be passed over."""
    rows = "sequence\ttaxid\n" + "AC\t5\n" * 2000
    data = gzip.compress(rows.encode())
    refuse(folder.zip("a.zip", {"a.txt": data[: len(data) // 2]}), match="cut off")
    path = folder.zip("b.zip", {"a.txt": rows}, zipfile.ZIP_STORED)
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole.replace(b"sequence", b"Xequence"))
    refuse(path, match="damaged")
    header = gzip.compress(random.Random(1).randbytes(1_500_000).hex().encode())
    refuse(folder.zip("c.zip", {"a.txt": header[: len(header) // 2]}), match="cut off")
    path = folder.zip("d.zip", {"README": "text\n" * 400_000}, zipfile.ZIP_STORED)
    whole = bytearray(Path(path).read_bytes())
    whole[1_900_000] ^= 1
    Path(path).write_bytes(whole)
    refuse(path, match="Bad CRC-32 for file 'README'")


def test_members_of_one_name(folder):
    """Neither is passed over."""
    path = str(folder.path / "a.zip")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.fa", ">a\nAC\n")
        with pytest.warns(UserWarning, match="Duplicate name"):
            archive.writestr("a.fa", ">b\nAC\n")
    refuse(path, match="two members with one name")


def test_empty_archive(folder):
    """No member, no record."""
    assert read(folder.zip("a.zip", {})) == []
    refuse(folder.put("a.gz", gzip.compress(Path(folder.path / "a.zip").read_bytes())), match="a zip archive")


# ---------------------------------------------------------------- folders and names


def test_folder(folder):
    """Every file with the ending of a format, sorted; nothing hidden, and nothing else."""
    names = ["b.FNA", "a/x.fq.bz2", "a/train.tsv", "a-b.fasta.gz", "c_fragments.json"]
    for name in (
        *names,
        "a/.x.fa",
        ".git/x.fa",
        "notes.txt",
        "c_species_picked.txt",
        "x.fa.tmp",
        "dataset_catalog.json",
    ):
        text = {"json": '["AC"]', "txt": "5\n", "tsv": "sequence\ttaxid\nAC\t5\n"}.get(
            name.split(".")[-1], ">a\nAC\n"
        )
        folder.put(f"in/{name}", '{"a": 1}' if "catalog" in name else text)
    records = read(str(folder.path / "in"))
    assert [r.file for r in records] == [str(folder.path / "in" / name) for name in sorted(names)]
    catalog = folder.put("in/dataset_catalog.json", '{"a": "' + "x" * 3_000_000 + '"}')
    reader = read_sources([str(folder.path / "in")])
    assert list(reader) == records
    (file,) = [file for file in reader.files if file.path == catalog]
    assert (file.format, file.bytes, file.records) == ("documentation", 3_000_009, 0)


def test_folders_with_nothing_or_too_much(folder):
    """An error says what to do."""
    (folder.path / "in").mkdir()
    path = str(folder.path / "in")
    refuse(path, match="no file of sequences in this folder")
    folder.put("in/notes.txt", ">a\nAC\n")
    refuse(path, match="no file of sequences in this folder")
    folder.put("in/a.fa", ">a\nAC\n")
    labels = folder.put("in/labels.tsv", "file\ttaxid\na.fa\t5\n")
    refuse(path, match="a list of files inside a folder")
    assert [r.label for r in read(path, labels=labels)] == [5]
    folder.put("in/other.tsv", "name\ttaxid\na\t5\n")
    refuse(path, match="give a table of labels with --labels", labels=labels)


def test_folder_with_links(folder):
    """A link to a folder is followed, but not in circles."""
    folder.put("real/a.fa", ">a\nAC\n")
    (folder.path / "in").mkdir()
    os.symlink(folder.path / "real", folder.path / "in/link")
    os.symlink(folder.path / "in", folder.path / "in/circle")
    assert len(read(str(folder.path / "in"))) == 1


def test_inputs_named_twice(folder):
    """However they are spelled; at once."""
    path = folder.put("in/a.fa", ">a\nAC\n")
    for paths in (
        [path, path],
        [path, str(folder.path / "in/../in/a.fa")],
        [path, str(folder.path / "in")],
        ["-", "-"],
    ):
        with pytest.raises(InputError, match="named twice"):
            read_sources(paths)


def test_missing_files_are_seen_at_once(folder):
    """Not after hours of reading others."""
    with pytest.raises(FileNotFoundError):
        read_sources([folder.put("a.fa", ">a\nAC\n"), str(folder.path / "none.fa")])


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (gzip.compress(b"BAM\1rest"), "this is a BAM file; .*; expected FASTA .'>'., FASTQ"),
        (b"CRAM\3\0", "this is a CRAM file"),
        (b"hello\nworld\n", "found 'hello'; expected FASTA"),
        (b"hello, world\n", "a table with the columns hello, world; expected a column 'sequence', or 'file'"),
        (b"; comment\n>a\nAC\n", "found '; comment'"),
        (gzip.compress(gzip.compress(b">a\nAC\n")), "a gzip file inside a compressed file"),
        ("ACGT".encode("utf-16"), "expected FASTA"),
        (b"\x89HDF\r\n\x1a\n", "expected FASTA"),
        (gzip.compress(b"PK\3\4rest"), "a zip archive inside"),
        (b"PK\3\4rest", "zip archive is damaged or cut off"),
    ],
)
def test_other_content(folder, data, match):
    """The error says what was found."""
    refuse(folder.put("a.fa", data), match=match)


# ---------------------------------------------------------------- large tables of labels


def test_of_large_tables_only_what_is_needed_is_kept(folder, monkeypatch):
    """The names are collected first, where the inputs can be read twice."""
    asked: list[object] = []
    read_labels = wyrcli.sources.read_labels

    def spy(path, *, ranks=None, wanted=None):
        asked.append(wanted)
        return read_labels(path, ranks=ranks, wanted=wanted)

    monkeypatch.setattr(wyrcli.sources, "read_labels", spy)
    labels = folder.put("l.tsv", "name\tfile\ttaxid\na\t\t5\nx\t\t6\n\tb.fa\t7\n")
    paths = [
        folder.put("a.fa", ">a\nAC\n"),
        folder.zip("z.zip", {"b.fa": ">b\nAC\n", "c.gb": genbank("C1.1")}),
    ]
    expected = read(*paths, labels=labels)
    monkeypatch.setattr(wyrcli.sources, "_LARGE_LABELS_BYTES", 10)
    reader = read_sources(paths, labels=Path(labels))
    assert asked == [None, {"a", "b", "C1.1"}]
    assert list(reader) == expected
    assert [r.label for r in expected] == [5, 7, None]
    assert reader.bytes_read == reader.total_bytes and len(reader.files) == 2
    read_sources([*paths, "-"], labels=Path(labels))
    assert asked[-1] is None
    domains = folder.put("d.tsv", "name\tdomain\tgenus\na\tBacteria\tVibrio\n")
    assert [r.label for r in read(*paths, labels=domains, ranks=RANKS)] == [
        ("Bacteria", "Vibrio"),
        None,
        None,
    ]
