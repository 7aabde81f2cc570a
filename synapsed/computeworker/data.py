"""Texts as tokens, and the order in which a learner reads them.

What a learner reads at its step s is a function of (its seed, s), so that a training goes on after
a pause where it was, and two learners of one text read different parts of it.
"""

import hashlib
import os
from pathlib import Path

import torch
from torch import Tensor

from synapsed.compute.errors import BadDataError
from synapsed.computeworker.tokens import ByteTokens, Tokens

TEXTS = (".txt", ".text", ".md")
MAX_BYTES = 4 << 30
"""Of a text that is a learner's whole data; it is held in memory."""
LOOKED_AT = 8192
"""Bytes of a file in which a zero byte says that it is no text, as grep has it."""
MAX_TOKENIZED = 512 << 20
"""The same, where tokens take 8 bytes and a tokenizer reads 5 MB a second."""


def load_text(path: str, tokens: Tokens, *, to_learn: bool = False) -> Tensor:
    """The tokens of a file, or of all texts below a folder, in the order of their paths. Raises
    BadDataError; `to_learn`, also for what is no text: a slip would teach everybody noise."""
    most = MAX_BYTES if isinstance(tokens, ByteTokens) else MAX_TOKENIZED
    try:
        files = _files(Path(path))
        size = sum(file.stat().st_size for file in files)
        if size > most:
            raise BadDataError(
                f"{path} has {size >> 20} MiB of text", remedy=f"{most >> 20} are read"
            )
        texts = [_read(file) for file in files]
    except OSError as error:
        raise BadDataError(f"{path}: {error.strerror}", remedy="name a text file") from None
    for file, text in zip(files, texts, strict=True):
        if to_learn and b"\0" in text[:LOOKED_AT]:
            raise BadDataError(f"{file} is no text", remedy="name texts in UTF-8")
    return tokens.encode(b"\n".join(texts))


def _read(file: Path) -> bytes:
    """A regular file's bytes: a device has no size, and no end."""
    if file.exists() and not file.is_file():
        raise BadDataError(f"{file} is not a file", remedy="name a text file")
    return file.read_bytes()


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    found = [
        Path(top, name)
        for top, _, names in os.walk(path)
        for name in names
        if name.lower().endswith(TEXTS)
    ]
    if not found:
        raise BadDataError(
            f"{path} has no texts", remedy=f"files that end with {', '.join(TEXTS)} are read"
        )
    return sorted(found)


def batch_of(text: Tensor, seed: int, step: int, batch: int, context: int) -> Tensor:
    """What a learner reads at a step: int64 (batch, context + 1)."""
    named = hashlib.sha256(f"{seed}:{step}".encode()).digest()
    random = torch.Generator().manual_seed(int.from_bytes(named[:8], "little") >> 1)
    starts = torch.randint(0, text.numel() - context, (batch,), generator=random)
    return text[starts[:, None] + torch.arange(context + 1)].to(torch.int64)


def check_length(path: str, text: Tensor, context: int) -> None:
    """Raise BadDataError unless there is one sequence at least."""
    if text.numel() <= context:
        raise BadDataError(
            f"{path} has {text.numel()} tokens, and one sequence takes {context + 1}",
            remedy="give more text",
        )


def window_count(text: Tensor, context: int) -> int:
    """Windows of an evaluation: window i predicts the `context` tokens behind token i * context."""
    return max(0, text.numel() - 1) // context


def windows_of(text: Tensor, context: int, numbers: list[int]) -> Tensor:
    """int64 (windows, context + 1)."""
    starts = torch.tensor(numbers, dtype=torch.int64) * context
    return text[starts[:, None] + torch.arange(context + 1)].to(torch.int64)
