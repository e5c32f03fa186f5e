"""What plain k-mer frequencies reach on a dataset: the bar for a neural classifier.

Canonical k-mer frequencies of a window, standardised, go into (a) a multinomial logistic regression and
(b) a perceptron with one hidden layer of 256, one model per rank.  Classes are balanced: by weights in (a),
by drawing in (b).  The penalty of (a) and the epoch of (b) are chosen by balanced accuracy on the validation
split.  Test windows are those of ``wyr evaluate --classifier`` with the same seed and number.

    python benchmarks/baseline.py DATASET [--train 20000] [--test 2000] [--k 4,6]
                                  [--models logistic,perceptron] [--lengths 150,300,500] [--cut]
                                  [--unknown DATASET ...] [--json FILE]

``--cut`` shortens half of the training windows to a random length, as a classifier of short reads would be
trained.  Needs scikit-learn, which wyr itself does not.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from wyrcli.dataset import Dataset
from wyrcli.metrics import balanced_accuracy, draw_weights, interval, weighted_balanced_accuracy

PENALTIES = (0.0001, 0.001, 0.01, 0.1, 1.0, 10.0)  # C of scikit-learn: one over the weight of the penalty
EPOCHS = 80
_CODES = np.full(256, 4, dtype=np.int64)
_CODES[list(b"ACGT")] = range(4)

Floats = NDArray[np.float32]


def canonical(k: int) -> NDArray[np.int64]:
    """int64 (4^k,): the same number for a k-mer and its reverse complement, from 0 without gaps."""
    numbers = np.arange(4**k)
    digits = numbers[:, None] // 4 ** np.arange(k - 1, -1, -1) % 4
    turned = (3 - digits[:, ::-1]) @ 4 ** np.arange(k - 1, -1, -1)
    return np.unique(np.minimum(numbers, turned), return_inverse=True)[1]


def frequencies(sequences: Sequence[str], k: int) -> Floats:
    """float32 (N, canonical k-mers), each row summing to one; k-mers with an N do not count."""
    which = canonical(k)
    found = np.zeros((len(sequences), which.max() + 1), dtype=np.float32)
    powers = 4 ** np.arange(k - 1, -1, -1)
    for row, sequence in zip(found, sequences, strict=True):
        codes = _CODES[np.frombuffer(sequence.encode(), dtype=np.uint8)]
        if len(codes) < k:
            continue
        kmers = np.lib.stride_tricks.sliding_window_view(codes, k)
        own = which[kmers[(kmers < 4).all(1)] @ powers]
        row[:] = np.bincount(own, minlength=len(row)) / max(len(own), 1)
    return found


def fit_logistic(
    x: Floats, y: NDArray[np.int32], x_val: Floats, y_val: NDArray[np.int32], seed: int
) -> tuple[Any, str]:
    """The best of several penalties."""
    best, score, chosen = None, -1.0, 0.0
    for penalty in PENALTIES:
        model = LogisticRegression(C=penalty, class_weight="balanced", max_iter=200, tol=1e-3)
        own = balanced_accuracy(y_val, model.fit(x, y).predict(x_val))
        if own > score:
            best, score, chosen = model, own, penalty
    return best, f"C {chosen:g}"


def fit_perceptron(
    x: Floats, y: NDArray[np.int32], x_val: Floats, y_val: NDArray[np.int32], seed: int
) -> tuple[Any, str]:
    """The best of several epochs, in each of which every class is drawn equally often."""
    rng = np.random.default_rng(seed)
    classes, members = np.unique(y, return_counts=True)
    chance = (1 / members)[np.searchsorted(classes, y)]
    chance /= chance.sum()
    model = MLPClassifier(256, alpha=1e-3, batch_size=256, random_state=seed)
    best, score, chosen = None, -1.0, 0
    for epoch in range(EPOCHS):
        rows = rng.choice(len(y), size=len(y), p=chance)
        model.partial_fit(x[rows], y[rows], classes=classes)
        own = balanced_accuracy(y_val, model.predict(x_val))
        if own > score:
            best, score, chosen = deepcopy(model), own, epoch + 1
    return best, f"epoch {chosen}"


MODELS: dict[str, Callable[..., tuple[Any, str]]] = {"logistic": fit_logistic, "perceptron": fit_perceptron}


def main() -> None:
    """Print a line per k, model, rank and test set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--test", type=int, default=2000)
    parser.add_argument("--k", default="4,6")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--lengths", default="")
    parser.add_argument("--cut", action="store_true")
    parser.add_argument("--unknown", type=Path, action="append", default=[])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    dataset = Dataset.open(options.dataset)
    train = dataset.split("train").sample_evenly(options.train, options.seed)
    validation = dataset.split("validation").sample_evenly(options.test, options.seed)
    test = dataset.split("test").sample_evenly(options.test, options.seed)
    rng = np.random.default_rng(options.seed)
    texts = list(train.sequences)
    if options.cut:
        texts = [shorten(t, int(np.exp(rng.uniform(np.log(150), np.log(max(len(t), 151)))))) if i % 2 else t
                 for i, t in enumerate(texts)]  # fmt: skip
    sets = {"test": (list(test.sequences), test.labels, list(test.groups))}
    # What the penalty and the epoch were chosen by; how it differs from the test split is worth knowing.
    sets["validation"] = (list(validation.sequences), validation.labels, list(validation.groups))
    for length in (int(n) for n in options.lengths.split(",") if n):
        sets[f"test, {length} bp"] = ([shorten(t, length) for t in test.sequences], *sets["test"][1:])
    for path in options.unknown:
        other = Dataset.open(path)
        windows = other.split("test").sample_evenly(options.test, options.seed)
        own = windows.relabelled(other.class_maps(dataset.taxonomy))
        sets[path.name] = (list(windows.sequences), own.labels, list(windows.groups))
    results = []
    for k in (int(n) for n in options.k.split(",")):
        scaler = StandardScaler().fit(x := frequencies(texts, k))
        x, x_val = scaler.transform(x), scaler.transform(frequencies(list(validation.sequences), k))
        features = {name: scaler.transform(frequencies(own[0], k)) for name, own in sets.items()}
        for kind in options.models.split(","):
            fit = MODELS[kind]
            for r, rank in enumerate(dataset.taxonomy.ranks):
                start = time.perf_counter()
                model, chosen = fit(x, train.labels[:, r], x_val, validation.labels[:, r], options.seed)
                seconds = time.perf_counter() - start
                for name, (_, labels, groups) in sets.items():
                    known = labels[:, r] >= 0
                    if not known.any():
                        continue
                    truth, found = labels[known, r], model.predict(features[name][known])
                    weights = draw_weights(len(truth), np.array(groups)[known], seed=options.seed)
                    low, high = interval(weighted_balanced_accuracy(truth, found, weights))
                    result = {
                        "k": k,
                        "model": kind,
                        "rank": rank,
                        "data": name,
                        "balanced_accuracy": balanced_accuracy(truth, found),
                        "low": low,
                        "high": high,
                        "windows": int(known.sum()),
                        "classes": len(np.unique(truth)),
                        "chosen": chosen,
                        "seconds": round(seconds, 1),
                    }
                    results.append(result)
                    print("\t".join(f"{v:.4f}" if isinstance(v, float) else str(v) for v in result.values()),
                          flush=True)  # fmt: skip
    if options.json is not None:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def shorten(sequence: str, length: int) -> str:
    """The middle of a sequence."""
    start = max((len(sequence) - length) // 2, 0)
    return sequence[start : start + length]


if __name__ == "__main__":
    main()
