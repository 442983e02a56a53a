"""The errors that a user sees as a sentence: what came, what was expected, how to mend it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class RequestError(ValueError):
    """The request was wrong: the command line prints it without a traceback and exits with code 2."""


class WorkFailed(RuntimeError):
    """The request was right but the work failed: printed without a traceback, exit code 1."""


def unknown(kind: str, name: str, choices: Iterable[str], *, hint: str = "") -> RequestError:
    """An error for a name that is not among ``choices``, with its closest matches.

    Args:
        kind: what the name stands for, such as ``"model"``.
        name: what came.
        choices: what was expected.
        hint: where the full list is, or how to mend it.

    Example:
        >>> str(unknown("model", "resnet57", ["resnet56", "plain56"], hint="See `reslab models`."))
        "Unknown model 'resnet57'. Did you mean 'resnet56'? See `reslab models`."
    """
    choices = list(choices)
    close = get_close_matches(name, choices, n=3, cutoff=0.6)
    if close:
        advice = f"Did you mean {' or '.join(repr(match) for match in close)}?"
    elif len(choices) <= 12:
        advice = f"Expected one of: {', '.join(choices)}."
    else:
        advice = ""
    return RequestError(" ".join(part for part in (f"Unknown {kind} {name!r}.", advice, hint) if part))
