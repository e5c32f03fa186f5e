"""One pass over reads with toy models: what is tallied, what is sampled, and that batches do not matter."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch
from toy import TAXONOMY, TOKENIZER, explainer, explanandum, labelled

from wyrcli.attribution import Options
from wyrcli.class_runs import split_again
from wyrcli.class_scores import PassOptions, Reservoir, ScoredReads, score_classes, spread
from wyrcli.examination import Subject, examine
from wyrcli.keywords import Asked, Frequencies
from wyrcli.peers import PEERS
from wyrcli.terms import KmerTerms

ASKED = [Asked(r, n) for r, size in enumerate(TAXONOMY.sizes) for n in range(size)]


def subject(batch_size: int = 8) -> Subject:
    """A random toy classifier in float64."""
    return Subject(explanandum(dtype=torch.float64), TOKENIZER, torch.device("cpu"), batch_size)


def score(options: PassOptions, batch_size: int = 8, order: np.ndarray | None = None) -> ScoredReads:
    """60 reads, scored for all classes."""
    windows = labelled(60, 30)
    if order is not None:
        windows.sequences = [windows.sequences[i] for i in order]
        windows.names = [windows.names[i] for i in order]
        windows.labels = windows.labels[order]
    terms = KmerTerms(3)
    own = explainer("state", dtype=torch.float64)
    return score_classes(subject(batch_size), own, windows, ASKED, terms, options, Frequencies(terms))


def test_only_recognised_reads_are_scored() -> None:
    """They and their labels are counted as by a plain loop."""
    windows = labelled(60, 30)
    found = score(PassOptions(sample=1000))
    predicted = subject().predict(windows.sequences)
    for row, own in enumerate(ASKED):
        mine = windows.labels[:, own.rank] == own.number
        right = mine & (predicted[:, own.rank] == own.number)
        assert found.labelled[row] == mine.sum()
        assert found.scores.reads[row] == right.sum() == len(found.samples[row].items)
        names = {read.name for read in found.samples[row].items}
        assert names == {windows.names[i] for i in np.flatnonzero(right)}
    assert found.scores.reads.sum() > 0


def test_scores_are_those_of_the_mask_of_the_class() -> None:
    """Of each sampled read, letter by letter."""
    windows = labelled(60, 30)
    found = score(PassOptions(sample=1000))
    own = explainer("state", dtype=torch.float64)
    examined = examine(subject(), own, windows, windows.labels)
    number = {name: i for i, name in enumerate(windows.names)}
    for row, asked in enumerate(ASKED):
        for read in found.samples[row].items:
            i = number[read.name]
            wanted = spread(examined.rank_masks[i][:, asked.rank], examined.spans[i], len(read.sequence))
            assert read.scores == pytest.approx(wanted, abs=1e-6)
            assert read.lineage == tuple(windows.labels[i].tolist())


@pytest.mark.parametrize("source", ["mask", "gradients"])
def test_batches_blocks_and_order_do_not_matter(source: str) -> None:
    """Not one number of the tally changes."""
    whole = score(PassOptions(source, steps=3))  # type: ignore[arg-type]
    order = np.random.default_rng(0).permutation(60)
    for other in (
        score(PassOptions(source, steps=3, block=7), batch_size=1),  # type: ignore[arg-type]
        score(PassOptions(source, steps=3), batch_size=60, order=order),  # type: ignore[arg-type]
    ):
        for ours, theirs in zip(whole.scores.pack(), other.scores.pack(), strict=True):
            assert ours == pytest.approx(theirs, abs=1e-4)


def test_gradients_are_of_one_rank() -> None:
    """The value of a rank alone: those of all ranks add up to the peer's usual score."""
    windows = labelled(6, 30)
    peer, asked = PEERS["integrated-gradients"], subject()
    whole = peer.explain(asked, windows.sequences, windows.labels, Options(steps=4))
    parts = [
        peer.explain(asked, windows.sequences, windows.labels, Options(steps=4, rank=rank)) for rank in (0, 1)
    ]
    for i in range(6):
        assert parts[0][i] + parts[1][i] == pytest.approx(whole[i], abs=1e-6)


def test_contrast_is_a_difference_of_masks() -> None:
    """Of both classes on the reads of the first."""
    windows = labelled(60, 30)
    terms = KmerTerms(3)
    own = explainer("state", dtype=torch.float64)
    found = score_classes(
        subject(), own, windows, [Asked(0, 1, 0)], terms, PassOptions(sample=1000), Frequencies(terms)
    )
    labels = [windows.labels.copy(), windows.labels.copy()]
    labels[0][:, 0], labels[1][:, 0] = 1, 0
    masks = [examine(subject(), own, windows, part) for part in labels]
    number = {name: i for i, name in enumerate(windows.names)}
    assert found.samples[0].items
    for read in found.samples[0].items:
        i = number[read.name]
        spans, length = masks[0].spans[i], len(read.sequence)
        ours, theirs = (spread(part.rank_masks[i][:, 0], spans, length) for part in masks)
        assert read.scores == pytest.approx(ours - theirs, abs=1e-6)


def test_draws_go_by_genome_where_there_are_some() -> None:
    """Reads of one genome are drawn together; where there is but one genome, each by itself."""

    def drawn(groups: int) -> list[int]:
        windows = labelled(60, 30)
        windows.names = [f"genome{i % groups}" for i in range(60)]
        windows.labels[:] = 0
        terms = KmerTerms(3)
        options = PassOptions(runs=400)
        found = score_classes(
            subject(), explainer("state", dtype=torch.float64), windows, ASKED, terms, options
        )
        return found.scores.drawn[0].tolist()

    by_read, by_genome = drawn(1), drawn(6)
    # The number of reads drawn varies as a Poisson number: 10 at a time six times, or one at a time.
    assert np.mean(by_read) == pytest.approx(np.mean(by_genome), rel=0.15)
    assert np.std(by_genome) > 2 * np.std(by_read) > 0


def test_reservoir_is_fair() -> None:
    """Each item has the same chance, and no more are kept."""
    kept: Counter[int] = Counter()
    for seed in range(2000):
        own: Reservoir[int] = Reservoir(3, seed)
        for item in range(12):
            own.offer(lambda item=item: item)  # type: ignore[misc]
        assert len(own.items) == 3 and own.offered == 12
        kept.update(own.items)
    assert all(abs(kept[item] - 500) < 5 * np.sqrt(375) for item in range(12))


def test_splits_of_runs() -> None:
    """Two thirds of each class, whole genomes, both sides never empty; another seed, another split."""
    windows = labelled(300, 10)
    windows.names = [f"genome{i // 5}" for i in range(300)]
    windows.labels = np.repeat(np.array([[0, 0], [0, 1], [1, 2]]), 100, axis=0)
    windows.names = [*windows.names[:200], *["one"] * 100]
    first, again, other = (split_again(windows, seed) for seed in (1, 1, 2))  # type: ignore[arg-type]
    assert (first == again).all() and (first != other).any()
    for number in range(3):
        rows = windows.labels[:, 1] == number
        assert 0.6 <= first[rows].mean() <= 0.75
    for name in set(windows.names[:200]):
        assert len({bool(first[i]) for i in range(200) if windows.names[i] == name}) == 1
