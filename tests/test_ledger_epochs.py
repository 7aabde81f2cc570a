"""Epochs: candidacies, the beacon, who is elected, and who ranks for a tile."""

import hashlib
import itertools
from collections import Counter

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocols.ledger.council import Council
from protocols.ledger.election import (
    UNKNOWN_LATENCY,
    changed_seats,
    elect,
    latency_class,
    median_class,
    next_beacon,
    ranking,
    score,
)
from protocols.ledger.entries import (
    MAX_MEMBERS,
    Candidacy,
    EpochEntry,
    Latency,
    Measured,
    Member,
    Reveal,
    decode_entry,
    encode_entry,
)
from protocols.ledger.errors import (
    BadSignatureError,
    ExpiredError,
    FullError,
    InvalidEntryError,
    MalformedEntryError,
    NotAMemberError,
    NoWeightError,
    ReplayedError,
    TooEarlyError,
    UnprovenError,
)
from tests.ledger_book import MEMBERS, STRANGER, Book, Person, genesis, people

ADA, BEN, CLEO, DAN = MEMBERS
EPOCH_MS = 400_000
REVEALS_AT = 300_000
OTHERS = people("eve", "fay", "gus", "hal")
CROWD = genesis(reputation={each.identity: 1000 for each in OTHERS})


def end(book: Book) -> EpochEntry:
    """To the end of the epoch; the entry that ends it."""
    started = book.state.epoch_started
    book.later(started + EPOCH_MS - book.state.time)
    entry = decode_entry(book.payloads[-1]).entry
    assert isinstance(entry, EpochEntry)
    return entry


def reveal_phase(book: Book) -> None:
    book.later(book.state.epoch_started + REVEALS_AT - book.state.time)


# -- the entry ---------------------------------------------------------------------------------


def test_it_ends_by_the_ledgers_time_and_the_next_council_starts_from_it() -> None:
    book = Book()
    first = book.state.council
    assert all(b"epoch" not in each[:40] for each in book.later(EPOCH_MS - 1_000))
    entry = end(book)
    state = book.state
    assert state.epoch == entry.epoch == 2
    assert state.council == Council(2, entry.beacon, entry.seats, state.head)
    assert state.start == state.head.index
    assert state.epoch_started == state.time
    assert state.past == (first,)
    # The header of the entry itself is the old council's; the next is the new one's.
    assert state.spine.next_header(state.epoch, b"x").epoch == 2


def test_a_leader_cannot_end_it_early_or_choose_anything() -> None:
    book = Book(CROWD)
    with pytest.raises(TooEarlyError):
        book.add(encode_entry(_epoch_entry(book)))
    tick = book.state.tick(book.state.time + EPOCH_MS)
    assert tick is not None
    book.add(tick)
    good = _epoch_entry(book)
    stranger = msgspec.structs.replace(good.seats[0], identity=STRANGER.identity)
    msgspec.structs.replace(good.seats[0], weight=9)
    for wrong in (
        msgspec.structs.replace(good, epoch=3),
        msgspec.structs.replace(good, beacon=bytes(32)),
        msgspec.structs.replace(good, seats=good.seats[1:]),
        msgspec.structs.replace(good, seats=(stranger, *good.seats[1:])),
        msgspec.structs.replace(
            good, seats=(msgspec.structs.replace(good.seats[0], weight=9), *good.seats[1:])
        ),
        msgspec.structs.replace(good, members=()),
    ):
        with pytest.raises(UnprovenError):
            book.add(encode_entry(wrong))
    book.add(encode_entry(good))
    assert book.state.epoch == 2


def _epoch_entry(book: Book) -> EpochEntry:
    """What would end the epoch, if it were time."""
    payload = book.state.due(book.state.epoch_started + EPOCH_MS)[-1]
    entry = decode_entry(payload).entry
    assert isinstance(entry, EpochEntry)
    return entry


def test_it_comes_after_everything_else_that_is_due() -> None:
    book = Book(genesis(parameters={"vote.window_ms": EPOCH_MS}))
    book.propose(ADA)
    tick = book.state.tick(book.state.time + EPOCH_MS)
    assert tick is not None
    book.add(tick)
    payloads = book.state.due()
    assert [type(decode_entry(each).entry).__name__ for each in payloads] == [
        "Outcome",
        "EpochEntry",
    ]
    with pytest.raises(TooEarlyError):
        book.add(payloads[-1])


def test_without_any_candidacy_the_council_stays() -> None:
    book = Book()
    seats = book.state.council.seats
    for epoch in range(2, 6):
        entry = end(book)
        assert entry.epoch == epoch
        assert [seat.identity for seat in entry.seats] == [seat.identity for seat in seats]
        assert [seat.key for seat in entry.seats] == [seat.key for seat in seats]
    assert book.state.stats.epochs == 4
    assert book.state.stats.seats_changed == 0


def test_a_candidate_with_reputation_can_be_elected_and_one_without_cannot_stand() -> None:
    book = Book(CROWD)
    seen: set[bytes] = set()
    for _ in range(8):
        for each in OTHERS:
            book.submit(each, book.candidacy(each))
        with pytest.raises(NoWeightError):
            book.submit(STRANGER, book.candidacy(STRANGER))
        before = book.state.council.seats
        for each in MEMBERS + OTHERS:
            if book.state.council.seat_of(each.identity) is not None and each in MEMBERS:
                book.submit(each, book.candidacy(each))
        reveal_phase(book)
        for each in MEMBERS + OTHERS:
            if book.state.council.seat_of(each.identity) is not None:
                book.submit(each, Reveal(epoch=book.state.epoch + 1, secret=each.secret))
        entry = end(book)
        assert changed_seats(before, entry.seats) <= 1
        seen |= {seat.identity for seat in entry.seats}
    assert len(seen) > 4
    assert book.state.stats.seats_changed >= 1


# -- candidacies ---------------------------------------------------------------------------------


def test_a_member_that_lost_its_key_is_seated_under_a_new_one() -> None:
    book = Book()
    fresh = Person("ada's new seat key")
    book.submit(ADA, book.candidacy(ADA, seat=fresh))
    entry = end(book)
    keys = {seat.identity: seat.key for seat in entry.seats}
    assert keys[ADA.identity] == fresh.key
    assert keys[BEN.identity] == BEN.seat.key


def test_a_seat_key_must_be_ones_own() -> None:
    book = Book(CROWD)
    eve = OTHERS[0]
    taken = book.candidacy(eve, seat=ADA.seat)
    with pytest.raises(ReplayedError, match="another member's"):
        book.submit(eve, taken)
    good = book.candidacy(eve)
    assert isinstance(good, Candidacy)
    for wrong in (
        msgspec.structs.replace(good, key=Person("not mine").key),
        msgspec.structs.replace(good, possession=bytes(64)),
        book.candidacy(OTHERS[1]),
    ):
        with pytest.raises(BadSignatureError):
            book.submit(eve, wrong)
    book.submit(eve, good)
    with pytest.raises(ReplayedError, match="another candidate's"):
        book.submit(OTHERS[1], book.candidacy(OTHERS[1], seat=eve.seat))


def test_candidacies_are_for_the_next_epoch_and_end_before_reveals_begin() -> None:
    book = Book()
    body = book.candidacy(ADA)
    assert isinstance(body, Candidacy)
    with pytest.raises(ExpiredError):
        book.submit(ADA, msgspec.structs.replace(body, epoch=1))
    with pytest.raises(TooEarlyError):
        book.submit(ADA, msgspec.structs.replace(body, epoch=3))
    reveal_phase(book)
    with pytest.raises(ExpiredError):
        book.submit(ADA, body)


def test_candidacies_are_bounded() -> None:
    book = Book()
    for number in range(4):
        book.submit(ADA, book.candidacy(ADA, willing=bool(number % 2)))
        book.later(1_000)
    with pytest.raises(ReplayedError):
        book.submit(ADA, book.candidacy(ADA))


def test_candidates_are_bounded_and_those_that_stand_may_still_change_their_minds() -> None:
    book = Book(CROWD)
    book.submit(OTHERS[0], book.candidacy(OTHERS[0]))
    known = next(iter(book.state.candidates.values()))
    others = {n.to_bytes(38, "big"): msgspec.structs.replace(known, key=n.to_bytes(32, "big"))
              for n in range(1, MAX_MEMBERS)}  # fmt: skip
    book.state.candidates = {**book.state.candidates, **others}
    with pytest.raises(FullError):
        book.submit(OTHERS[1], book.candidacy(OTHERS[1]))
    book.submit(OTHERS[0], book.candidacy(OTHERS[0], willing=False))
    del others[(1).to_bytes(38, "big")]
    book.state.candidates = {OTHERS[0].identity: known, **others}
    book.submit(OTHERS[1], book.candidacy(OTHERS[1]))


# -- the beacon --------------------------------------------------------------------------------


def test_the_beacon_is_drawn_from_what_was_revealed() -> None:
    book, silent = Book(), Book()
    for each in MEMBERS:
        book.submit(each, book.candidacy(each))
    reveal_phase(book)
    for each in (CLEO, ADA):
        book.submit(each, Reveal(epoch=2, secret=each.secret))
    seats = {book.state.council.seat_of(each.identity): each.secret for each in (ADA, CLEO)}
    expected = next_beacon(book.state.council.beacon, 2, seats)  # type: ignore[arg-type]
    assert end(book).beacon == expected
    assert end(silent).beacon == next_beacon(silent.state.past[0].beacon, 2, {})
    assert book.state.council.beacon != silent.state.council.beacon


def test_reveals_that_do_not_count() -> None:
    book = Book(CROWD)
    for each in (ADA, OTHERS[0]):
        book.submit(each, book.candidacy(each))
    with pytest.raises(TooEarlyError):
        book.submit(ADA, Reveal(epoch=2, secret=ADA.secret))
    reveal_phase(book)
    with pytest.raises(UnprovenError):
        book.submit(ADA, Reveal(epoch=2, secret=bytes(32)))
    with pytest.raises(UnprovenError):
        book.submit(BEN, Reveal(epoch=2, secret=BEN.secret))
    with pytest.raises(NotAMemberError):
        book.submit(OTHERS[0], Reveal(epoch=2, secret=OTHERS[0].secret))
    with pytest.raises(ExpiredError):
        book.submit(ADA, Reveal(epoch=1, secret=ADA.secret))
    book.submit(ADA, Reveal(epoch=2, secret=ADA.secret))
    book.later(1_000)
    with pytest.raises(ReplayedError):
        book.submit(ADA, Reveal(epoch=2, secret=ADA.secret))


def test_whoever_reveals_last_chooses_between_two_and_no_more() -> None:
    """k members that wait choose among at most 2^k beacons: by silence, not by value."""
    secrets = {seat: hashlib.sha256(bytes([seat])).digest() for seat in range(4)}
    liars = (2, 3)
    reachable = set()
    for silent in itertools.chain.from_iterable(
        itertools.combinations(liars, count) for count in range(3)
    ):
        shown = {seat: secret for seat, secret in secrets.items() if seat not in silent}
        reachable.add(next_beacon(bytes(32), 2, shown))
    assert len(reachable) == 2 ** len(liars)


# -- latency -----------------------------------------------------------------------------------


def test_latency_is_the_median_of_what_the_council_measured() -> None:
    book = Book(CROWD)
    eve = OTHERS[0]
    book.submit(eve, book.candidacy(eve))
    for member, milliseconds in ((ADA, 10), (BEN, 20), (CLEO, 90_000)):
        book.submit(member, Latency(epoch=2, measured=(Measured(eve.identity, milliseconds),)))
    entry = end(book)
    found = {member.identity: member.latency for member in entry.members}
    assert found[eve.identity] == latency_class(20) == 5
    assert [latency_class(n) for n in (0, 1, 2, 1023, 1 << 31)] == [0, 1, 2, 10, 15]
    assert found[ADA.identity] == UNKNOWN_LATENCY


@given(st.integers(1, 21), st.data())
def test_liars_cannot_move_the_median_beyond_honest_measurements(
    seats: int, data: st.DataObject
) -> None:
    liars = data.draw(st.integers(0, (seats - 1) // 3))
    silent = data.draw(st.integers(0, liars))
    honest = data.draw(
        st.lists(st.integers(1, 10_000), min_size=seats - liars, max_size=seats - liars)
    )
    lies = data.draw(
        st.lists(st.integers(0, 1 << 31), min_size=liars - silent, max_size=liars - silent)
    )
    found = median_class([*honest, *lies], seats)
    assert latency_class(min(honest)) <= found <= latency_class(max(honest))


def test_latencies_that_do_not_count() -> None:
    book = Book()
    report = (Measured(ADA.identity, 1), Measured(BEN.identity, 2))
    with pytest.raises(NotAMemberError):
        book.submit(STRANGER, Latency(epoch=2, measured=report))
    with pytest.raises(MalformedEntryError):
        book.submit(ADA, Latency(epoch=2, measured=report[::-1]))
    book.submit(ADA, Latency(epoch=2, measured=report))
    book.later(1_000)
    with pytest.raises(ReplayedError):
        book.submit(ADA, Latency(epoch=2, measured=report))


def test_nothing_is_taken_between_the_epochs_time_and_its_entry() -> None:
    book = Book()
    book.submit(ADA, book.candidacy(ADA))
    tick = book.state.tick(book.state.time + EPOCH_MS)
    assert tick is not None
    book.add(tick)
    for body in (Reveal(epoch=2, secret=ADA.secret), Latency(epoch=2, measured=())):
        with pytest.raises(InvalidEntryError) as caught:
            book.submit(ADA, body)
        assert caught.value.code == "expired"


# -- the election ------------------------------------------------------------------------------


IDENTITIES = [hashlib.sha256(bytes([n])).digest() for n in range(30)]
SITTING = st.lists(st.sampled_from(IDENTITIES), min_size=1, max_size=21, unique=True)
WEIGHTS = st.dictionaries(st.sampled_from(IDENTITIES), st.integers(0, 5000), max_size=30)


@given(SITTING, WEIGHTS, st.sets(st.sampled_from(IDENTITIES), max_size=4), st.integers(1, 21),
       st.binary(min_size=32, max_size=32))  # fmt: skip
def test_elections(
    sitting: list[bytes], weights: dict[bytes, int], banned: set[bytes], size: int, beacon: bytes
) -> None:
    sitting = sorted(sitting)
    willing = {who: weight for who, weight in weights.items() if who not in banned}
    found = elect(beacon, sitting, willing, banned, size)
    assert found
    assert found == sorted(set(found))
    honest = [who for who in sitting if who not in banned]
    if honest or willing:
        assert not banned & set(found), "the guilty lose their seat"
    else:
        assert found == sitting, "nobody else is there"
    joined = set(found) - set(sitting)
    assert joined <= set(willing)
    assert len(joined) <= max(1, (len(sitting) - 1) // 3), "fewer than a third at once"
    left = set(honest) - set(found)
    assert len(left) <= max(1, (len(sitting) - 1) // 3)
    assert len(found) <= max(size, len(sitting))
    assert found == elect(beacon, sitting, dict(sorted(willing.items())), set(banned), size)


@given(SITTING, st.binary(min_size=32, max_size=32), st.integers(1, 21))
def test_whoever_does_not_want_to_leaves_without_a_successor_only_from_a_council_that_can_spare_it(
    sitting: list[bytes], beacon: bytes, size: int
) -> None:
    sitting = sorted(sitting)
    found = elect(beacon, sitting, {}, set(), size)
    assert set(found) <= set(sitting)
    assert len(found) >= min(len(sitting), 4, size)


def test_the_council_grows_and_shrinks_towards_its_size() -> None:
    weights = dict.fromkeys(IDENTITIES, 10)
    council = IDENTITIES[:4]
    sizes = []
    for step in range(8):
        beacon = hashlib.sha256(b"grow" + bytes([step])).digest()
        council = elect(beacon, council, weights, set(), 10)
        sizes.append(len(council))
    assert sizes[-1] == 10
    assert all(b - a <= max(1, (a - 1) // 3) for a, b in itertools.pairwise([4, *sizes]))
    for step in range(8):
        beacon = hashlib.sha256(b"shrink" + bytes([step])).digest()
        council = elect(beacon, council, weights, set(), 4)
    assert len(council) == 4


def test_seats_follow_reputation() -> None:
    """Over many epochs, who has more reputation sits more often, and everybody sits at times."""
    weights = {who: 1000 if n < 3 else 100 for n, who in enumerate(IDENTITIES[:12])}
    council, sat = sorted(weights)[:4], Counter[bytes]()
    for step in range(600):
        beacon = hashlib.sha256(step.to_bytes(4, "big")).digest()
        council = elect(beacon, council, weights, set(), 4)
        sat.update(council)
    rich = [sat[who] for who in IDENTITIES[:3]]
    poor = [sat[who] for who in IDENTITIES[3:12]]
    assert min(rich) > 2 * max(poor)
    assert min(poor) > 0


@pytest.mark.parametrize("parts", [1, 3, 30])
def test_however_reputation_is_split_it_holds_no_greater_share_of_the_seats(parts: int) -> None:
    """A fifth of all reputation, in one identity or in many."""
    honest = {hashlib.sha256(b"honest%d" % n).digest(): 300 for n in range(12)}
    mine = {hashlib.sha256(b"mine%d" % n).digest(): 900 // parts for n in range(parts)}
    weights, seats, epochs = honest | mine, 7, 800
    council, held = sorted(honest)[:seats], 0
    for step in range(epochs):
        beacon = hashlib.sha256(step.to_bytes(4, "big")).digest()
        council = elect(beacon, council, weights, (), seats)
        held += len(mine.keys() & set(council))
    share = held / (seats * epochs)
    assert share < 900 / 4500 + 0.03
    if parts > 1:
        assert share > 0.1, "who is willing and has reputation sits at times"


# -- ranking for tiles -----------------------------------------------------------------------------


def test_any_daemon_ranks_a_groups_members_alike_and_the_beacon_reshuffles() -> None:
    book, other = Book(CROWD), Book(CROWD)
    groups = [bytes([n]) for n in range(50)]
    first = [book.state.ranking(group) for group in groups]
    assert first == [other.state.ranking(group) for group in groups]
    assert all(sorted(each) == sorted(m.identity for m in MEMBERS) for each in first)
    assert len({tuple(each) for each in first}) > 10
    end(book)
    assert first != [book.state.ranking(group) for group in groups]


def test_members_of_an_epoch_are_all_that_are_willing() -> None:
    book = Book(CROWD)
    for each in OTHERS:
        book.submit(each, book.candidacy(each))
    book.submit(ADA, book.candidacy(ADA, willing=False))
    entry = end(book)
    members = {member.identity for member in entry.members}
    seated = {seat.identity for seat in entry.seats}
    assert members == {each.identity for each in (BEN, CLEO, DAN, *OTHERS)} | seated
    assert all(member.weight == 1000 for member in entry.members)


def test_a_primary_is_drawn_by_weight_and_latency() -> None:
    near, far = IDENTITIES[0], IDENTITIES[1]
    members = [Member(near, 100, 3), Member(far, 100, UNKNOWN_LATENCY)]
    first = Counter(
        ranking(bytes(32), number.to_bytes(2, "big"), members, ())[0] for number in range(3000)
    )
    assert first[near] / 3000 == pytest.approx(8 / 9, abs=0.03)
    assert score(100, 5) == score(100, 0) == 8 * score(100, 8) == 8 * score(100, 16)
    assert ranking(bytes(32), b"g", members, {near}) == [far]
    assert ranking(bytes(32), b"g", [Member(near, 0, 3)], ()) == []
