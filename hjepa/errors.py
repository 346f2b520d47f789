"""The one error a user is meant to read: it names the thing that is wrong and what would be legal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something outside the code is wrong: a file, a store, a configuration, a checkpoint.

    The command line prints the message alone and exits with code 2.
    """


def nearest(word: str, legal: Iterable[str]) -> str:
    """'did you mean X? legal: X, Y, Z', for messages about a misspelt word."""
    names = sorted(legal)
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}legal: {', '.join(names)}"
