"""How good are the keywords of classes, and what does a plain k-mer classifier say of the same reads?

Of each rank, over its classes that have keywords (after SACX, *Explaining Classes through Word Attribution*):

*distinctiveness*  share of a class's keywords that no other class has;
*coverage*         share of its keywords that a recognised read of the class has, mean over reads;
*cross-coverage*   the same share in the reads of all other classes;
*delta*            coverage less cross-coverage, and *normalised* divided by their sum: from -1 to 1.

SACX leaves the form of the last open; ours does not grow with how common terms are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from wyrcli.errors import WyrError
from wyrcli.examination import EvaluatedWindows
from wyrcli.keywords import Asked, Frequencies, Scores
from wyrcli.terms import Terms

__all__ = ["Quality", "measure_quality", "rank_by_svm"]


class Quality(NamedTuple):
    """Means over the classes of a rank that have keywords; NaN where none has.

    ``classes``: how many were asked about;  ``with_keywords``: how many have some;  ``keywords``: of all.
    """

    method: str
    rank: int
    classes: int
    with_keywords: int
    keywords: int
    distinctiveness: float
    coverage: float
    cross_coverage: float

    @property
    def delta(self) -> float:
        """Coverage less cross-coverage."""
        return self.coverage - self.cross_coverage

    @property
    def normalised(self) -> float:
        """Delta over the sum of both."""
        total = self.coverage + self.cross_coverage
        return self.delta / total if total else float("nan")


def measure_quality(
    method: str,
    asked: Sequence[Asked],
    chosen: Mapping[int, Sequence[int]],
    scores: Scores,
    frequencies: Frequencies,
) -> list[Quality]:
    """One row per rank.  ``chosen``: numbers of the keywords of each class, by its place in ``asked``."""
    found = []
    for rank in dict.fromkeys(own.rank for own in asked):
        rows = [i for i, own in enumerate(asked) if own.rank == rank]
        classes_of = Counter(term for i in rows for term in set(chosen.get(i, ())))
        shares = []
        for i in rows:
            terms = np.array(sorted(set(chosen.get(i, ()))), np.int64)
            mine = scores.of_class(i)
            others = [own for own in frequencies.lineages() if _is_other(own, asked[i])]
            if not len(terms) or not mine.n or not others:
                continue
            theirs = frequencies.sum(others)
            only = np.mean([classes_of[term] == 1 for term in terms.tolist()])
            shares.append(
                (only, (mine.having[terms] / mine.n).mean(), (theirs.having[terms] / theirs.n).mean())
            )
        means = np.mean(shares, axis=0).tolist() if shares else [float("nan")] * 3
        n = sum(len(set(chosen.get(i, ()))) for i in rows)
        found.append(Quality(method, rank, len(rows), len(shares), n, *means))
    return found


def _is_other(lineage: tuple[int, ...], own: Asked) -> bool:
    return lineage[own.rank] != own.number if own.against is None else lineage[own.rank] == own.against


def rank_by_svm(
    windows: EvaluatedWindows, asked: Sequence[Asked], terms: Terms, seed: int = 0
) -> list[NDArray[np.int64]]:
    """Terms of each class, best first, by the weights of a linear SVM over TF-IDF: those above 0.

    One against all others at each rank, fitted to all of these windows.  Memory grows with them.  Raises
    WyrError where scikit-learn is missing.
    """
    try:
        from sklearn.feature_extraction.text import TfidfTransformer
        from sklearn.svm import LinearSVC
    except ImportError:
        raise WyrError("the SVM needs scikit-learn: pip install 'wyrcli[classes]'") from None
    from scipy.sparse import csr_matrix

    ends, numbers, counts = [0], [], []
    for i in range(len(windows)):
        present, times = np.unique(terms.find(windows.sequences[i]).numbers, return_counts=True)
        numbers.append(present)
        counts.append(times)
        ends.append(ends[-1] + len(present))
    shape = (len(windows), len(terms))
    matrix = csr_matrix((np.concatenate(counts).astype(float), np.concatenate(numbers), ends), shape=shape)
    features = TfidfTransformer(sublinear_tf=True).fit_transform(matrix)
    labels = np.asarray(windows.labels)
    found = []
    for own in asked:
        rows = np.arange(len(windows))
        if own.against is not None:
            rows = np.flatnonzero(np.isin(labels[:, own.rank], (own.number, own.against)))
        truth = labels[rows, own.rank] == own.number
        if truth.all() or not truth.any():
            found.append(np.zeros(0, np.int64))
            continue
        machine = LinearSVC(class_weight="balanced", random_state=seed)
        weights = machine.fit(features[rows], truth).coef_[0]
        order = np.argsort(-weights, kind="stable")
        found.append(order[weights[order] > 0])
    return found
