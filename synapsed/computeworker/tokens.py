"""Text to tokens and back: by a model's own `tokenizer.json`, or, where it has none, bytes.

A model whose vocabulary is the 256 bytes needs no tokenizer, and reads any text of any language.
"""

import codecs
from typing import Any, Protocol

import torch
from tokenizers import Tokenizer
from torch import Tensor

from synapsed.compute.errors import BadModelError
from synapsed.computeworker.files import ModelFiles

TOKENIZER = "tokenizer.json"
MAX_TOKENIZER = 64 << 20
BYTES = 256
HOLD_BACK = 6
"""Tokens that are waited for until they are whole characters: those have four bytes at most."""


class Stream(Protocol):
    """Tokens to text, one after another."""

    def push(self, token: int) -> str:
        """The text that is certain now."""

    def end(self) -> str:
        """The rest."""


class Tokens(Protocol):
    """One model's way between text and tokens."""

    def encode(self, text: bytes) -> Tensor:
        """Tokens of UTF-8, int64 of one dimension or, to save memory, uint8."""

    def prompt(self, text: str) -> list[int]:
        """What a model is given to go on from: never nothing."""

    def stream(self) -> Stream:
        """A fresh one."""


class ByteTokens:
    """A token is a byte."""

    def encode(self, text: bytes) -> Tensor:
        """Its bytes."""
        return torch.frombuffer(bytearray(text), dtype=torch.uint8) if text else torch.empty(0)

    def prompt(self, text: str) -> list[int]:
        """Its bytes; a new line stands for nothing."""
        return list(text.encode() or b"\n")

    def stream(self) -> "ByteStream":
        """Text of bytes."""
        return ByteStream()


class ByteStream:
    """Holds back what is not a whole character yet."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def push(self, token: int) -> str:
        """The characters that are whole now."""
        return self._decoder.decode(bytes([token]))

    def end(self) -> str:
        """The rest."""
        return self._decoder.decode(b"", final=True)


class ModelTokens:
    """By `tokenizer.json`."""

    def __init__(self, tokenizer: Any, begin: int | None) -> None:
        self._tokenizer = tokenizer
        self._begin = begin

    def encode(self, text: bytes) -> Tensor:
        """Without the marks that a model is prompted with."""
        found = self._tokenizer.encode(text.decode(errors="replace"), add_special_tokens=False)
        return torch.tensor(found.ids, dtype=torch.int64)

    def prompt(self, text: str) -> list[int]:
        """With them; an empty text is the token that begins one. Raises BadModelError."""
        ids: list[int] = self._tokenizer.encode(text).ids
        if not ids and self._begin is None:
            raise BadModelError("this model cannot go on from nothing", remedy="give it a word")
        return ids or [self._begin or 0]

    def stream(self) -> "ModelStream":
        """Text of tokens."""
        return ModelStream(self._tokenizer)


class ModelStream:
    """Decodes tokens together with those before them, since how a token reads depends on them."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: list[int] = []
        """Said in the last piece."""
        self._fresh: list[int] = []

    def push(self, token: int) -> str:
        """What came to the text's end, once it is whole."""
        self._fresh.append(token)
        piece = self._piece()
        if not piece or (piece.endswith("�") and len(self._fresh) < HOLD_BACK):
            return ""
        self._known, self._fresh = self._fresh, []
        return piece

    def end(self) -> str:
        """Nothing is held back any more."""
        return self._piece()

    def _piece(self) -> str:
        before: str = self._tokenizer.decode(self._known)
        text: str = self._tokenizer.decode(self._known + self._fresh)
        return text[len(before) :]


def tokens_of(files: ModelFiles, config: Any) -> Tokens:
    """A model's. Raises BadModelError where it has none and reads no bytes."""
    data = files.read(TOKENIZER, MAX_TOKENIZER)
    if data is not None:
        try:
            tokenizer = Tokenizer.from_buffer(data)
        except Exception as error:  # noqa: BLE001 - the library raises nothing narrower
            raise BadModelError(f"{TOKENIZER}: {str(error)[:200]}") from None
        begin = config.bos_token_id if config.bos_token_id is not None else config.eos_token_id
        return ModelTokens(tokenizer, begin[0] if isinstance(begin, list) else begin)
    if config.vocab_size != BYTES:
        raise BadModelError(
            f"a model without {TOKENIZER} whose vocabulary is not the {BYTES} bytes",
            remedy="import the model with its tokenizer's file",
        )
    return ByteTokens()
