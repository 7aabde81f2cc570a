// A foreigner: a js-libp2p peer that joins a synapse network and reads what is said there with
// JavaScript's own libraries, sharing no code with the daemon.
//
//   node peer.mjs '{"network": "...", "address": "/ip4/.../p2p/...", "kind": "shard"}'
//
// It speaks JSON lines. On stdout: what happens, each with "event". On stdin, commands with
// "op": "junk" (publish `count` messages of noise and `count` of altered announcements),
// "ping", "stop".

import { createInterface } from 'node:readline'

import * as dagCbor from '@ipld/dag-cbor'
import { gossipsub } from '@libp2p/gossipsub'
import { identify } from '@libp2p/identify'
import { noise } from '@libp2p/noise'
import { RecordEnvelope } from '@libp2p/peer-record'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { yamux } from '@libp2p/yamux'
import { multiaddr } from '@multiformats/multiaddr'
import { createLibp2p } from 'libp2p'
import { CID } from 'multiformats/cid'
import { base58btc } from 'multiformats/bases/base58'
import { identity } from 'multiformats/hashes/identity'
import { sha256 } from 'multiformats/hashes/sha2'

const asked = JSON.parse(process.argv[2])
const topic = `/synapse/${asked.network}/${asked.kind}/1`
const domain = `/synapse/${asked.network}/announcement/1`

/** Links as text, bytes as hexadecimal, large integers as text: what JSON can say. */
function plain (value) {
  if (CID.asCID(value)) return value.toString()
  if (value instanceof Uint8Array) return Buffer.from(value).toString('hex')
  if (typeof value === 'bigint') return value.toString()
  if (Array.isArray(value)) return value.map(plain)
  if (value === null || typeof value !== 'object') return value
  return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, plain(inner)]))
}

function say (event, fields = {}) {
  process.stdout.write(JSON.stringify({ event, ...fields }) + '\n')
}

/** The base58 peer id of an envelope's key: the identity multihash of its protobuf. */
function issuerOf (envelope) {
  const encoded = new Uint8Array([8, 1, 18, 32, ...envelope.publicKey.raw]) // {Ed25519, 32 bytes}
  return base58btc.encode(identity.digest(encoded).bytes).slice(1)
}

/** What one gossiped message says, judged by JavaScript's libraries; throws where it is bad. */
async function read (data) {
  const envelope = await RecordEnvelope.openAndCertify(data, domain)
  const payload = dagCbor.decode(envelope.payload)
  const again = dagCbor.encode(payload)
  const id = CID.createV1(dagCbor.code, await sha256.digest(envelope.payload))
  return {
    issuer: issuerOf(envelope),
    id: id.toString(),
    payloadType: Buffer.from(envelope.payloadType).toString(),
    canonical: Buffer.compare(again, envelope.payload) === 0,
    payload: plain(payload)
  }
}

/** A copy of `data` with one bit of its last byte, part of the signature, flipped. */
function altered (data) {
  const copy = Uint8Array.from(data)
  copy[copy.length - 1] ^= 1
  return copy
}

const peer = await createLibp2p({
  addresses: { listen: [] },
  transports: [tcp()],
  connectionEncrypters: [noise({ prologueBytes: new TextEncoder().encode(asked.prologue ?? `synapse:${asked.network}`) })],
  streamMuxers: [yamux()],
  connectionMonitor: { enabled: false },
  services: {
    identify: identify(),
    ping: ping(),
    pubsub: gossipsub({ allowPublishToZeroTopicPeers: true, emitSelf: false })
  }
})
const { pubsub } = peer.services

let lastGood
pubsub.addEventListener('message', async ({ detail }) => {
  if (detail.topic !== topic) return
  try {
    const said = await read(detail.data)
    lastGood = detail.data
    say('announcement', said)
  } catch (error) {
    say('refused', { why: String(error) })
  }
})
pubsub.addEventListener('subscription-change', ({ detail }) => {
  if (detail.subscriptions.some(s => s.topic === topic && s.subscribe)) {
    say('neighbour', { peer: detail.peerId.toString() })
  }
})
pubsub.addEventListener('gossipsub:graft', ({ detail }) => {
  if (detail.topic === topic) say('meshed', { peer: detail.peerId.toString() })
})
peer.addEventListener('peer:disconnect', ({ detail }) => say('disconnected', { peer: detail.toString() }))

const address = multiaddr(asked.address)
pubsub.subscribe(topic)
try {
  const connection = await peer.dial(address)
  say('connected', {
    peer: peer.peerId.toString(),
    remote: connection.remotePeer.toString(),
    encryption: connection.encryption,
    multiplexer: connection.multiplexer
  })
} catch (error) {
  say('failed', { why: String(error) })
  await peer.stop()
  process.exit(1)
}

async function publish (data) {
  try {
    await pubsub.publish(topic, data)
    return 1
  } catch (error) {
    say('unpublished', { why: String(error) })
    return 0
  }
}

const commands = {
  async ping () {
    say('pong', { ms: await peer.services.ping.ping(address) })
  },
  async junk ({ count }) {
    let sent = 0
    for (let i = 0; i < count; i++) {
      sent += await publish(crypto.getRandomValues(new Uint8Array(100 + i)))
      if (lastGood !== undefined) sent += await publish(altered(lastGood))
    }
    say('junk', { sent })
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const command = JSON.parse(line)
  if (command.op === 'stop') break
  try {
    await commands[command.op](command)
  } catch (error) {
    say('failed', { op: command.op, why: String(error) })
  }
}
await peer.stop()
process.exit(0)
