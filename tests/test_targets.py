"""Names of taxa as users write them, and what is asked of every window."""

from __future__ import annotations

import pytest
from toy import TAXONOMY

from wyrcli.errors import TaxonomyError
from wyrcli.targets import Place, Question, ask, find_taxon, parse_thresholds
from wyrcli.taxonomy import Taxonomy

SHARED = Taxonomy(
    ("superkingdom", "genus"),
    (("Bacteria", "Twin"), ("twin", "Nyavirus", "NYAVIRUS", "genus:odd", "Orbivirus")),
)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("Left", Place(0, 0, 0)),
        ("RIGHT", Place(0, 1, 1)),
        ("three", Place(1, 2, 4)),
        ("phylum:Three", Place(1, 2, 4)),
        ("domain:left", Place(0, 0, 0)),
        ("Phylum: three", Place(1, 2, 4)),
    ],
)
def test_find(text: str, place: Place) -> None:
    """In any case of letters, of any rank, with or without the rank."""
    assert find_taxon(TAXONOMY, text) == place


def test_find_what_is_written_alike() -> None:
    """The exact spelling wins; a rank tells twins apart; a colon may be part of a name."""
    assert find_taxon(SHARED, "NYAVIRUS").within == 2
    assert find_taxon(SHARED, "Nyavirus").within == 1
    assert find_taxon(SHARED, "genus:TWIN") == Place(1, 0, 2)
    assert find_taxon(SHARED, "superkingdom:TWIN") == Place(0, 1, 1)
    assert find_taxon(SHARED, "genus:odd").within == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("TWIN", "'TWIN' may be any of 2 taxa; say 'superkingdom:Twin' or 'genus:twin'"),
        ("nyaVirus", "say 'genus:Nyavirus' or 'genus:NYAVIRUS'"),
        ("Orbivrus", "this model knows no taxon 'Orbivrus'; did you mean Orbivirus"),
        ("genus:Orbivrus", "did you mean Orbivirus"),
        ("superkingdom:Orbivirus", "knows no taxon 'superkingdom:Orbivirus'; did you mean Orbivirus"),
        ("Q", "this model knows no taxon 'Q'$"),
        ("", "knows no taxon ''$"),
        ("\x1b[31m", r"knows no taxon '\?\[31m'$"),
    ],
)
def test_find_fails_in_one_line(text: str, message: str) -> None:
    """What is unknown or ambiguous, with what may have been meant."""
    with pytest.raises(TaxonomyError, match=message) as caught:
        find_taxon(SHARED, text)
    assert "\n" not in str(caught.value)


def test_ask() -> None:
    """Targets, then the contrast, then the top k; each target once."""
    question = ask(TAXONOMY, targets=["three", "left", "Three"], contrast=("One", "right"), top_k=2)
    assert [goal.name for goal in question.goals] == ["Three", "Left", "One"]
    assert question.goals[2].against == "Right" and question.goals[2].against_place == Place(0, 1, 1)
    assert (question.size, question.top_rank, question.rank, question.thresholds) == (5, 1, None, ())
    assert ask(TAXONOMY) == Question(top_rank=1) and ask(TAXONOMY).size == 1
    assert ask(TAXONOMY, rank="domain", top_k=2, thresholds=(0.0, 0.2)) == Question(
        0, (), 2, 0, thresholds=(0.0, 0.2)
    )
    assert ask(TAXONOMY, thresholds=(0.0, 0.0)).thresholds == ()


def test_ask_what_cannot_be() -> None:
    """More classes than there are, and a contrast of nothing."""
    with pytest.raises(TaxonomyError, match=r"4 most probable taxa of rank phylum.*has 3"):
        ask(TAXONOMY, top_k=4)
    with pytest.raises(TaxonomyError, match="'Left' with itself"):
        ask(TAXONOMY, contrast=("left", "superkingdom:LEFT"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, (0.25, 0.0)),
        ("0.8", (0.8, 0.8)),
        ("0", (0.0, 0.0)),
        ("phylum=0.5", (0.25, 0.5)),
        ("domain=0, phylum=1", (0.0, 1.0)),
    ],
)
def test_thresholds(text: str | None, expected: tuple[float, ...]) -> None:
    """Of all ranks, or of those named; the checkpoint's stand where nothing else is said."""
    assert parse_thresholds(text, TAXONOMY.ranks, {"superkingdom": 0.25}) == expected


@pytest.mark.parametrize(
    "text", ["", "high", "1.1", "-0.1", "nan", "phylum=", "phylum=x", "phylum=.5,phylum=.6"]
)
def test_bad_thresholds(text: str) -> None:
    """No probability, or a rank twice."""
    with pytest.raises(ValueError):
        parse_thresholds(text, TAXONOMY.ranks)


def test_threshold_of_an_unknown_rank() -> None:
    """The ranks that there are stand in the message."""
    with pytest.raises(TaxonomyError, match=r"unknown rank 'genus'; this model has superkingdom, phylum"):
        parse_thresholds("genus=0.5", TAXONOMY.ranks)
