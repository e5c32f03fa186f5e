"""Indexes of BGZF tables, so that tabix and browsers find the rows of a place."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from wyrcli.errors import WyrError, printable
from wyrcli.outputs import MakeIndex

__all__ = ["choose_index", "tabix"]


def tabix(path: str, preset: str) -> str | None:
    """Index a BGZF file: .tbi, or .csi where a position is beyond 512 Mbp, .tbi's limit.

    Parameters
    ----------
    preset: ``bed`` or ``gff``.

    Returns the path of the index, or None where rows are not sorted: a name comes back after another one, or
    positions of one name go back.
    """
    import pysam as module

    pysam: Any = module
    before = pysam.set_verbosity(0)  # htslib itself would write to stderr
    try:
        for csi in (False, True):
            try:
                pysam.tabix_index(path, preset=preset, force=True, keep_original=True, csi=csi)
            except OSError:
                for suffix in (".tbi", ".csi"):
                    if os.path.exists(path + suffix):
                        os.unlink(path + suffix)
            else:
                return path + (".csi" if csi else ".tbi")
        return None
    finally:
        pysam.set_verbosity(before)


def choose_index(
    path: str, preset: str, wanted: bool | None, warn: Callable[[str], None]
) -> MakeIndex | None:
    """What :func:`wyrcli.outputs.open_output` shall do for an index.

    Parameters
    ----------
    wanted: what an output in BGZF gets (others never have one).  True: an index, or an error where its rows
        are not sorted; None: the same with a warning; False: none.
    """
    packed = path.endswith((".gz", ".bgz"))
    if not packed:
        return None
    if wanted is False:
        return lambda temporary: None  # the index of an older file still goes

    def make(temporary: str) -> str | None:
        index = tabix(temporary, preset)
        if index is None:
            shown = printable(path, limit=300)
            why = f"{shown} has no index: its rows are not sorted (does a name come twice?)"
            if wanted:
                raise WyrError(f"{why}; --safe-names makes names unique, --no-index does without")
            warn(why)
        return index

    return make
