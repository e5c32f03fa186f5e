"""What tables and header lines say of a record."""

from __future__ import annotations

import gzip
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wyrcli.errors import InputError
from wyrcli.labels import (
    SPLIT_NAMES,
    Columns,
    Entry,
    Label,
    Labels,
    find_columns,
    read_labels,
    taxid_in_header,
)

RANKS = ("superkingdom", "phylum", "genus")


def entry(label: Label | None, genome: str | None = None, split: str | None = None) -> Entry:
    return Entry(label, genome, split)


def load(folder: Path, text: str | bytes, **options: Any) -> Labels:
    path = folder / "labels"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_labels(path, **options)


# ---------------------------------------------------------------- columns


def test_columns() -> None:
    def found(*columns: str) -> Columns:
        return find_columns(columns, None, "t")

    none = Columns(None, None, None, None, None, None, ())
    assert found("organism", "x") == none
    assert found("x", "tax_id") == none._replace(sequence="x", taxid="tax_id")
    assert found("x", "taxid") == none._replace(taxid="taxid")
    assert found("x", "Seq", "tax_id").sequence == "Seq"
    assert found("seq", "SEQUENCE").sequence == "SEQUENCE"
    assert found("Taxon_ID").taxid == "Taxon_ID"
    assert found("FileName", "Split", "GENOME") == none._replace(
        file="FileName", split="Split", genome="GENOME"
    )
    names = ("name", "id", "accession.version", "accession", "read_id", "sequence_id", "seqid")
    for first, second in itertools.pairwise(names):
        assert found(second, first).name == first  # whatever their order in the table
    genomes = ("genome", "assembly", "assembly_accession", "group")
    for first, second in itertools.pairwise(genomes):
        assert found(second.upper(), first.upper()).genome == first.upper()
    assert found("seqid").name == "seqid"
    assert found("group").genome == "group"


def test_rank_columns() -> None:
    found = find_columns(["Genus", "id", "Domain", "phylum"], RANKS, "t")
    assert found.ranks == ("Domain", "phylum", "Genus")
    assert find_columns(["domain", "superkingdom"], ("superkingdom",), "t").ranks == ("superkingdom",)
    assert find_columns(["domain", "superkingdom"], ("domain",), "t").ranks == ("domain",)
    assert find_columns(["superkingdom"], ("domain",), "t").ranks == ("superkingdom",)
    assert find_columns(["genus"], None, "t").ranks == ()
    with pytest.raises(InputError) as caught:
        find_columns(["id", "superkingdom", "genus"], RANKS, "t.csv")
    assert str(caught.value) == (
        "t.csv: found the columns id, superkingdom, genus; expected one for each of the ranks "
        "superkingdom, phylum, genus, and 'phylum' has none"
    )
    with pytest.raises(InputError, match="the columns domain, acellular root are one rank"):
        find_columns(["domain", "acellular root"], ("superkingdom",), "t")


def test_two_columns_of_one_name_are_refused() -> None:
    with pytest.raises(InputError, match="t: 2 columns are named 'taxid'; expected one"):
        find_columns(["taxid", "name", "TaxID"], None, "t")
    with pytest.raises(InputError, match="2 columns are named 'domain'"):
        find_columns(["domain", "Domain"], ("superkingdom",), "t")


# ---------------------------------------------------------------- look-up


def test_find() -> None:
    labels = Labels(
        {"r.1": entry(1), "r": entry(2)},
        {"a.fna": entry(3), "GCF_000005845.2": entry(4), "GCF_000005845.2_b.fna": entry(5)},
    )
    assert labels.find("r.1", "a.fna") == (entry(1), False)
    assert labels.find("r", "a.fna") == (entry(2), False)
    assert labels.find("r.12", "a.fna") == (entry(2), False)
    assert labels.find("r.1x", "some/where/a.fna") == (entry(3), True)
    assert labels.find("r.", "GCF_000005845.2_ASM584v2_genomic.fna.gz") == (entry(4), True)
    assert labels.find("x", "d/GCF_000005845.2_b.fna") == (entry(5), True)
    assert labels.find("x", "GCF_000005845.2") == (entry(4), True)
    for file in ("GCF_000005845.21_x.fna", "GCF_000005845.fna", "xGCF_000005845.2", "b.fna", "-", ""):
        assert labels.find("x", file) == (None, False)


def test_a_file_is_known_by_the_end_of_its_path(tmp_path: Path) -> None:
    rows = "GCF_1/genomic.fna,1\nGCF_2/genomic.fna,2\nd/GCF_1/genomic.fna,3\n../b.fna,4\n/abs/c.fna,5\n"
    labels = load(tmp_path, "file,taxid\n" + rows)
    for file, taxid in (
        ("GCF_1/genomic.fna", 1),
        ("x/GCF_1/genomic.fna", 1),
        ("x/d/GCF_1/genomic.fna", 3),  # the one that tells more
        ("x/../GCF_2/./genomic.fna", 2),
        ("x/b.fna", 4),
        ("/abs/c.fna", 5),
    ):
        assert labels.find("r", file) == (entry(taxid), True)
    for file in ("GCF_9/genomic.fna", "genomic.fna", "xGCF_1/genomic.fna", "c.fna"):
        assert labels.find("r", file) == (None, False)
    assert (len(labels), labels.count_unused()) == (5, 0)
    bare = load(tmp_path, "file,taxid\ngenomic.fna,1\nGCF_2/genomic.fna,2\nother.fna,3\n")
    found = [bare.find("r", f"{folder}/genomic.fna")[0] for folder in ("GCF_1", "GCF_2", "GCF_3")]
    assert found == [entry(1), entry(2), entry(1)] and bare.count_unused() == 1


def test_a_row_without_taxid_is_an_entry(tmp_path: Path) -> None:
    labels = load(tmp_path, "name\ttaxid\tgenome\nr1\t\tg\nr2\t\t\n")
    assert labels.by_name == {"r1": entry(None, "g"), "r2": entry(None)}
    assert labels.find("r2", "x") == (entry(None), False)


def test_label_tables(tmp_path: Path) -> None:
    labels = load(tmp_path, '#name\ttaxid\tfile\nr"1\t 5 \tf\nr2\t\t\n\t7\tdir/g\nr"1\t5\t\n\n\t9\t\n')
    assert labels == Labels({'r"1': entry(5), "r2": entry(None)}, {"dir/g": entry(7)})
    assert labels.find('r"1', "dir/g") == (entry(5), False)
    assert labels.find("r9", "dir/g") == (entry(7), True)
    assert labels.find("r9", "f") == (None, False)


def test_manifest_by_file(tmp_path: Path) -> None:
    header = "\ufeffFile,organism,TaxID,Assembly,SPLIT\n"
    text = header + 'some/where/a.fna,"x, y",403,g 1,Training\nb.fna.gz,z,405,,\n'
    labels = load(tmp_path, text)
    assert labels.by_name == {}
    assert labels.by_file == {"some/where/a.fna": entry(403, "g 1", "train"), "b.fna.gz": entry(405)}
    assert labels.find("x", "is/some/where/a.fna") == (entry(403, "g 1", "train"), True)
    assert labels.find("x", "elsewhere/a.fna") == (None, False)


def test_splits(tmp_path: Path) -> None:
    rows = "".join(f"{name}\t1\t {name.upper()} \n" for name in SPLIT_NAMES)
    labels = load(tmp_path, "name\ttaxid\tsplit\n" + rows)
    assert {name: e.split for name, e in labels.by_name.items()} == dict(SPLIT_NAMES)
    assert set(SPLIT_NAMES.values()) == {"train", "validation", "test"}


def test_taxa_by_rank(tmp_path: Path) -> None:
    header = "id,Genus,kingdom,domain,phylum\n"
    text = header + "r1, Homo ,x,Eukaryota,Chordata\nr2,NA,y,Bacteria,Unknown\nr3,none,z,n/a,\n"
    labels = load(tmp_path, text, ranks=RANKS)
    assert labels.by_name == {
        "r1": entry(("Eukaryota", "Chordata", "Homo")),
        "r2": entry(("Bacteria", "", "")),
        "r3": entry(None),
    }
    with pytest.raises(InputError, match="r1' has taxa A;;B, genome g here and no label, genome g above"):
        load(
            tmp_path,
            "name,superkingdom,phylum,genus,genome\nr1,,,,g\nr1,A,,B,g\n",
            ranks=RANKS,
        )


def test_assembly_summary(tmp_path: Path) -> None:
    text = (
        "##  See ftp://ftp.ncbi.nlm.nih.gov/genomes/README_assembly_summary.txt for a description.\n"
        "#assembly_accession\tbioproject\trefseq_category\ttaxid\tspecies_taxid\torganism_name\tgroup\n"
        'GCF_000005845.2\tPRJNA57779\treference genome\t511145\t562\tEscherichia "coli"\tbacteria\n'
        "GCA_000001405.29\tPRJNA31257\treference genome\t9606\t9606\tHomo sapiens\tvertebrate\n"
    )
    labels = load(tmp_path, text, wanted=set())
    assert labels.by_name == {}
    found = labels.find("NC_000913.3", "refseq/GCF_000005845.2_ASM584v2_genomic.fna.gz")
    assert found == (entry(511145, "GCF_000005845.2"), True)
    assert labels.find("chr1", "GCA_000001405.29.fa") == (entry(9606, "GCA_000001405.29"), True)
    # Beside a name, the accession is no key.
    named = load(tmp_path, "name\tassembly_accession\ttaxid\nr1\tGCF_1.1\t5\n\tGCF_1.2\t6\n")
    assert named.by_name == {"r1": entry(5, "GCF_1.1")} and named.by_file == {}


# ---------------------------------------------------------------- accession2taxid


def accession2taxid(rows: Sequence[tuple[str, str, int]]) -> bytes:
    lines = ["accession\taccession.version\ttaxid\tgi", *(f"{a}\t{v}\t{t}\t0" for a, v, t in rows)]
    return gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0)


def test_accession2taxid(tmp_path: Path) -> None:
    rows = [(f"NC_{i:06d}", f"NC_{i:06d}.{i % 3 + 1}", i % 7 + 1) for i in range(60_000)]
    data = accession2taxid(rows)
    labels = load(tmp_path, data)
    assert len(labels.by_name) == 120_000
    for i in (0, 1, 30_000, 59_999):
        for name in (*rows[i][:2], rows[i][0] + ".9"):
            assert labels.find(name, "x") == (entry(rows[i][2]), False)
    few = load(tmp_path, data, wanted=["NC_000001.2", "NC_050000", "NC_000003.9", "NC_9"])
    assert few.by_name == {name: entry(i % 7 + 1) for i in (1, 3, 50_000) for name in rows[i][:2]}
    (tmp_path / "labels").write_bytes(data[:-20])
    for wanted in (None, {"none"}):
        with pytest.raises(InputError, match=r"labels, line \d+: the gzip stream is cut off"):
            read_labels(tmp_path / "labels", wanted=wanted)


def test_accession2taxid_full(tmp_path: Path) -> None:
    labels = load(tmp_path, "accession.version\ttaxid\nWP_1.1\t5\nWP_1.2\t6\nWP_2.1\t7\n", wanted={"WP_1.2"})
    assert labels.by_name == {"WP_1.2": entry(6)}
    # Beside a name of its own, an accession is no key.
    named = load(tmp_path, "accession\tname\ttaxid\nNC_1\tr1\t5\n")
    assert named.by_name == {"r1": entry(5)}
    # Beside a file, an accession is one of many in it.
    filed = load(tmp_path, "accession\tfile\ttaxid\nNC_1\td/a.fna\t5\n")
    assert filed == Labels({}, {"d/a.fna": entry(5)})


NAME = st.text("ab.1", min_size=1, max_size=4)


@given(
    st.dictionaries(NAME, st.tuples(NAME, st.integers(1, 3)), max_size=6),
    st.dictionaries(NAME, st.integers(1, 3), max_size=3),
    st.lists(NAME, max_size=4),
)
def test_what_is_wanted_is_found_as_in_the_whole_table(
    tmp_path_factory: pytest.TempPathFactory,
    rows: dict[str, tuple[str, int]],
    files: dict[str, int],
    wanted: list[str],
) -> None:
    folder = tmp_path_factory.getbasetemp()
    text = "name\tfile\ttaxid\n" + "".join(f"{n}\t{f}\t{t}\n" for n, (f, t) in rows.items())
    text += "".join(f"\t{f}/\t{t}\n" for f, t in files.items() if f.strip("."))
    whole, part = load(folder, text), load(folder, text, wanted=wanted)
    assert part.by_file == whole.by_file
    for name in wanted:
        assert part.find(name, "a") == whole.find(name, "a")
    near = {*wanted, *(name.rpartition(".")[0] for name in wanted)}
    assert set(part.by_name) <= near


def test_parquet_with_integers(tmp_path: Path) -> None:
    columns = {
        "Sequence": pa.array([[1.0], [2.0]]),  # of a type that could not be read: it is not looked at
        "ID": pa.array([10, 11]),
        "tax_id": pa.array([562, None]),
        "split": pa.array(["dev", None]).dictionary_encode(),
    }
    for kind in (pa.int64(), pa.float64()):  # pandas makes the second of integers beside empty cells
        columns["tax_id"] = columns["tax_id"].cast(kind)
        pq.write_table(pa.table(columns), tmp_path / "t.parquet")
        labels = read_labels(tmp_path / "t.parquet")
        assert labels.by_name == {"10": entry(562, None, "validation"), "11": entry(None)}


# ---------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "labels: found no header"),
        ("name\tgenus\n", "labels: found the columns name, genus; expected 'taxid', and 'name' or 'file'"),
        ("taxid,genome\n", "labels: found the columns taxid, genome; expected 'taxid', and 'name' or 'file'"),
        ("name\ttaxid\n\nr0\t1\nr1\tfive\n", "labels, record 2: taxid is 'five'; expected a number"),
        ("name\ttaxid\nr1\tNA\n", "record 1: taxid is 'NA'"),
        ("name\ttaxid\nr1\t-1\n", "record 1: taxid is '-1'"),
        ("name\ttaxid\nr1\t562.0\n", "record 1: taxid is '562.0'"),
        ("name\ttaxid\nr1\t\u0665\n", "record 1: taxid is '\u0665'"),
        (f"name\ttaxid\nr1\t{'1' * 5000}\n", "record 1: taxid is '1111"),
        ("name\ttaxid\nr1\t5\nr1\t6\n", "record 2: name 'r1' has taxid 6 here and taxid 5 above"),
        ("id\ttaxid\nr1\t5\nr1\t\n", "record 2: id 'r1' has no label here and taxid 5 above"),
        ("file,taxid\na/x,5\n./a//x,6\n", "record 2: file 'a/x' has taxid 6 here and taxid 5 above"),
        (
            "assembly_accession,taxid\nGCF_1.1,5\nGCF_1.1,6\n",
            "record 2: assembly_accession 'GCF_1.1' has taxid 6",
        ),
        (
            "accession\taccession.version\ttaxid\nNC_1\tNC_1.1\t5\nNC_1\tNC_1.2\t6\n",
            "record 2: accession 'NC_1' has taxid 6 here and taxid 5 above",
        ),
        (
            "name,taxid,genome,split\nr1,5,g,val\nr1,5,h,test\n",
            "'r1' has taxid 5, genome h, split test here and taxid 5, genome g, split validation above",
        ),
        (
            "name,taxid,split\nr1,5,holdout\n",
            "record 1: split is 'holdout'; expected one of train, training,",
        ),
        ("name,taxid,TAXID\nr1,5,5\n", "2 columns are named 'taxid'"),
        ("name,taxid\nr1,5,6\n", "record 1: found 3 cells; expected 2"),
        (b"name\ttaxid\n\xff\t5\n", "labels, line 2: found byte 0xff; expected UTF-8 text"),
    ],
)
def test_bad_tables(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500


def test_rank_tables_need_a_key_but_no_taxid(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found the columns genus, taxid; expected 'name' or 'file'"):
        load(tmp_path, "genus,taxid\n", ranks=("genus",))
    with pytest.raises(InputError, match="'phylum' has none"):
        load(tmp_path, "name,genus\n", ranks=("phylum", "genus"))
    assert load(tmp_path, "name,genus,taxid\nr1,A,x\n", ranks=("genus",)).by_name == {"r1": entry(("A",))}


def test_a_row_number_counts_all_rows(tmp_path: Path) -> None:
    text = "name\ttaxid\n" + "r\t1\n" * 400_000 + "q\tx\n"  # several blocks
    for wanted in (None, {"q"}):
        with pytest.raises(InputError) as caught:
            load(tmp_path, text, wanted=wanted)
        assert caught.value.record == 400_001


# ---------------------------------------------------------------- headers


def test_headers_tell_taxids() -> None:
    assert taxid_in_header("562 0") == 562
    assert taxid_in_header("562\t17") == 562
    assert taxid_in_header("NC_1|kraken:taxid|562|x text") == 562
    assert taxid_in_header("NC_1 kraken:taxid|562") == 562
    long = "9" * 5000
    for header in ("562", "read1", "562 1 2", "NC_1 562", "xkraken:taxid|562", "kraken:taxid|562x", ""):
        assert taxid_in_header(header) is None
    for header in (f"{long} 1", f"kraken:taxid|{long}"):
        assert taxid_in_header(header) is None
