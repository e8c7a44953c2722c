"""A careful consumer: a batch is one INSERT, one pipeline and one ack.

It must never ack before both stores have the batch. On an error it ends, and the broker delivers
again what was not acked; both writes may come twice.
"""

import os

import orjson
import pika
import psycopg
import redis

BATCH = 1000
# How long a batch waits for more once the queue is empty.
LINGER_SECS = 0.02
INSERT = """
    INSERT INTO events (occurred_at, id, payload)
    SELECT t.occurred_at, t.id, t.payload::jsonb
    FROM unnest(%s::text[]::timestamptz[], %s::text[]::uuid[], %s::text[])
         AS t (occurred_at, id, payload)
    ON CONFLICT DO NOTHING
"""
QUEUE = os.environ["PEER_QUEUE"]

postgres = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
sets = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()


def store(bodies):
    rows, cities, users = [], set(), set()
    for body in bodies:
        event = orjson.loads(body)
        rows.append((event["occurred_at"], event["id"], body.decode()))
        cities.add(f"{event['state']}:{event['city']}")
        users.add(event["username"])
    # Two consumers that insert the same rows in different orders would deadlock.
    rows.sort()
    occurred_at, ids, payloads = map(list, zip(*rows))
    postgres.execute(INSERT, (occurred_at, ids, payloads))
    with sets.pipeline(transaction=False) as pipeline:
        pipeline.sadd("messages:cities", *cities)
        pipeline.sadd("messages:users", *users)
        pipeline.execute()


channel.basic_qos(prefetch_count=2 * BATCH)
print("consuming", flush=True)
batch, last = [], 0
for method, _properties, body in channel.consume(QUEUE, inactivity_timeout=LINGER_SECS):
    if method:
        batch.append(body)
        last = method.delivery_tag
    if len(batch) == BATCH or (batch and not method):
        store(batch)
        channel.basic_ack(last, multiple=True)
        print("stored", len(batch), flush=True)
        batch = []
