// A reader in Node: asks Redis, and never takes an emptied Redis for an answer.
//
//     REDIS_URL=redis://localhost node read.mjs count cities
//     REDIS_URL=redis://localhost node read.mjs contains users ann
//     REDIS_URL=redis://localhost node read.mjs contains cities CA Fresno
//
// Prints a number, yes or no; or "unknown", with exit code 75, where Redis cannot tell.

import { createClient } from 'redis'

const PREFIX = process.env.ROLLCALL_KEY_PREFIX ?? 'rollcall'
const client = createClient({
  url: process.env.REDIS_URL,
  socket: { connectTimeout: 5000, reconnectStrategy: false },
})
client.on('error', () => {}) // what fails is thrown by the command that fails
const redis = await client.connect()

// The answer, or null for unknown. Sent together, in this order: the question, then the generation.
async function ask(...command) {
  const [answer, generation] = await Promise.all([
    redis.sendCommand(command),
    redis.hGet(`${PREFIX}:meta`, 'generation'),
  ])
  return generation == null ? null : answer
}

// A value of each field of the set, as it is written in Redis.
const quote = (char) => '%' + char.charCodeAt(0).toString(16).toUpperCase().padStart(2, '0')
const member = (components) =>
  components.map((text) => text.replace(/[%:{}\x00-\x1f\x7f]/g, quote)).join(':')

const [what, set, ...values] = process.argv.slice(2)
const key = `${PREFIX}:${set}`
const answer =
  what === 'count'
    ? await ask('SCARD', key)
    : await ask('SISMEMBER', key, member(values)).then((is) => (is === null ? null : ['no', 'yes'][is]))
console.log(answer ?? 'unknown')
process.exitCode = answer === null ? 75 : 0
await redis.close()
