"""Token buckets by name, for as many names as are worth remembering."""

from protocols.ratelimit import TokenBucket


class Buckets:
    """A bucket of `rate` and `burst` for each of the last `limit` names.

    A name that is forgotten has a full bucket again, as a name that nobody has seen has too:
    whoever can make names gains nothing by it.
    """

    def __init__(self, rate: float, burst: float, limit: int) -> None:
        self._rate = rate
        self._burst = burst
        self._limit = limit
        self._buckets: dict[bytes, TokenBucket] = {}

    def has(self, name: bytes, now: float) -> bool:
        """Whether `name` has a token."""
        bucket = self._buckets.get(name)
        return bucket is None or bucket.available(now) >= 1

    def take(self, name: bytes, now: float) -> bool:
        """Take a token of `name`'s; False where there is none."""
        bucket = self._buckets.get(name)
        if bucket is None:
            while len(self._buckets) >= self._limit:
                del self._buckets[next(iter(self._buckets))]
            bucket = self._buckets[name] = TokenBucket(self._rate, self._burst)
        return bucket.take(1, now) == 0
