"""What an error of storage means follows from what was answered, never from the words of a key or a path."""

from __future__ import annotations

import errno
import os

import pytest

from streamgd.data.storage_failures import filesystem_error, is_transient
from streamgd.errors import AccessError, StorageError, StreamgdError

SLOW_DOWN = (
    "When reading information for key '{}' in bucket 'bucket': AWS Error SLOW_DOWN during HeadObject operation"
    " (HTTP status 503): Please reduce your request rate."
)
EXPIRED = (
    "When reading information for key '{}' in bucket 'bucket': AWS Error UNKNOWN (HTTP status 400) during GetObject"
    " operation: Unable to parse ExceptionName: ExpiredToken Message: The provided token has expired."
)
DENIED = (
    "When getting information for key '{}' in bucket 'bucket': AWS Error ACCESS_DENIED during HeadObject operation:"
    " No response body."
)
KEYS = ["a.parquet", "expired_cards/a.parquet", "access_keys/a", "INVALID_ARGUMENT/HTTP status 404", "it's expired/a"]


@pytest.mark.parametrize("key", [*KEYS, "long/" * 80 + "expired/a"])
def test_an_overload_may_pass_whatever_the_key(key: str) -> None:
    error = OSError(SLOW_DOWN.format(key))

    assert is_transient(error)
    assert not isinstance(filesystem_error(error, "read"), AccessError)


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize(("text", "says"), [(EXPIRED, "credentials have expired"), (DENIED, "Check the credentials")])
def test_who_refuses_is_not_asked_again_whatever_the_key(text: str, says: str, key: str) -> None:
    error = OSError(text.format(key))

    assert not is_transient(error)
    with pytest.raises(AccessError, match=says):
        raise filesystem_error(error, "read")


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, StorageError), (errno.EIO, StorageError), (errno.EACCES, AccessError)]
)
@pytest.mark.parametrize(
    "text", ["Failed to open local file '/data/expired/x'. Detail: [errno {}] {}", '[Errno {}] {}: "/it\'s expired"']
)
def test_an_error_of_the_operating_system_is_what_its_number_says(
    text: str, number: int, kind: type[StreamgdError]
) -> None:
    reason = os.strerror(number)
    found = filesystem_error(OSError(number, text.format(number, reason)), "read /data/expired/x")

    assert type(found) is kind
    assert str(found).startswith(f"cannot read /data/expired/x: {reason}.")


@pytest.mark.parametrize(
    "error",
    [
        PermissionError("The provided token has expired., HTTP Status code: 400"),
        PermissionError(errno.EACCES, "ExpiredToken: The provided token has expired."),
        OSError(errno.EKEYEXPIRED, os.strerror(errno.EKEYEXPIRED), "/data/x"),
    ],
)
def test_credentials_that_have_expired_are_told_by_number_too(error: OSError) -> None:
    with pytest.raises(AccessError, match="credentials have expired"):
        raise filesystem_error(error, "read")
