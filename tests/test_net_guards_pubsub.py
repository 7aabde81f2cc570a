"""Guards of FACTS-libp2p.md around pubsub: each defect on the bare library, none of it here."""

import os
import random
import threading
import time
from contextlib import suppress
from types import SimpleNamespace

import pytest
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.custom_types import TProtocol
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamError
from libp2p.peer.id import ID
from libp2p.pubsub import gossipsub
from libp2p.pubsub import pubsub as bare
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub

from protocols.gossip.validation import Verdict
from synapsed.keys import Identity
from synapsed.net import Fault, MemoryTable, PeerBook
from synapsed.net import pubsub as ours
from synapsed.net.frames import varint_frame
from synapsed.net.pubsub import MAX_MESSAGES, MAX_RPC
from tests.netlab import (
    LOOPBACK,
    PATIENCE,
    TOPIC,
    Node,
    bare_addr,
    bare_connect,
    bare_host,
    bare_pubsub,
    holds,
    join,
    node,
    nodes,
    subscribers,
    until,
)
from tests.steps import Passes

MESHSUB = "/meshsub/1.1.0"

# The bare library warns of much that is its own business.
pytestmark = pytest.mark.filterwarnings("ignore")


def signed(seed: bytes, data: bytes, seqno: int, topic: str = TOPIC) -> rpc_pb2.Message:
    """A gossip message as py-libp2p signs it."""
    pair = create_new_key_pair(seed)
    message = rpc_pb2.Message(
        data=data,
        topicIDs=[topic],
        from_id=ID.from_pubkey(pair.public_key).to_bytes(),
        seqno=seqno.to_bytes(8, "big"),
    )
    prefix = b"libp2p-pubsub:"
    message.signature = pair.private_key.sign(prefix + message.SerializeToString())
    return message


def malformed_rpcs(count: int) -> list[bytes]:
    """RPCs that are wrong in all the ways we could think of; always the same ones."""
    chance = random.Random(7)
    good = rpc_pb2.RPC(
        publish=[signed(bytes(32), b"good", 1)],
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=TOPIC)],
    ).SerializeToString()
    weird: list[rpc_pb2.RPC] = [
        rpc_pb2.RPC(senderRecord=b"\xff" * 40),
        rpc_pb2.RPC(publish=[rpc_pb2.Message(topicIDs=[TOPIC], from_id=b"\xff" * 20, data=b"x")]),
        rpc_pb2.RPC(
            publish=[rpc_pb2.Message(topicIDs=[TOPIC], from_id=b"", seqno=b"", signature=b"s")]
        ),
        rpc_pb2.RPC(
            publish=[
                rpc_pb2.Message(
                    topicIDs=[TOPIC], from_id=b"\x12\x20" + bytes(32), key=b"\x08\x09k", data=b"x"
                )
            ]
        ),
        rpc_pb2.RPC(
            control=rpc_pb2.ControlMessage(
                ihave=[rpc_pb2.ControlIHave(topicID=TOPIC, messageIDs=[b"\xff", b"zz", b"abc"])],
                iwant=[rpc_pb2.ControlIWant(messageIDs=[b"\xff\xfe"] * 50)],
                graft=[rpc_pb2.ControlGraft(topicID=f"/no/{n}") for n in range(100)],
                prune=[
                    rpc_pb2.ControlPrune(
                        topicID=TOPIC,
                        backoff=2**63,
                        peers=[rpc_pb2.PeerInfo(peerID=b"\xff\xff", signedPeerRecord=b"\x01")],
                    )
                ],
            )
        ),
        rpc_pb2.RPC(
            subscriptions=[
                rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"/t/{n}") for n in range(40)
            ]
        ),
    ]
    out = [varint_frame(b"\xff" * 50), b"\xff" * 50, varint_frame(b"")]
    out += [varint_frame(rpc.SerializeToString()) for rpc in weird]
    while len(out) < count:
        data = bytearray(good)
        for _ in range(chance.randrange(1, 8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        cut = data[: chance.randrange(1, len(data) + 1)]
        out.append(varint_frame(bytes(chance.choice((data, cut, chance.randbytes(60))))))
    return out


async def send_raw(attacker: Node, target: bytes, frames: list[bytes]) -> None:
    """Frames on one pubsub stream of a node of ours that keeps no rules."""
    host = attacker.net._host
    # Its own, rightful stream comes first: of two, the later one counts.
    await until(lambda: ID(target) in attacker.net._gossip._pubsub.peers)
    with suppress(StreamError, SwarmException, StreamFailure):  # it may be cut off
        stream = await host.new_stream(ID(target), [TProtocol(MESHSUB)])
        for frame in frames:
            await stream.write(frame)
        await stream.close()


# -- any exception in any handler ends the process


async def test_bare_a_malformed_rpc_ends_the_host() -> None:
    died = False
    try:
        with trio.fail_after(PATIENCE):
            async with bare_pubsub() as pubsub, node() as attacker:
                await attacker.net.connect(bare_addr(pubsub.host))
                await send_raw(attacker, pubsub.my_id.to_bytes(), [varint_frame(b"\xff" * 50)])
                await trio.sleep_forever()
    except BaseExceptionGroup:
        died = True
    assert died


async def test_120_malformed_rpcs_end_nothing() -> None:
    frames = malformed_rpcs(120)
    async with nodes(2) as (target, friend):
        for each in (target, friend):
            each.subscribe()
        await join(friend, target)
        for at in range(0, len(frames), 3):
            async with node() as attacker:
                await attacker.net.connect(target.addr)
                for frame in frames[at : at + 3]:
                    await send_raw(attacker, target.id, [frame])
        await friend.net.publish(TOPIC, b"after the storm")
        await until(lambda: b"after the storm" in target.got)
        assert target.kinds().count("peer.blamed") > 30
        assert not [e for e in target.events if e["kind"] == "handler.failed"]


# -- a restart loses our gossip


async def test_bare_messages_after_a_restart_are_taken_for_old_ones() -> None:
    seed = os.urandom(32)
    async with bare_host(seed) as host:
        first = Pubsub(host, GossipSub([TProtocol(MESHSUB)], 6, 5, 8))
        used = {first._next_seqno() for _ in range(300)}
        again = Pubsub(host, GossipSub([TProtocol(MESHSUB)], 6, 5, 8))
        assert all(again._next_seqno() in used for _ in range(50))


async def test_messages_after_a_restart_all_arrive() -> None:
    seed = os.urandom(32)
    async with node() as reader:
        reader.subscribe()
        for life in range(2):
            async with node(seed=seed) as writer:
                writer.subscribe()
                await join(writer, reader)
                count = 300 if life == 0 else 50
                reader.got.clear()
                sent = [b"%d:%d" % (life, n) for n in range(count)]
                for data in sent:
                    await writer.net.publish(TOPIC, data)
                await reader.gets(sent)


# -- a quick re-dial wedges pubsub


async def test_bare_a_peer_that_comes_again_is_not_told_of_subscriptions() -> None:
    # Two nodes of one identity: the second is the peer come back, while the remote side still
    # believes in the first's connection.
    seed = os.urandom(32)
    async with bare_pubsub() as remote, node(seed=seed) as first, node(seed=seed) as second:
        await remote.subscribe(TOPIC)
        for each in (first, second):
            each.subscribe()
        await first.net.connect(bare_addr(remote.host))
        await until(lambda: subscribers(first.net, TOPIC))
        await second.net.connect(bare_addr(remote.host))
        await holds(lambda: not subscribers(second.net, TOPIC), 1.5)


async def test_a_peer_that_comes_again_is_told_of_subscriptions() -> None:
    seed = os.urandom(32)
    async with node() as remote, node(seed=seed) as first, node(seed=seed) as second:
        for each in (remote, first, second):
            each.subscribe()
        await join(first, remote)
        await second.net.connect(remote.addr)
        await until(lambda: subscribers(second.net, TOPIC))
        await until(lambda: not first.net.peers())
        await remote.net.publish(TOPIC, b"to the second")
        await second.gets([b"to the second"])


async def test_a_quick_redial_wedges_nothing() -> None:
    async with nodes(2) as (one, other):
        for each in (one, other):
            each.subscribe()
        for turn in range(5):
            await join(one, other)
            other.got.clear()
            sent = [b"%d:%d" % (turn, n) for n in range(10)]
            for data in sent:
                await one.net.publish(TOPIC, data)
            await other.gets(sent)
            await one.net.disconnect(other.id)


# -- 10 messages a second, ours included; a queue of 32


async def test_bare_only_ten_of_a_hundred_quick_messages_get_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    moment = time.time()
    monkeypatch.setattr(gossipsub, "time", SimpleNamespace(time=lambda: moment))
    async with bare_pubsub() as one, bare_pubsub() as other:
        for each in (one, other):
            await each.subscribe(TOPIC)
        reader = await other.subscribe(TOPIC)
        await bare_connect(one.host, bare_addr(other.host))
        await one.wait_for_subscription(other.my_id, TOPIC)
        await _burst(one)
        with trio.fail_after(PATIENCE):
            for _ in range(10):
                await reader.get()
        with trio.move_on_after(0.5) as scope:
            await reader.get()
        assert scope.cancelled_caught


async def test_bare_a_subscriber_that_is_late_keeps_32_of_a_hundred() -> None:
    options = {"spam_protection_enabled": False}
    async with bare_pubsub(**options) as one, bare_pubsub(**options) as other:
        for each in (one, other):
            await each.subscribe(TOPIC)
        reader = await other.subscribe(TOPIC)
        await bare_connect(one.host, bare_addr(other.host))
        await one.wait_for_subscription(other.my_id, TOPIC)
        arrived: list[bytes] = []

        def note(_peer: ID, message: rpc_pb2.Message) -> bool:
            arrived.append(message.data)
            return True

        other.set_topic_validator(TOPIC, note, False)
        await _burst(one)
        with trio.fail_after(PATIENCE):
            while b"the end" not in arrived:
                await one.publish(TOPIC, b"the end")
                await trio.sleep(0.05)
        assert 0 < len(set(arrived)) - 1 < 100
        assert reader.receive_channel.statistics().current_buffer_used <= 32


async def _burst(one: Pubsub) -> None:
    for n in range(100):
        await one.publish(TOPIC, b"%d" % n)


async def test_a_hundred_quick_messages_arrive_at_a_late_subscriber() -> None:
    async with nodes(2) as (one, other):
        one.subscribe()
        gate = trio.Event()
        got: list[bytes] = []

        async def late(_peer: bytes, data: bytes) -> None:
            await gate.wait()
            got.append(data)

        other.net.subscribe(TOPIC, lambda _p, _d: Verdict.ACCEPT, late)
        await join(one, other)
        sent = [b"%d" % n for n in range(1000)]
        for data in sent:
            await one.net.publish(TOPIC, data)
        await until(lambda: other.net.counters.get("accepted") == len(sent))
        gate.set()
        await until(lambda: got == sent)


# -- the heartbeat


def test_bare_the_heartbeat_defaults_to_two_minutes_and_slows_down() -> None:
    router = GossipSub([TProtocol(MESHSUB)], 6, 5, 8)
    assert router.heartbeat_interval == 120
    router = GossipSub([TProtocol(MESHSUB)], 6, 5, 8, heartbeat_interval=1)
    router._adapt_heartbeat_parameters(0.3)
    assert router.heartbeat_interval >= 30


async def test_the_heartbeat_is_a_second() -> None:
    async with nodes(2) as (one, other):
        for each in (one, other):
            each.subscribe()
        await join(one, other)
        await until(lambda: other.net._gossip.neighbours(TOPIC)[0] == 1)
        # Out of the mesh, a neighbour is told of a message by the heartbeat's IHAVE only.
        router = one.net._gossip._router
        router.mesh[TOPIC].clear()
        one.net._gossip._pubsub.peer_topics[TOPIC].clear()
        await one.net.publish(TOPIC, b"by repair")
        assert other.got == []
        one.net._gossip._pubsub.peer_topics[TOPIC].add(ID(other.id))
        router._add_back_off(ID(other.id), TOPIC, False)  # stays out of the mesh
        await until(lambda: other.got == [b"by repair"])


# -- validators


async def test_bare_a_message_refused_once_is_refused_for_five_minutes() -> None:
    async with bare_pubsub() as pubsub:
        reader = await pubsub.subscribe(TOPIC)
        answers = [False, True]
        pubsub.set_topic_validator(TOPIC, lambda _peer, _msg: answers.pop(0), False)
        message = signed(os.urandom(32), b"not yet", 1)
        forwarder = ID(Identity(os.urandom(32)).peer_id)
        for _ in range(2):
            await pubsub.push_msg(forwarder, message)
        assert answers == [True]  # the second was not even asked for
        with trio.move_on_after(0.1) as scope:
            await reader.get()
        assert scope.cancelled_caught


async def test_bare_async_validators_deliver_twice() -> None:
    async with bare_pubsub() as pubsub, trio.open_nursery() as nursery:
        reader = await pubsub.subscribe(TOPIC)

        async def slow(_peer: ID, _msg: rpc_pb2.Message) -> bool:
            await trio.sleep(0.05)
            return True

        pubsub.set_topic_validator(TOPIC, slow, True)
        message = signed(os.urandom(32), b"once", 1)
        for _ in range(2):
            nursery.start_soon(pubsub.push_msg, ID(Identity(os.urandom(32)).peer_id), message)
        with trio.fail_after(PATIENCE):
            assert (await reader.get()).data == (await reader.get()).data == b"once"


async def test_ignore_stops_a_message_and_blames_nobody_reject_blames() -> None:
    verdicts = {b"good": Verdict.ACCEPT, b"old": Verdict.IGNORE, b"bad": Verdict.REJECT}
    async with nodes(3) as (one, middle, last):
        one.subscribe()
        middle.subscribe(validate=lambda _peer, data: verdicts[data])
        last.subscribe()
        await join(one, middle)
        await join(middle, last)
        for data in (b"old", b"bad", b"good"):
            await one.net.publish(TOPIC, data)
        await until(lambda: last.got == [b"good"])
        assert middle.got == [b"good"]
        assert middle.book.record(one.id).fault_counts == {Fault.REJECTED.value: 1}
        counters = middle.net.counters
        assert (counters["ignored"], counters["rejected"], counters["accepted"]) == (1, 1, 1)


async def test_a_validator_that_fails_ignores() -> None:
    def fail(_peer: bytes, _data: bytes) -> Verdict:
        raise ZeroDivisionError

    async with nodes(2) as (one, other):
        one.subscribe()
        other.subscribe(validate=fail)
        await join(one, other)
        await one.net.publish(TOPIC, b"x")
        await until(lambda: other.net.counters.get("ignored") == 1)
        assert other.book.record(one.id).fault_counts == {}


# -- one RPC of thousands of bad signatures


def bad_signatures(count: int) -> bytes:
    message = signed(bytes(32), b"x" * 16, 1)
    messages = []
    for n in range(count):
        copy = rpc_pb2.Message()
        copy.CopyFrom(message)
        copy.seqno = n.to_bytes(8, "big")
        messages.append(copy)
    return varint_frame(rpc_pb2.RPC(publish=messages).SerializeToString())


async def test_bare_one_rpc_of_bad_signatures_stalls_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """All are verified in one pass of the loop, which takes most of a second."""
    verified = Passes()
    async with bare_pubsub() as pubsub, node() as attacker:
        await pubsub.subscribe(TOPIC)
        await attacker.net.connect(bare_addr(pubsub.host))
        monkeypatch.setattr(bare, "signature_validator", verified.counted(bare.signature_validator))
        with verified.watching():
            await send_raw(attacker, pubsub.my_id.to_bytes(), [bad_signatures(2000)])
            await until(lambda: verified.most == 2000)


async def test_bad_signatures_stall_nothing_and_get_their_sender_banned(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frame = bad_signatures(800)
    assert len(frame) < MAX_RPC
    async with nodes(2) as (target, attacker):
        target.subscribe()
        await attacker.net.connect(target.addr)
        verified = Passes()
        monkeypatch.setattr(ours, "is_signed", verified.counted(ours.is_signed))
        with verified.watching():
            await send_raw(attacker, target.id, [frame] * 10)
            await until(lambda: target.book.banned(attacker.id))
            await until(lambda: not target.net.peers())
        # Of nine thousand, those up to the ban cost a verification.
        assert 0 < verified.total <= MAX_MESSAGES
        assert target.net.counters["rejected"] <= verified.total


async def test_an_rpc_larger_than_the_limit_is_refused_unread() -> None:
    async with nodes(2) as (target, attacker):
        target.subscribe()
        await attacker.net.connect(target.addr)
        await send_raw(attacker, target.id, [varint_frame(bytes(MAX_RPC + 1))])
        await until(
            lambda: target.book.record(attacker.id).fault_counts == {Fault.MALFORMED.value: 1}
        )


# -- floods, and what others may put into our memory


async def test_a_flood_of_rpcs_is_throttled_and_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    moment = time.monotonic()  # however long it takes to read them
    monkeypatch.setattr(
        ours, "time", SimpleNamespace(monotonic=lambda: moment, time_ns=time.time_ns)
    )
    empty = varint_frame(rpc_pb2.RPC(control=rpc_pb2.ControlMessage()).SerializeToString())
    async with nodes(2) as (target, attacker):
        target.subscribe()
        await attacker.net.connect(target.addr)
        await send_raw(attacker, target.id, [empty * 2500])
        await until(lambda: target.book.record(attacker.id).fault_counts.get(Fault.FLOOD.value))
        assert target.net.counters["throttled"] >= 200


async def test_foreign_topics_are_not_remembered() -> None:
    rpc = rpc_pb2.RPC(
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"/x/{n}") for n in range(30)],
        control=rpc_pb2.ControlMessage(
            prune=[rpc_pb2.ControlPrune(topicID=f"/x/{n}") for n in range(60)],
            graft=[rpc_pb2.ControlGraft(topicID=f"/x/{n}") for n in range(60)],
        ),
    )
    async with nodes(2) as (target, attacker):
        target.subscribe()
        attacker.subscribe()
        await join(attacker, target)
        await send_raw(attacker, target.id, [varint_frame(rpc.SerializeToString())] * 20)
        pubsub, router = target.net._gossip._pubsub, target.net._gossip._router
        await holds(
            lambda: (
                {
                    *pubsub.peer_topics,
                    *router.back_off,
                    *(topic for times in router.graft_flood_tracking.values() for topic in times),
                }
                <= {TOPIC}
            ),
            0.2,
        )


# -- a thread and the wall clock; scores forgotten


async def test_bare_pubsub_starts_a_thread() -> None:
    before = threading.active_count()
    async with bare_pubsub():
        assert threading.active_count() > before


async def test_ours_starts_none() -> None:
    before = threading.active_count()
    async with node() as one:
        one.subscribe()
        assert threading.active_count() == before


def test_bare_scores_are_off_and_forgotten_with_the_connection() -> None:
    router = GossipSub([TProtocol(MESHSUB)], 6, 5, 8)
    peer = ID(Identity(os.urandom(32)).peer_id)
    assert router.scorer is not None
    router.scorer.penalize_behavior(peer, 100.0)
    assert router.scorer.behavior_penalty[peer] == 100.0
    assert router.scorer.score(peer, []) == 0  # off: the weight is 0 by default
    router.remove_peer(peer)
    assert peer not in router.scorer.behavior_penalty


async def test_faults_outlive_connections_and_restarts() -> None:
    table = MemoryTable()
    seed = os.urandom(32)
    async with node(book=PeerBook(table)) as one, node(seed=seed) as other:
        await one.net.connect(other.addr)
        one.net.blame(other.id, Fault.REJECTED, "for the test")
        await one.net.disconnect(other.id)
    again = PeerBook(table)
    assert again.record(other.id).fault_counts == {Fault.REJECTED.value: 1}
    async with node(book=again, listen=LOOPBACK) as one, node(seed=seed) as other:
        await one.net.connect(other.addr)
        assert one.net.peers()[0].score < 0
