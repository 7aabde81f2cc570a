"""The checks find what is broken, say how to make it again, and find a shorter run of it."""

import json
from collections.abc import Callable, Iterator

import pytest

from protocols.ledger.chain import Head
from protocols.ledger.council import Council, Instant, SignedTimeOut
from protocols.raft.log import Log
from protocols.raft.state import Vows
from simnet.virtual import families
from simnet.virtual.bareprogram import BareProgram
from simnet.virtual.case import Case, Outcome
from simnet.virtual.checks import History
from simnet.virtual.cli import EXIT_ABSENT, EXIT_BROKEN, EXIT_KEPT, main, missing
from simnet.virtual.crowd import Crowd
from simnet.virtual.failover import failover, healed
from simnet.virtual.faults import Faults
from simnet.virtual.plan import parse_numbers
from simnet.virtual.runs import run, run_all, shrunk
from simnet.virtual.town import Town
from simnet.virtual.wan import trips
from simnet.virtual.world import ViolationError
from tests.virtual_toy import world_of

Patch = pytest.MonkeyPatch


def first_violation(family: str, seeds: range) -> Outcome:
    for seed in seeds:
        outcome = run(Case(families.load(family), seed))
        if outcome.failed:
            return outcome
    raise AssertionError(f"{family}: nothing found in {len(seeds)} runs")


# -- broken councils ----------------------------------------------------------------------------


def forgets_its_acks(patch: Patch) -> None:
    load = Vows.load

    def loaded(vows: Vows, saved: dict[bytes, bytes]) -> None:
        load(vows, saved)
        vows.acked = None

    patch.setattr(Vows, "load", loaded)


def names_the_lowest(patch: Patch) -> None:
    sign = Vows.sign_time_out

    def signed(vows: Vows, term: int) -> SignedTimeOut | None:
        high, vows.high = vows.high, vows._start
        try:
            return sign(vows, term)
        finally:
            vows.high = high

    patch.setattr(Vows, "_start", None, raising=False)
    init = Vows.__init__

    def made(vows: Vows, *arguments: object) -> None:
        init(vows, *arguments)  # type: ignore[arg-type]
        vows._start = vows.high  # type: ignore[attr-defined]

    patch.setattr(Vows, "__init__", made)
    patch.setattr(Vows, "sign_time_out", signed)


def saves_no_entries(patch: Patch) -> None:
    patch.setattr(Log, "save_all", lambda log, entries: None)


def gives_its_seat_up(patch: Patch) -> None:
    alarm = BareProgram.alarm

    def rung(program: BareProgram, now: Instant) -> list[object]:
        if now.mono > 20:
            program.replica = None
        return alarm(program, now)

    patch.setattr(BareProgram, "alarm", rung)


def counts_one_too_few(patch: Patch) -> None:
    patch.setattr(Council, "quorum", property(lambda council: 2 * len(council.seats) // 3))


BROKEN = [
    (forgets_its_acks, "crashes", {"lost-state", "one-chain", "old-term"}),
    (names_the_lowest, "crashes", {"retreat"}),
    (gives_its_seat_up, "idle", {"progress", "gave-up"}),
    (saves_no_entries, "crashes", {"unsaved"}),
    (counts_one_too_few, "twins", {"one-hash-per-index", "one-state", "uncertified", "proven"}),
]


@pytest.mark.parametrize(("breaks", "family", "checks"), BROKEN)
def test_a_broken_council_is_found(
    breaks: Callable[[Patch], None], family: str, checks: set[str], monkeypatch: Patch
) -> None:
    breaks(monkeypatch)
    outcome = first_violation(family, range(1, 60))
    assert outcome.check in checks, outcome.text


def test_a_violation_is_made_again_by_its_line_and_shrunk(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    forgets_its_acks(monkeypatch)
    found = first_violation("crashes", range(1, 40))
    words = found.command.split()
    assert words[:4] == ["python", "-m", "simnet", "virtual"]
    assert main([*words[4:], "--json", "--workers", "1"]) == EXIT_BROKEN
    told = json.loads(capsys.readouterr().out.splitlines()[-1])["violations"]
    assert [(each["check"], each["text"]) for each in told] == [(found.check, found.text)]

    case = Case(families.load("crashes"), found.seed)
    shorter = shrunk(case, found, lambda _: None)
    again = run(shorter)
    assert again.check == found.check
    assert shorter.safety_s <= case.safety_s
    assert len(shorter.without) > 0
    assert parse_numbers(shorter.command.split("--without ")[1]) == list(shorter.without)


def test_a_machine_that_raises_is_a_violation(monkeypatch: Patch) -> None:
    def raises(log: Log, index: int) -> None:
        raise LookupError("our bug")

    monkeypatch.setattr(Log, "save", raises)
    outcome = run(Case(families.load("idle"), 1, 4, 5.0))
    assert outcome.check == "crash"
    assert "LookupError: our bug (test_virtual_checks.py:" in outcome.text


def test_a_council_that_stands_still_is_found(monkeypatch: Patch) -> None:
    monkeypatch.setattr(Council, "leader", lambda council, term: 0)
    outcome = first_violation("leaders", range(1, 60))
    assert outcome.check == "progress"


# -- the history --------------------------------------------------------------------------------


class Standing:
    """A daemon as the history sees it."""

    epoch, certificate, loaded = 1, None, True
    council = Council(1, b"", (), Head(0, bytes(32)))

    def __init__(self, *hashes: bytes, state: bytes = b"") -> None:
        self.hashes = [bytes(32), *hashes]
        self.state = state

    @property
    def ledger(self) -> "Standing":
        return self

    @property
    def head(self) -> Head:
        return Head(len(self.hashes) - 1, self.hashes[-1])

    def hash_at(self, index: int) -> bytes:
        return self.hashes[index]

    def digest(self) -> bytes:
        return self.state


@pytest.fixture
def history() -> History:
    made = History("test", lambda *_: True, Standing())  # type: ignore[arg-type]
    made.sample = 1
    return made


def see(history: History, number: int, *hashes: bytes, state: bytes = b"") -> int:
    node = world_of(3).nodes[number]
    return history.look(node, Standing(*hashes, state=state))  # type: ignore[arg-type]


def test_one_history(history: History) -> None:
    assert see(history, 0, b"a", b"b") == 2
    assert see(history, 1, b"a") == 0
    assert see(history, 1, b"a", b"b", b"c") == 1
    with pytest.raises(ViolationError, match="one-hash-per-index"):
        see(history, 2, b"a", b"x")


def test_what_was_ratified_stays_with_who_had_it(history: History) -> None:
    see(history, 0, b"a", b"b")
    with pytest.raises(ViolationError, match="durable"):
        see(history, 0, b"a")


def test_whose_disk_took_harm_may_come_back_with_less(history: History) -> None:
    node = world_of(3).nodes[0]
    see(history, 0, b"a", b"b")
    history.spare(node)
    assert see(history, 0, b"a") == 0
    with pytest.raises(ViolationError, match="durable"):
        see(history, 0)


def test_equal_ledgers_have_equal_states(history: History) -> None:
    see(history, 0, b"a", state=b"one")
    with pytest.raises(ViolationError, match="one-state"):
        see(history, 1, b"a", state=b"another")


# -- the command line ---------------------------------------------------------------------------


def test_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == EXIT_KEPT
    assert "twins" in capsys.readouterr().out
    with pytest.raises(SystemExit) as usage:
        main(["no-such-family"])
    assert usage.value.code == 2
    assert "there is no family" in capsys.readouterr().err
    assert main(["idle", "--seed", "2", "--members", "4", "--seconds", "9", "--trace", "-"]) == 0
    assert "is the first to have 1 ratified" in capsys.readouterr().out


def test_a_fault_that_never_happened_is_told(
    monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["clocks", "--seeds", "1-20", "--seconds", "2", "--members", "4", "--workers", "1"]
    monkeypatch.setattr(Faults, "skew_begins", Faults.nothing)
    monkeypatch.setitem(families_faults(), "skew", (Faults.nothing, Faults.nothing))
    assert main([*words, "--json"]) == EXIT_ABSENT
    assert "skew" in json.loads(capsys.readouterr().out)["never_happened"]
    assert missing(families.load("clocks"), []) == []


def families_faults() -> dict[str, object]:
    from simnet.virtual import faults

    return faults.FAULTS  # type: ignore[return-value]


def test_runs_are_the_same_on_one_core_and_on_two() -> None:
    cases = [Case(families.load("liars"), seed, 4, 8.0) for seed in range(1, 7)]

    def by_seed(outcomes: Iterator[Outcome]) -> list[Outcome]:
        return sorted(outcomes, key=lambda each: each.seed)

    assert by_seed(run_all(cases, 2)) == by_seed(run_all(cases, 1))


# -- what the benches take ----------------------------------------------------------------------


def test_a_killed_leader_is_followed_within_three_time_outs() -> None:
    assert 0 < max(failover(range(12))) <= 3


def test_healing_takes_at_most_eight_time_outs() -> None:
    assert 0 < max(healed(range(8))) <= 8


def test_two_round_trips_to_ratification() -> None:
    found = trips(4, 0.1, 6)
    assert min(found.commits) >= 2
    assert sorted(found.commits)[3] <= 2.2
    assert sorted(found.certificates)[9] <= 2.7


def test_a_crowd_follows() -> None:
    crowd = Crowd(60)
    events, _, lowest = crowd.run(12.0)
    assert lowest >= 3
    assert events > 60 * 12


def test_a_picture_is_drawn(tmp_path_factory: pytest.TempPathFactory) -> None:
    chart = pytest.importorskip("simnet.virtual.chart")
    path = tmp_path_factory.mktemp("pictures") / "run.png"
    town = Town(Case(families.load("epochs"), 3, 4, 20.0), telling=True)
    recorder = chart.Recorder(town)
    chart.draw(recorder, town.run(), path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert any(sample.leads for samples in recorder.samples for sample in samples)


def test_time_is_asked_of_nobody_but_the_heap() -> None:
    """An Instant comes from the node's clock, at the world's time."""
    world = world_of(1)
    world.heap.run(7.0)
    assert world.nodes[0].clock.instant(world.now) == Instant(7.0, 1_800_000_007_000)
