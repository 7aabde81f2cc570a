"""Every error that the protocols raise.

    SynapseError                 what was wrong with which thing, and what to do
     +- MalformedError           bytes that are not what they claim to be
     |   +- NotCanonicalError    decodable, but not the one encoding that we sign and hash
     |   +- SignatureError       a signature that does not verify, or names another key
     |   +- MismatchError        content that does not hash to its name
     +- LimitError               well formed, and more than a named limit allows
     +- NotHeldError             we do not have what was asked for
     +- RefusedError             understood, and refused by policy

A module that needs a finer name derives it from one of these, so that callers can
tell "their fault" (Malformed, Limit) from "not here" and "not now" without reading text.
"""

from typing import ClassVar


class SynapseError(Exception):
    """Base of all typed errors: `code` is stable and stands in JSON, `remedy` says what to do."""

    code: ClassVar[str] = "error"

    def __init__(self, message: str, *, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} ({self.remedy})" if self.remedy else self.message


class MalformedError(SynapseError):
    """Bytes that are not what they claim to be."""

    code = "malformed"


class NotCanonicalError(MalformedError):
    """Decodable, but not the one canonical encoding: two names for one thing are refused."""

    code = "not-canonical"


class SignatureError(MalformedError):
    """A signature that does not verify, or a key that is not the issuer's."""

    code = "bad-signature"


class MismatchError(MalformedError):
    """Content that does not hash to its name."""

    code = "hash-mismatch"


class LimitError(SynapseError):
    """Well formed, and more than a named limit allows."""

    code = "over-limit"


class NotHeldError(SynapseError):
    """We do not have what was asked for."""

    code = "not-held"


class RefusedError(SynapseError):
    """Understood, and refused by policy."""

    code = "refused"
