"""Errors of pyarrow's file systems as streamgd's own, in one line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from streamgd.errors import AccessError, StreamgdError, from_os_error

_REFUSED = re.compile(
    r"ACCESS_DENIED|FORBIDDEN|ACCESS_KEY|SIGNATURE_DOES_NOT_MATCH|UNAUTHORIZED|HTTP code 40[13]", re.I
)


@contextmanager
def filesystem_errors(what: str) -> Iterator[None]:
    """Turn an error of the file system inside the block into streamgd's, in one line."""
    try:
        yield
    except OSError as error:
        raise filesystem_error(error, what) from error


def filesystem_error(error: OSError, what: str) -> StreamgdError:
    if error.errno is not None:  # pyarrow repeats path and number in its text
        return from_os_error(OSError(error.errno, os.strerror(error.errno)), what)
    reason = one_line(error)
    if _REFUSED.search(reason):
        return AccessError(f"cannot {what}: {reason}. Check credentials and permissions.")
    return from_os_error(OSError(reason), what)


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 300 else text[:300] + "…"
