"""What can go wrong with training.

SynapseError
 +- NotHeldError
 |   +- BlobUnknownError     a delta or result that nobody who was asked has
 |   |   +- StateLackingError    an outer state, without which a round cannot be judged
 |   +- NoTrainingError      the ledger has no training of this model
 +- RefusedError
 |   +- NotJoinedError       this daemon does not learn this model
 |   +- CannotLearnError     it cannot just now: why is in the text
 +- MalformedError
 |   +- BadTextError         what the owner named is no text that this could be done with
 +- LimitError
 |   +- TooManyBlobsError    more than may wait of one learner, or in all
 +- MismatchError
     +- WrongBlobError       bytes that are not what they were named as
     +- WrongHeadError       a version that is not what its record says
"""

from protocols.errors import (
    LimitError,
    MalformedError,
    MismatchError,
    NotHeldError,
    RefusedError,
)


class BlobUnknownError(NotHeldError):
    """A delta, result or version that is not here, and that nobody gave."""

    code = "blob-unknown"


class StateLackingError(BlobUnknownError):
    """The outer state that a round begins from is not here, and nobody gave it."""

    code = "state-lacking"


class NoTrainingError(NotHeldError):
    """The ledger has no training of this model."""

    code = "no-training"


class NotJoinedError(RefusedError):
    """This daemon does not learn this model."""

    code = "not-joined"


class CannotLearnError(RefusedError):
    """Learning cannot begin, or go on."""

    code = "cannot-learn"


class BadTextError(MalformedError):
    """A text that is not there, is none, or is too short."""

    code = "bad-text"


class TooManyBlobsError(LimitError):
    """What others may have lie here is used up."""

    code = "too-many-blobs"


class WrongBlobError(MismatchError):
    """Bytes that are not what they were named as."""

    code = "wrong-blob"


class WrongHeadError(MismatchError):
    """A version whose values are not those that its record names."""

    code = "wrong-head"
