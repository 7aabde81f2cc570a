"""A newcomer's proof of work: so many hashes spent on one submission, checked with one.

A nonce is a proof of `bits` where sha256(domain ‖ subject ‖ nonce) begins with that many zero
bits. In the subject are the submission's author, body and expiry, so that work cannot be lent or
spent twice, and a chain hash of the ledger's last hour (its *anchor*), so that it cannot be done in
advance: what somebody pours out at once is at most an hour of its machines' work. Each nonce
succeeds with probability 2^-bits independently of the others, so the tries are geometrically
distributed: 2^bits on average, and whatever was tried before does not help.
Source: A. Back, "Hashcash: a denial of service counter-measure" (2002).

What it costs in seconds depends on who hashes: at 23 bits this file takes about 3 s of one core
(0.4 µs a hash), a graphics card thousandths of that. It slows a flood; what keeps strangers out
of decisions is that they have no reputation.
"""

import hashlib

from protocols.realm import Realm, realm_domain

MAX_BITS = 64
NONCE_BYTES = 8
STEP = 1 << 16
"""Nonces between two looks at whether somebody cancelled: about 30 ms."""


def expected_hashes(bits: int) -> int:
    """How many hashes a proof costs on average; its median is 0.69 of that."""
    return 1 << bits


def _below(bits: int) -> int:
    return 1 << (256 - bits)


def proves(realm: Realm, subject: bytes, nonce: int, bits: int) -> bool:
    """Whether `nonce` is a proof for `subject` (32 bytes)."""
    if bits == 0:
        return True
    digest = hashlib.sha256(
        realm_domain(realm, "work") + subject + nonce.to_bytes(NONCE_BYTES, "big")
    )
    return int.from_bytes(digest.digest(), "big") < _below(bits)


def search(realm: Realm, subject: bytes, bits: int, start: int, count: int = STEP) -> int | None:
    """The first proof among the nonces from `start`, or None; go on at `start + count`.

    A pure step, so that whoever drives it decides where it runs and when it ends.
    """
    begun = hashlib.sha256(realm_domain(realm, "work") + subject)
    below = _below(bits)
    for nonce in range(start, start + count):
        tried = begun.copy()
        tried.update(nonce.to_bytes(NONCE_BYTES, "big"))
        if int.from_bytes(tried.digest(), "big") < below:
            return nonce
    return None
