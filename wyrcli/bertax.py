"""BERTax's training data: sequences in ``X_fragments.json``, taxids beside it in ``X_species_picked.txt``."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import repeat
from typing import Any, NamedTuple

from wyrcli.errors import InputError, printable
from wyrcli.sequences import DamagedError
from wyrcli.streams import BUFFER_BYTES, COMPRESSED, COMPRESSED_ENDINGS, buffered, peek

__all__ = [
    "Fragment",
    "find_companion",
    "is_companion",
    "read_fragments",
    "read_taxids",
    "without_companions",
]

_FRAGMENTS = re.compile(r"(.*)_fragments\.json" + COMPRESSED, re.S)
_COMPANION = re.compile(r"(.*)_species_picked\.txt" + COMPRESSED, re.S)
_JSON_KINDS = {"start_map": "an object", "start_array": "a list", "null": "null"}


class Fragment(NamedTuple):
    """One sequence; ``taxid`` is None where taxids are not asked for."""

    sequence: str
    taxid: int | None


def is_companion(name: str) -> bool:
    """Whether a file is called like a list of taxids."""
    return _COMPANION.fullmatch(name) is not None


def without_companions(names: Sequence[str], shown: Callable[[str], str] = str) -> list[str]:
    """The names without those of lists of taxids, each of which must have its JSON among them."""
    stems = {os.path.normpath(match[1]) for name in names if (match := _FRAGMENTS.fullmatch(name))}
    kept = []
    for name in names:
        match = _COMPANION.fullmatch(name)
        if match is None:
            kept.append(name)
        elif os.path.normpath(match[1]) not in stems:
            expected = printable(f"{os.path.basename(match[1])}_fragments.json")
            raise InputError(
                f"taxids without their sequences; expected '{expected}' among the inputs", path=shown(name)
            )
    return kept


def find_companion(name: str, exists: Callable[[str], bool]) -> str | None:
    """The name of the taxids beside a ``X_fragments.json``."""
    match = _FRAGMENTS.fullmatch(name)
    if match is None:
        return None
    candidates = (f"{match[1]}_species_picked.txt{ending}" for ending in COMPRESSED_ENDINGS)
    return next(filter(exists, candidates), None)


def read_fragments(
    path: str, pieces: Iterator[bytes], taxids: Iterator[int] | None, companion: str | None
) -> Iterator[Fragment]:
    """The elements of a JSON list of sequences, each with its taxid.

    ``path`` and ``companion``, the name of what ``taxids`` are read from, are for errors.

    Raises InputError for an element that is no string, and where there are not as many taxids.
    """

    def unequal(n_fragments: int, n_taxids: int) -> InputError:
        return InputError(
            f"holds {n_fragments} sequences, but {printable(companion or '')} holds {n_taxids} taxids; "
            "expected one for each",
            path=path,
        )

    elements = _parse(pieces)
    one_each: Iterator[int | None] = repeat(None) if taxids is None else taxids
    number = 0
    try:
        for number, (event, value) in enumerate(elements, 1):
            if event != "string":
                what = _JSON_KINDS.get(event, f"a {event}")
                raise InputError(f"the element is {what}; expected a string", path=path, record=number)
            taxid = next(one_each, -1)
            if taxid == -1:
                raise unequal(number + sum(event == "string" for event, _ in elements), number - 1)
            yield Fragment(value, taxid)
    except DamagedError as error:
        error.record = number + 1
        raise
    if taxids is not None and (n_more := sum(1 for _ in taxids)):
        raise unequal(number, number + n_more)


def _parse(pieces: Iterator[bytes]) -> Iterator[tuple[str, Any]]:
    """What ijson meets in a list, without the brackets around it."""
    import ijson

    events = ijson.basic_parse(buffered(pieces), buf_size=BUFFER_BYTES)
    try:
        next(events)  # the '[' by which the format was known
        # To the end even behind the ']', for what follows there and does not belong there.
        yield from (event for event in events if event[0] != "end_array")
    except ijson.JSONError as error:
        what = error.args[0] if error.args else ""
        what = what.decode("utf-8", "replace") if isinstance(what, bytes) else str(what)
        what = printable(what.split("\n")[0])
        raise DamagedError(f"the JSON text is damaged or cut off: {what}") from None


def read_taxids(path: str, pieces: Iterator[bytes]) -> Iterator[int]:
    """One taxid per line; blank lines may follow the last.  Raises InputError."""
    is_blank = False
    number = 0
    try:
        _, pieces = peek(pieces)
        for number, line in enumerate(buffered(pieces), 1):
            text = line.strip()
            if text and (is_blank or not text.isdigit() or len(text) > 18):
                found = printable(text.decode("utf-8", "replace"), limit=30)
                message = "a blank line before it" if is_blank else f"'{found}'"
                raise InputError(f"found {message}; expected one taxid per line", path=path, line=number)
            is_blank = not text
            if text:
                yield int(text)
    except DamagedError as error:
        raise InputError(str(error), path=path, line=number + 1) from None
