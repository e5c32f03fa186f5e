"""The usual ways to explain a classifier, on the same model and windows as our Explainers.

A peer gives every valid token of a window a score, higher for more important.  What all of them explain is
one number: the sum over ranks of the log-probability of one class per rank, mostly the predicted one.  So
one explanation serves all ranks, which is the cheapest that a peer can be.

Peers that take tokens away do so by an operator of :mod:`wyrcli.model.masking` at 0, as a binary Explainer
would.  Their variants of a window fill whole batches, and what is fitted to the answers is solved in closed
form: captum and lime loop over one sample at a time, which says more about loops than about the method.
Gradients come twice: with respect to the embeddings, as in the literature, and with respect to the gates by
which our Explainers are trained and judged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from wyrcli import attribution
from wyrcli.attribution import Game, Options, Scores
from wyrcli.errors import WyrError
from wyrcli.examination import Subject, windows_by_length
from wyrcli.model.masking import OPERATORS, gate

__all__ = ["PEERS", "Options", "Peer", "Scores"]

_DEFAULT = Options()
_WARM_LETTERS = 64


@dataclass(frozen=True)
class Peer:
    """A method to compare with.

    Parameters
    ----------
    name: as in :data:`PEERS`.
    description: one sentence, with the reference.
    score: scores of the windows of a :class:`Game`.
    evaluations: rows of forward passes that a window of so many tokens takes.
    differentiates: whether a backward pass goes with each of them.
    needs: package without which it cannot run, or nothing.
    """

    name: str
    description: str
    score: Callable[[Game, Options], list[Scores]]
    evaluations: Callable[[int, Options], int]
    differentiates: bool = False
    needs: str = ""

    def passes(self, n_tokens: int, options: Options = _DEFAULT) -> int:
        """Model evaluations for a window of ``n_tokens`` valid tokens.

        A forward pass counts as 1, and with a backward pass as 3, since that costs about twice as much.
        """
        return self.evaluations(n_tokens, options) * (3 if self.differentiates else 1)

    def explain(
        self,
        subject: Subject,
        sequences: Sequence[str],
        classes: NDArray[np.int64],
        options: Options = _DEFAULT,
        on_batch: Callable[[int], None] = lambda done: None,
    ) -> list[Scores]:
        """Scores of N windows, (T_i,) each, for ``classes`` (N, R), one class within each rank.

        They do not depend on the batch size, nor on the windows beside them.  ``on_batch`` is told how many
        windows are done since it was last told.  Raises WyrError where a package is missing, or where the
        method cannot be had for this architecture.  Call :meth:`warm_up` before measuring its time.
        """
        if self.needs and find_spec(self.needs) is None:
            raise WyrError(f"{self.name} needs {self.needs}: pip install 'wyrcli[compare]'")
        scores: list[Scores] = [np.empty(0)] * len(sequences)
        lengths = [len(s) for s in sequences]
        usual = int(np.median(lengths)) if lengths else 1
        variants = max(self.evaluations(subject.tokenizer.usual_tokens(usual), options), 1)
        for rows in windows_by_length(sequences, max(subject.batch_size // variants, 1)):
            longest = max(lengths[i] for i in rows)
            capacity = max(subject.batch_size * max(usual, 1) // max(longest, 1), 1)
            removal = OPERATORS.get(options.removal, gate)
            game = Game(subject, [sequences[i] for i in rows], classes[rows], capacity, removal, options.rank)
            for i, own in zip(rows, self.score(game, options), strict=True):
                scores[i] = own
            on_batch(len(rows))
        return scores

    def warm_up(
        self,
        subject: Subject,
        sequence: str,
        classes: NDArray[np.int64],
        options: Options = _DEFAULT,
    ) -> None:
        """Explain the first letters of one window, for its ``classes`` (1, R), with few samples.

        Imports, compilers and first calls take their time here, and not in what is measured afterwards.
        Raises WyrError as :meth:`explain` does.
        """
        few = options._replace(lime_samples=8, shap_samples=8, steps=2, evaluations=8)
        self.explain(subject, [sequence[:_WARM_LETTERS]], classes, few)


PEERS = {
    peer.name: peer
    for peer in (
        Peer(
            "random",
            "Uniform noise: what any method must beat.",
            attribution.random_scores,
            lambda tokens, options: 0,
        ),
        Peer(
            "attention",
            "Attention that a token receives in the last layer, mean over heads (Ji et al. 2021, DNABERT).",
            attribution.attention,
            lambda tokens, options: 1,
        ),
        Peer(
            "gradient-norm",
            "Norm of the gradient with respect to the token's embedding (Simonyan et al. 2014).",
            attribution.gradient_norm,
            lambda tokens, options: 1,
            differentiates=True,
        ),
        Peer(
            "gradient-x-input",
            "Gradient times embedding, summed over its channels (Shrikumar et al. 2016).",
            attribution.gradient_x_input,
            lambda tokens, options: 1,
            differentiates=True,
        ),
        Peer(
            "gate-gradient",
            "Gradient times input of a mask of ones, which the gate applies (after Shrikumar et al. 2016).",
            attribution.gate_gradient,
            lambda tokens, options: 1,
            differentiates=True,
        ),
        Peer(
            "integrated-gradients",
            "Gradients along the path from embeddings of zero (Sundararajan et al. 2017).",
            attribution.integrated_gradients,
            lambda tokens, options: options.steps,
            differentiates=True,
        ),
        Peer(
            "gate-integrated-gradients",
            "Gradients of the mask on the path from closed to open gates (after Sundararajan et al. 2017).",
            attribution.gate_integrated_gradients,
            lambda tokens, options: options.steps,
            differentiates=True,
        ),
        Peer(
            "grad-cam",
            "Gradient-weighted channels of the last hidden states, positive part (Selvaraju et al. 2017).",
            attribution.grad_cam,
            lambda tokens, options: 1,
            differentiates=True,
        ),
        Peer(
            "occlusion",
            "Fall of the value when one token is left out (Zeiler and Fergus 2014; Li et al. 2016).",
            attribution.occlusion,
            lambda tokens, options: tokens + 1,
        ),
        Peer(
            "lime",
            "Linear model of the value over random masks, with lime_text's kernel (Ribeiro et al. 2016).",
            attribution.lime,
            lambda tokens, options: options.lime_samples,
        ),
        Peer(
            "kernel-shap",
            "Shapley values by weighted regression (Lundberg and Lee 2017), paired (Covert and Lee 2021).",
            attribution.kernel_shap,
            lambda tokens, options: 2 * (tokens + options.shap_samples // 2) + 2,
        ),
        Peer(
            "partition-shap",
            "Owen values over a balanced tree of neighbouring tokens (shap's PartitionExplainer).",
            attribution.partition_shap,
            lambda tokens, options: options.evaluations,
            needs="shap",
        ),
    )
}
"""By name: what needs no gradient and no removal, then gradients, then removals."""
