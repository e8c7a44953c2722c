// A producer in Node: takes the fields of an event from each line of standard input, publishes it,
// and prints what was published once RabbitMQ has confirmed it.
//
//     export AMQP_URL=amqp://localhost
//     echo '{"state": "CA", "city": "Fresno", "username": "ann"}' | node publish.mjs

import { randomUUID } from 'node:crypto'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'

import amqp from 'amqplib'

const EXCHANGE = process.env.ROLLCALL_EXCHANGE ?? 'rollcall'
const TRIES = 60
const CONFIRM_TIMEOUT_MS = 30_000

// Made once, when the thing happens: id and occurred_at are its identity. From here on it is bytes,
// and every retry sends the same ones.
function newEvent(fields) {
  const identity = { id: randomUUID(), occurred_at: new Date().toISOString() }
  return Buffer.from(JSON.stringify({ ...fields, ...identity }))
}

class Unroutable extends Error {}

// One connection, made when it is needed and again when it was lost. One publish at a time.
class Producer {
  constructor(url) {
    this.url = url
  }

  async connect() {
    const connection = await amqp.connect(this.url, { timeout: 10_000 })
    const channel = await connection.createConfirmChannel()
    // Without a listener an error would end the process. What it means for a publish is told below.
    connection.on('error', () => {})
    channel.on('error', () => {})
    channel.on('return', () => (this.returned = true)) // comes before the confirm
    this.connection = connection
    this.channel = channel
  }

  // Resolves once RabbitMQ has it; throws Unroutable where no queue takes it.
  async publish(event, routingKey = 'example.node') {
    for (let triesLeft = TRIES - 1; ; triesLeft--) {
      try {
        if (!this.channel) await this.connect()
        this.returned = false
        await this.confirmed(routingKey, event)
        if (!this.returned) return
        throw new Unroutable('no queue takes the event')
      } catch (error) {
        if (error instanceof Unroutable || triesLeft === 0) throw error
        // Was it stored? Nobody knows: send it again, it counts once.
        console.error(`not confirmed: ${error.message}; ${triesLeft} tries left`)
        await this.close()
        await sleep(1000)
      }
    }
  }

  confirmed(routingKey, event) {
    const { channel } = this
    const properties = { contentType: 'application/json', persistent: true, mandatory: true }
    return new Promise((resolve, reject) => {
      const end = (error) => {
        clearTimeout(timer)
        channel.off('close', lost)
        error ? reject(error) : resolve()
      }
      const lost = () => end(new Error('the channel was lost'))
      const timer = setTimeout(() => end(new Error('no confirm in time')), CONFIRM_TIMEOUT_MS)
      channel.once('close', lost)
      try {
        channel.publish(EXCHANGE, routingKey, event, properties, end)
      } catch (error) {
        end(error) // closed already
      }
    })
  }

  async close() {
    const { connection } = this
    this.connection = this.channel = undefined
    await Promise.race([connection?.close(), sleep(1000)]).catch(() => {}) // it may be gone already
  }
}

const producer = new Producer(process.env.AMQP_URL)
for await (const line of createInterface({ input: process.stdin })) {
  const event = newEvent(JSON.parse(line))
  await producer.publish(event)
  console.log(event.toString())
}
await producer.close()
