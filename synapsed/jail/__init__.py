"""Foreign modules, held at arm's length: inspected, compiled and run in processes that can do
nothing but compute.

    jail.Jail         what the daemon and its tools use: compile, room, call
    layers            which layers of confinement this kernel has
    lockdown          what a child does to itself before it touches foreign bytes
    wire              what the two sides say to each other

`synapsed.jailworker` is the other side of the socket, and the only home of wasmtime. It imports
`lockdown` and `wire` from here, so nothing heavy is imported by this package itself.
"""
