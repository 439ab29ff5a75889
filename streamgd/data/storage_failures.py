"""Errors of file systems and object stores: which may pass, and the others as streamgd's own, in one line."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

from streamgd.errors import AccessError, StreamgdError, from_os_error

#: Numbers of operating-system errors that may be gone a moment later; object stores give none.
_TRANSIENT = {
    errno.EIO, errno.EAGAIN, errno.EBUSY, errno.ESTALE, errno.ETIMEDOUT, errno.ECONNRESET, errno.ECONNABORTED,
    errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENOTCONN,
    errno.EPIPE, errno.EREMOTEIO,
}  # fmt: skip

# Expired credentials have one of these numbers where a file system tells of them, as Kerberos; a store gives none.
_BY_CREDENTIALS = {None, errno.EACCES, errno.EPERM, errno.EKEYEXPIRED}

# Keys and paths, which may hold any word; no apostrophe of a word opens or closes one.
_QUOTED = re.compile(r"(?<!\w)(['\"]).*?\1(?!\w)")
_EXPIRED = re.compile(r"expired|TokenRefreshRequired", re.IGNORECASE)
# The answer may hold no reason, as that to a HEAD request; S3 answers 400 to a token that has expired.
_NO_REASON = re.compile(r"HTTP status 400\) during \w+ operation:\s*(?:No response body\.?)?\s*$", re.IGNORECASE)
_REFUSED = re.compile(
    r"ACCESS_?DENIED|FORBIDDEN|ACCESS_?KEY|SIGNATURE_?DOES_?NOT_?MATCH|UNAUTHORIZED|UNAUTHENTICATED|PERMISSION_DENIED"
    r"|INVALID_?CLIENT_?TOKEN|InvalidToken|NoCredentials|HTTP (?:code|status) 40[13]",
    re.IGNORECASE,
)
# Of what a client did wrong, only these are worth asking again: request time-out, too early, too many requests.
_PERMANENT = re.compile(r"HTTP status (?:3\d\d|4(?!08|25|29)\d\d)|NO_SUCH_BUCKET|INVALID_ARGUMENT")

_WAY_IN = (
    "Check the credentials (for S3 AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, AWS_PROFILE, or KEY:SECRET@ in the"
    " URI) and what they permit"
)


def is_transient(error: OSError) -> bool:
    """Whether storage may answer if it is asked again: a full disk will not, nor who refuses."""
    if error.errno is not None or isinstance(error, PermissionError | FileNotFoundError):
        return error.errno in _TRANSIENT
    answer = _answer(error)
    return not any(pattern.search(answer) for pattern in (_EXPIRED, _NO_REASON, _REFUSED, _PERMANENT))


@contextmanager
def filesystem_errors(what: str) -> Iterator[None]:
    """Turn an error of the file system inside the block into streamgd's, in one line."""
    try:
        yield
    except OSError as error:
        raise filesystem_error(error, what) from error


def filesystem_error(error: OSError, what: str) -> StreamgdError:
    reason, answer = one_line(error), _answer(error)
    expired = error.errno in _BY_CREDENTIALS and _EXPIRED.search(answer)
    if error.errno is not None and not expired:  # pyarrow repeats path and number in its text
        return from_os_error(OSError(error.errno, os.strerror(error.errno)), what)
    if expired:
        return AccessError(f"cannot {what}: the credentials have expired ({reason}). Get new ones and run it again.")
    if _NO_REASON.search(answer):
        return AccessError(
            f"cannot {what}: refused without a reason (HTTP status 400), as where credentials have expired, or the"
            f" region is another one. {_WAY_IN}; get new ones if they have expired."
        )
    if isinstance(error, PermissionError) or _REFUSED.search(answer):
        return AccessError(f"cannot {what}: {reason}. {_WAY_IN}.")
    if isinstance(error, FileNotFoundError):
        return from_os_error(FileNotFoundError(errno.ENOENT, reason), what)
    return from_os_error(OSError(reason), what)


def _answer(error: OSError) -> str:
    """The text of an error without what it is about."""
    return _QUOTED.sub("", " ".join(str(error).split()))


def one_line(error: Exception) -> str:
    text = " ".join(str(error).split()).rstrip(".")
    return text if len(text) <= 300 else text[:300] + "…"
