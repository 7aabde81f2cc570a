#!/bin/sh
# Found a network of four daemons on this machine: identities, seats, a genesis file, homes.
#
#   examples/found-network.sh [FOLDER]        (default: ./ours; made, and never overwritten)
#
# Afterwards `synapsed run --home FOLDER/ada` (ben, cleo, dan) in four terminals. On four machines
# each founder does the first step at home and sends the line; docs/council.md.
set -eu

folder=${1:-ours}
mkdir "$folder"
port=4817
first=
for name in ada ben cleo dan; do
    home=$folder/$name
    synapsed init --home "$home" --network ours --listen "/ip4/127.0.0.1/tcp/$port" $first > "$folder/$name.init"
    synapsectl genesis seat --home "$home" --name "$name" > "$folder/$name.line"
    peer=$(sed -n 's/^peer id *//p' "$folder/$name.init")
    first=${first:-"--bootstrap /ip4/127.0.0.1/tcp/$port/p2p/$peer"}
    port=$((port + 1))
done

synapsectl human new "$folder/alice.key"
alice=$(synapsectl human show "$folder/alice.key" | sed -n 's/^key *//p')

# A vote that takes a minute instead of a day is something to play with.
synapsectl genesis new "$folder/genesis.toml" --network ours --human "alice=$alice" \
    --member "$folder/ada.line" --member "$folder/ben.line" \
    --member "$folder/cleo.line" --member "$folder/dan.line" \
    --param "vote.window_ms=1 min" --param "approval.window_ms=5 min" --param "execute.delay_ms=10 s"

for name in ada ben cleo dan; do
    synapsed init --home "$folder/$name" --genesis "$folder/genesis.toml" > /dev/null
done
echo "now, in four terminals:"
for name in ada ben cleo dan; do
    echo "    synapsed run --home $folder/$name"
done
