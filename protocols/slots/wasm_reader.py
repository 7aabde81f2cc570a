"""Reading WebAssembly's binary format: numbers, names and counts, and never beyond some bytes.

The format is that of the WebAssembly core specification 2.0, chapter 5.
"""

from protocols.errors import MalformedError


class ShapeError(MalformedError):
    """Bytes that are not of the format; the reason says where."""

    code = "bad-shape"


class Reader:
    """A place in some of a module's bytes, which it never leaves."""

    __slots__ = ("at", "data", "end")

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.data, self.at, self.end = data, at, end

    def refuse(self, reason: str) -> ShapeError:
        """What to raise: the reason, and where."""
        return ShapeError(f"{reason} (at byte {self.at})")

    def byte(self) -> int:
        """The next one."""
        if self.at >= self.end:
            raise self.refuse("it ends in the middle of something")
        self.at += 1
        return self.data[self.at - 1]

    def skip(self, size: int) -> None:
        """Pass over so many bytes, which must be there."""
        if size > self.end - self.at:
            raise self.refuse(f"{size} bytes are stated, and {self.end - self.at} are there")
        self.at += size

    def part(self, size: int) -> "Reader":
        """What follows, as a reader of its own."""
        begin = self.at
        self.skip(size)
        return Reader(self.data, begin, begin + size)

    def u32(self) -> int:
        """LEB128 as the specification has it: at most five bytes, and no bit beyond 32."""
        first = self.byte()
        if first < 0x80:
            return first
        found, shift = first & 0x7F, 7
        while True:
            byte = self.byte()
            if shift == 28 and byte > 0x0F:
                raise self.refuse("a number of more than 32 bits")
            found |= (byte & 0x7F) << shift
            if byte < 0x80:
                return found
            shift += 7

    def signed(self, bits: int) -> int:
        """Signed LEB128: the last byte's unused bits repeat its sign."""
        found = shift = 0
        while True:
            byte = self.byte()
            found |= (byte & 0x7F) << shift
            left = bits - shift
            if left < 7:
                above = (byte & 0x7F) >> (left - 1)
                if byte >= 0x80 or above not in (0, (1 << (8 - left)) - 1):
                    raise self.refuse(f"a number of more than {bits} bits")
            shift += 7
            if byte < 0x80:
                return found - (1 << shift) if byte & 0x40 else found

    def name(self) -> str:
        """UTF-8, with its length before it."""
        part = self.part(self.u32())
        try:
            return self.data[part.at : part.end].decode()
        except UnicodeDecodeError as error:
            raise self.refuse("a name that is not UTF-8") from error

    def count(self, most: int, what: str) -> int:
        """How many follow. Each takes a byte at least, so a count is believed only that far."""
        found = self.u32()
        if found > most:
            raise self.refuse(f"{found} {what}, {most} are the most")
        if found > self.end - self.at:
            raise self.refuse(f"{found} {what} in {self.end - self.at} bytes")
        return found

    def done(self, what: str) -> None:
        """All was read."""
        if self.at != self.end:
            raise self.refuse(f"{self.end - self.at} bytes too many in {what}")
