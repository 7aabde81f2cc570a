"""Other ways to write the same WAT: each keeps what every function gives, and none costs more
than a handful of instructions."""

import re
from collections.abc import Callable, Iterator

from protocols.draw import Draw

Form = list["Form | str"]
COMMUTATIVE = {"i64.add", "i64.mul", "i64.and", "i64.or", "i32.add", "i32.mul"}
MIRRORED = {
    "i64.lt_s": "i64.gt_s",
    "i64.gt_s": "i64.lt_s",
    "i32.lt_s": "i32.gt_s",
    "i32.gt_u": "i32.lt_u",
}
TOKEN = re.compile(r'"[^"]*"|[()]|[^\s()"]+')


def parse(text: str) -> Form:
    """The one form of a text without block comments."""
    plain = re.sub(r";;.*", "", text)
    stack: list[Form] = [[]]
    for token in TOKEN.findall(plain):
        if token == "(":
            stack.append([])
        elif token == ")":
            form = stack.pop()
            stack[-1].append(form)
        else:
            stack[-1].append(token)
    [form] = stack[0]
    assert isinstance(form, list)
    return form


def text_of(form: "Form | str") -> str:
    """As it is assembled."""
    return form if isinstance(form, str) else f"({' '.join(map(text_of, form))})"


def forms(form: Form) -> Iterator[Form]:
    """A form and all within it, which may be changed meanwhile."""
    yield form
    for part in list(form):
        if isinstance(part, list):
            yield from forms(part)


def _head(form: Form) -> str:
    return form[0] if form and isinstance(form[0], str) else ""


def swapped(module: Form, draw: Draw) -> None:
    """Operands of sums and products change places."""
    for form in forms(module):
        if _head(form) in COMMUTATIVE and draw.chance(1, 2):
            form[1], form[2] = form[2], form[1]


def mirrored(module: Form, draw: Draw) -> None:
    """a < b is b > a."""
    for form in forms(module):
        if _head(form) in MIRRORED and draw.chance(1, 2):
            form[:] = [MIRRORED[_head(form)], form[2], form[1]]


def negated(module: Form, draw: Draw) -> None:
    """a - 5 is a + -5."""
    for form in forms(module):
        if _head(form) in ("i64.sub", "i32.sub") and draw.chance(1, 2):
            kind, last = _head(form)[:3], form[2]
            if isinstance(last, list) and _head(last) == f"{kind}.const":
                form[:] = [f"{kind}.add", form[1], [f"{kind}.const", str(-int(str(last[1])))]]


def shifted(module: Form, draw: Draw) -> None:
    """a << 3 is a * 8."""
    for form in forms(module):
        if _head(form) == "i32.shl" and draw.chance(1, 2):
            last = form[2]
            if isinstance(last, list) and _head(last) == "i32.const":
                form[:] = ["i32.mul", form[1], ["i32.const", str(1 << int(str(last[1])))]]


def renamed(module: Form, draw: Draw) -> None:
    """Other names; they are gone once it is assembled."""
    mark = f"x{draw.integer(0, 1 << 30)}"
    for form in forms(module):
        for at, part in enumerate(form):
            if isinstance(part, str) and part.startswith("$"):
                form[at] = f"{part}_{mark}"


def reordered(module: Form, draw: Draw) -> None:
    """Functions, and the locals of each, in another order: other numbers everywhere."""
    functions = [part for part in module if isinstance(part, list) and _head(part) == "func"]
    others = [part for part in module if part not in functions]
    _shuffle(functions, draw)
    module[:] = [*others, *functions]
    for function in functions:
        places = [
            at
            for at, part in enumerate(function)
            if isinstance(part, list) and _head(part) == "local"
        ]
        mixed = [function[at] for at in places]
        _shuffle(mixed, draw)
        for at, part in zip(places, mixed, strict=True):
            function[at] = part


def padded(module: Form, draw: Draw) -> None:
    """Functions that nobody calls, and a global that nobody reads."""
    for number in range(draw.integer(1, 5)):
        constant = str(draw.integer(0, 1 << 40))
        module.append(["func", f"$unused{number}", ["result", "i64"], ["i64.const", constant]])
    module.append(["global", "$unused", ["mut", "i64"], ["i64.const", "7"]])


def blocked(module: Form, draw: Draw) -> None:
    """Expressions within a block of their own, which is free."""
    for form in forms(module):
        if _head(form) == "i64.add" and draw.chance(1, 3):
            form[:] = ["block", ["result", "i64"], list(form)]


WAYS: tuple[Callable[[Form, Draw], None], ...] = (
    swapped,
    mirrored,
    negated,
    shifted,
    renamed,
    reordered,
    padded,
    blocked,
)


def another(text: str, draw: Draw) -> str:
    """The same module in other words: some of the ways, at random."""
    module = parse(text)
    for way in WAYS:
        if draw.chance(2, 3):
            way(module, draw)
    return text_of(module)


def _shuffle(items: list[Form] | list["Form | str"], draw: Draw) -> None:
    for at in range(len(items) - 1, 0, -1):
        other = draw.integer(0, at)
        items[at], items[other] = items[other], items[at]  # type: ignore[assignment]
