"""What was told once and still holds: the owner finds it in the status."""

from synapsed.process.events import EventBus
from synapsed.process.tally import MAX_NAMES, Tally

ADDR = "/ip4/192.0.2.1/tcp/4817/p2p/12D3KooW"


def tallied() -> tuple[EventBus, Tally]:
    bus = EventBus()
    return bus, Tally(bus)


def test_a_bootstrap_that_does_not_answer_is_a_warning_until_it_does() -> None:
    bus, tally = tallied()
    bus.emit("bootstrap.unreachable", addr=ADDR, why="no route", again_in=5.0)
    bus.emit("bootstrap.unreachable", addr=ADDR, why="refused", again_in=10.0)
    (line,) = tally.warnings()
    assert "refused" in line
    assert "10 s" in line
    bus.emit("bootstrap.reached", addr=ADDR)
    assert tally.warnings() == []
    assert tally.bootstrap == {ADDR: ""}


def test_a_bootstrap_that_is_connected_another_way_is_no_warning() -> None:
    bus, tally = tallied()
    for addr in (ADDR, ADDR + "Z"):
        bus.emit("bootstrap.unreachable", addr=addr, why="refused", again_in=5.0)
    bus.emit(
        "peer.connected", peer="12D3KooW", addr="/ip4/192.0.2.1/tcp/50000", direction="inbound"
    )
    (line,) = tally.warnings()
    assert line.startswith(f"bootstrap {ADDR}Z:")
    assert tally.bootstrap[ADDR] == ""
    assert tally.inbound == 1


def test_failures_of_ours_and_faults_of_others_are_counted_by_name_and_bounded() -> None:
    bus, tally = tallied()
    for n in range(MAX_NAMES + 50):
        bus.emit("task.failed", name=f"task {n}")
        bus.emit("handler.failed", name="one")
        bus.emit("peer.blamed", fault="timeout")
    assert tally.faults == {"timeout": MAX_NAMES + 50}
    assert tally.failed_tasks["one"] == MAX_NAMES + 50
    assert len(tally.failed_tasks) == MAX_NAMES
    assert any("one failed 306 times" in line for line in tally.warnings())


def test_what_the_disk_spoiled_is_a_warning() -> None:
    bus, tally = tallied()
    bus.emit("store.damaged", file="f00d", leaves=2)
    bus.emit("store.damaged", file="beef", leaves=1)
    (line,) = tally.warnings()
    assert line.startswith("3 sub-tiles were damaged")


def test_the_last_scrub_and_who_came_in_are_remembered() -> None:
    bus, tally = tallied()
    bus.emit("store.scrubbed", bytes=10, bad=4)
    bus.emit("peer.connected", peer="p", addr=ADDR, direction="inbound")
    bus.emit("peer.connected", peer="p", addr=ADDR, direction="outbound")
    bus.emit("mdns.failed", why="no multicast")
    assert tally.scrub is not None
    assert tally.scrub[1] == 4
    assert (tally.inbound, tally.mdns_error) == (1, "no multicast")
