"""Credentials in URIs: taken out where a URI comes in, given back where its store is opened.

Nothing between sees them, so that no configuration, history, message or log can hold them.
"""

from __future__ import annotations

import re

# Whatever follows the colon up to the last '@' before the host, even where a '/' or '@' in it should have been written
# as %2F or %40; but no port, which a bucket does not have.
_USER = re.compile(
    r"(\b(?:s3[an]?|gc?s)://|\b[a-z][\w+.-]*://(?![^\s/@'\"]*:\d+/))[^\s/@:'\"]*:[^\s@'\"]*@(?:[^\s/@'\"]*@)*",
    re.IGNORECASE,
)
_OPTION = re.compile(
    r"[?&][\w.-]*(?:secret|token|passw|credential|signature|\bsig\b|(?:account|access|api)_?key)[\w.-]*=[^&\s'\"]*",
    re.IGNORECASE,
)

_given: dict[str, str] = {}


def without_credentials(text: str) -> str:
    """The text without ``user:password@`` and the like in the URIs that it holds.

    >>> without_credentials("cannot open s3://KEY:SECRET@bucket/a?region=eu-west-1&session_token=abc")
    'cannot open s3://bucket/a?region=eu-west-1'
    """
    if "://" not in text:
        return text
    return _OPTION.sub(_first_option, _USER.sub(r"\1", text)).replace("?&", "?")


def _first_option(match: re.Match[str]) -> str:
    """An option that is taken out leaves the '?' to those after it."""
    followed = match.string[match.end() : match.end() + 1] == "&"
    return "?" if match[0][0] == "?" and followed else ""


def take_credentials(source: str) -> str:
    """A source without its credentials, which this process remembers."""
    bare = without_credentials(source)
    if bare != source:
        _given[bare] = source
    return bare


def with_credentials(source: str) -> str:
    """A source with the credentials that it came with, if it came with any."""
    return _given.get(source, source)
