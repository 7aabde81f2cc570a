"""What a leader knows of the other members of its term."""


class Peer:
    """What the leader knows of one member in this term."""

    __slots__ = ("certified", "held", "last", "sent", "silent")

    def __init__(self, held: int | None, now: float) -> None:
        self.held = held
        """Up to where it acknowledged; None before its first ack of the term."""
        self.certified = 0
        """Up to where it acknowledged certificates."""
        self.sent = now
        """When something that it should answer was sent last."""
        self.silent = 0
        """Retries since it was heard last."""
        self.last = now
        """When it was sent a certificate last."""
