"""Why an entry, or something on its way to be one, is refused.

    InvalidEntryError            the ledger before it does not allow it
     +- MalformedEntryError      bytes that are no entry, or not the one encoding of it
     +- EntryTooLargeError
     +- BadSignatureError        not signed by whom it names
     +- WrongGenesisError        of another network, or another beginning of this one
     +- GenesisError             a beginning that contradicts itself
     +- ExpiredError             past its expiry by the ledger's time
     +- TooEarlyError            of a time that the ledger has not reached
     +- ReplayedError            it is on the ledger, or a newer one is
     +- DailyQuotaError          more of them a day than its author has earned
     +- WorkNeededError          a newcomer's, without the proof of work
     +- NoWeightError            a vote or candidacy without reputation
     +- BannedError              by somebody whom the ledger has found guilty
     +- NotAMemberError          what only the council's members may state
     +- NotDrawnError            a report by somebody whose reports do not count in this stage
     +- NotAHumanKeyError        an approval by a key that the ledger does not name
     +- NotOpenError             about a proposal that is no longer open
     |   +- UnknownProposalError ... or that the ledger does not have
     +- UnknownParameterError
     +- OutOfRangeError          a parameter's value that its registry does not allow
     +- ClashError               values that are allowed each, and not together
     +- FullError                as many of something as there can be
     +- NoChangeError            a proposal that would change nothing
     +- ProtectedError           consensus, identity, cryptography or council code
     +- UnprovenError            a system entry that the ledger does not bear out

All are pure functions of the ledger before the entry. `permanent` says that no later state of
the same ledger will take the same bytes, so that a pool may forget them.

MalformedError, LimitError and SignatureError among their bases say more: that no state of any
ledger of this network takes what was submitted, so that whoever passed it on is to blame. What is
refused because of what else is on the ledger has none of those: others may not know that yet.
"""

from typing import ClassVar

from protocols.errors import LimitError, MalformedError, RefusedError, SignatureError, SynapseError


class InvalidEntryError(SynapseError):
    """What the ledger before it does not allow."""

    code = "invalid-entry"
    permanent: ClassVar[bool] = True


class MalformedEntryError(InvalidEntryError, MalformedError):
    """Bytes that are no entry, or not the one encoding of it."""

    code = "malformed-entry"


class EntryTooLargeError(InvalidEntryError, LimitError):
    """More bytes, or more parts, than an entry of its kind may have."""

    code = "entry-too-large"


class BadSignatureError(InvalidEntryError, SignatureError):
    """Not signed, for this network, by whom it names."""

    code = "bad-signature"


class WrongGenesisError(InvalidEntryError):
    """Of another network, or of another beginning of this one."""

    code = "wrong-genesis"


class GenesisError(InvalidEntryError, MalformedError):
    """A beginning that contradicts itself."""

    code = "bad-genesis"


class ExpiredError(InvalidEntryError):
    """Past its expiry, or of an epoch or phase that is over."""

    code = "expired"


class TooEarlyError(InvalidEntryError):
    """Of a time, an epoch or a phase that the ledger has not reached."""

    code = "too-early"
    permanent = False


class ReplayedError(InvalidEntryError, RefusedError):
    """It is on the ledger, or a newer one of its kind is."""

    code = "replayed"


class DailyQuotaError(InvalidEntryError, RefusedError):
    """More of them a day than its author has earned."""

    code = "daily-quota"
    permanent = False


class WorkNeededError(InvalidEntryError, RefusedError):
    """A newcomer's, without the proof of work."""

    code = "work-needed"


class NoWeightError(InvalidEntryError, RefusedError):
    """By somebody without the reputation that it takes."""

    code = "no-weight"
    permanent = False


class BannedError(InvalidEntryError, RefusedError):
    """By somebody whom the ledger has found guilty."""

    code = "banned"


class NotAMemberError(InvalidEntryError, RefusedError):
    """What only members of the council may state."""

    code = "not-a-member"
    permanent = False


class NotDrawnError(InvalidEntryError, RefusedError):
    """By somebody whose reports do not count in a rollout's present stage."""

    code = "not-drawn"
    permanent = False


class NotAHumanKeyError(InvalidEntryError, RefusedError):
    """An approval by a key that the ledger does not name."""

    code = "not-a-human-key"
    permanent = False


class NotOpenError(InvalidEntryError, RefusedError):
    """About a proposal that is no longer open, or does not take this."""

    code = "not-open"


class UnknownProposalError(NotOpenError):
    """About a proposal that the ledger does not have, or not yet."""

    permanent = False


class UnknownParameterError(InvalidEntryError):
    """A parameter that the registry does not have."""

    code = "unknown-parameter"


class OutOfRangeError(InvalidEntryError, LimitError):
    """A parameter's value that the registry does not allow."""

    code = "out-of-range"


class ClashError(InvalidEntryError, RefusedError):
    """Values that are allowed each, and not beside what is in force."""

    code = "clash"
    permanent = False


class FullError(InvalidEntryError, RefusedError):
    """As many are there as there can be."""

    code = "full"
    permanent = False


class NoChangeError(InvalidEntryError, RefusedError):
    """A proposal that would change nothing."""

    code = "no-change"
    permanent = False


class ProtectedError(InvalidEntryError, RefusedError):
    """Consensus, identity, cryptography and council code are never replaced by a vote."""

    code = "protected"


class UnprovenError(InvalidEntryError):
    """A system entry that the ledger before it does not bear out."""

    code = "unproven"
