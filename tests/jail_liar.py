"""A worker that foreign code has taken over: what it says to the node is its own.

python -I tests/jail_liar.py LIE LAYERS PARENT
"""

import array
import os
import socket
import sys
import time

import msgspec

from synapsed.jail import wire

TOO_LONG = wire.HEAD.pack(1 << 31)


def message(*fields: object) -> bytes:
    body = msgspec.msgpack.encode(fields)
    return wire.HEAD.pack(len(body)) + body


LIES = {
    "noise": os.urandom(100),
    "a length of gigabytes": TOO_LONG + bytes(100),
    "an endless message": wire.HEAD.pack(4000) + bytes(4000) + bytes(100_000),
    "two answers": wire.frame(wire.Done(2)) * 2,
    "the answer to another call": wire.frame(wire.Done(7)),
    "ready once more": wire.frame(wire.Ready()),
    "a number below zero": message(11, 2, -5, 0),
    "a number of 70 bits": message(11, 2, "9" * 70, 0),
    "text without end": message(12, 2, "trap", "x" * 3000),
    "fields of other types": message(11, "two", [], {}),
    "a message of an unknown kind": message(99, 1, 2),
    "no message at all": wire.HEAD.pack(1) + b"\xc1",
}


def main() -> None:
    lie = sys.argv[1]
    node = socket.socket(fileno=wire.SOCKET_FD)
    wire.say(wire.Ready())
    number = 0
    while node.recvmsg(wire.MAX_MESSAGE, 100)[0]:
        number += 1
        if number == 1:
            wire.say(wire.Done(1))  # the module is loaded
        elif lie == "a descriptor":
            passed = array.array("i", [0, 1, 2] * 20)
            answer = wire.frame(wire.Done(number))
            node.sendmsg([answer], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        elif lie == "goodbye":
            node.close()
            time.sleep(60)
        elif lie == "half an answer":
            os.write(wire.SOCKET_FD, wire.frame(wire.Done(2))[:5])
            os._exit(3)
        else:
            node.sendall(LIES[lie])


if __name__ == "__main__":
    main()
