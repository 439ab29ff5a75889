"""Credentials in URIs are taken out of whatever is shown or written."""

from __future__ import annotations

import pytest

from streamgd.credentials import take_credentials, with_credentials, without_credentials
from streamgd.errors import CorruptFileError, StreamgdError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("s3://KEY:SECRET@bucket/a b", "s3://bucket/a b"),
        ("open 's3://KEY:SE/CR/ET@bucket/a@b'", "open 's3://bucket/a@b'"),
        ("s3://KEY:12/SECRET@bucket/x", "s3://bucket/x"),
        ("gs://KEY:12/SECRET@bucket/x", "gs://bucket/x"),
        ("s3://KEY:SE@CRET@bucket/a@b", "s3://bucket/a@b"),
        ("s3://KEY:12/SE@CRET@bucket", "s3://bucket"),
        ("postgresql+psycopg2://user:SE@CRET@host:5432/x", "postgresql+psycopg2://host:5432/x"),
        ("s3://KEY:SECRET@b/x, s3://KEY:SECRET@b/y", "s3://b/x, s3://b/y"),
        ("https://u:p@host:8080/x?sig=SECRET&y=1", "https://host:8080/x?y=1"),
        ("abfs://box@account/x?y=1&sas_token=SECRET", "abfs://box@account/x?y=1"),
        ("s3://bucket/x?secret_key=SECRET", "s3://bucket/x"),
        # Nothing secret
        ("hdfs://user@host:8020/a@b", "hdfs://user@host:8020/a@b"),
        ("hdfs://host:8020/a:b@c", "hdfs://host:8020/a:b@c"),
        ("s3://bucket/a:b@c?region=eu-west-1", "s3://bucket/a:b@c?region=eu-west-1"),
        ("a:b@c is no URI", "a:b@c is no URI"),
    ],
)
def test_what_is_shown_of_a_text(text: str, shown: str) -> None:
    assert without_credentials(text) == shown


def test_a_store_is_opened_with_what_was_taken() -> None:
    bare = take_credentials("s3://KEY:SECRET@bucket/taken")
    assert bare == take_credentials(bare) == "s3://bucket/taken"
    assert with_credentials(bare) == "s3://KEY:SECRET@bucket/taken"
    assert with_credentials("s3://other/taken") == "s3://other/taken"


def test_errors_never_hold_them() -> None:
    error = CorruptFileError("s3://KEY:SECRET@bucket/a is damaged", "Write it again.")
    assert "SECRET" not in f"{error!r} {error.problem}"
    assert str(StreamgdError("at s3://KEY:SECRET@bucket/a")) == "at s3://bucket/a"
