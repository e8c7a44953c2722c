// A careful consumer in Node: a batch is one INSERT, one pipeline and one ack, while the next batch
// arrives.
//
// It must never ack before both stores have the batch. On an error it ends, and the broker delivers
// again what was not acked; both writes may come twice.

import { setTimeout as sleep } from "node:timers/promises";
import amqplib from "amqplib";
import { Redis } from "ioredis";
import pg from "pg";

const BATCH = 1000;
// How long a batch waits for more once the queue is empty.
const LINGER_MS = 20;
const INSERT = `
    INSERT INTO events (occurred_at, id, payload)
    SELECT t.occurred_at, t.id, t.payload::jsonb
    FROM unnest($1::timestamptz[], $2::uuid[], $3::text[]) AS t (occurred_at, id, payload)
    ON CONFLICT DO NOTHING`;

const postgres = new pg.Client(process.env.DATABASE_URL);
await postgres.connect();
const sets = new Redis(process.env.REDIS_URL);
const channel = await (await amqplib.connect(process.env.AMQP_URL)).createChannel();

async function store(messages) {
  const rows = [];
  const cities = new Set();
  const users = new Set();
  for (const message of messages) {
    const body = message.content.toString();
    const event = JSON.parse(body);
    rows.push([event.occurred_at, event.id, body]);
    cities.add(`${event.state}:${event.city}`);
    users.add(event.username);
  }
  // Two consumers that insert the same rows in different orders would deadlock.
  rows.sort((a, b) => (a[0] < b[0] || (a[0] === b[0] && a[1] < b[1]) ? -1 : 1));
  const values = [0, 1, 2].map((column) => rows.map((row) => row[column]));
  await postgres.query({ name: "insert", text: INSERT, values });
  const replies = await sets
    .pipeline()
    .sadd("messages:cities", ...cities)
    .sadd("messages:users", ...users)
    .exec();
  for (const [error] of replies) if (error) throw error;
}

let waiting = [];
let storing = false;

async function drain() {
  if (storing) return;
  storing = true;
  while (waiting.length > 0) {
    if (waiting.length < BATCH) await sleep(LINGER_MS);
    const batch = waiting.slice(0, BATCH);
    waiting = waiting.slice(BATCH);
    await store(batch);
    channel.ack(batch.at(-1), true);
    console.log(`stored ${batch.length}`);
  }
  storing = false;
}

await channel.prefetch(2 * BATCH);
console.log("consuming");
await channel.consume(process.env.PEER_QUEUE, (message) => {
  if (message === null) throw new Error("the broker cancelled the consumer");
  waiting.push(message);
  drain();
});
