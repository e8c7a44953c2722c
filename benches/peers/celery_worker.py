"""Celery with celery-batches: producers call `record.delay(event)`, the task gets a batch of calls.

It must never return before both stores have the batch: what a batch task raises is logged, and its
messages are acked all the same.
"""

import functools
import logging
import os
import time

import orjson
import psycopg
import redis
from celery import Celery, signals
from celery_batches import Batches

BATCH = 1000
INSERT = """
    INSERT INTO events (occurred_at, id, payload)
    SELECT t.occurred_at, t.id, t.payload::jsonb
    FROM unnest(%s::text[]::timestamptz[], %s::text[]::uuid[], %s::text[])
         AS t (occurred_at, id, payload)
    ON CONFLICT DO NOTHING
"""
QUEUE = os.environ["PEER_QUEUE"]

app = Celery("celery_worker", broker=os.environ["AMQP_URL"])
app.conf.update(
    task_default_queue=QUEUE,
    task_default_queue_type="quorum",
    # What its documentation wants beside quorum queues.
    task_default_exchange_type="topic",
    task_acks_late=True,
    task_ignore_result=True,
    # celery-batches wants at least a batch: two, so that one arrives while the other is written.
    worker_prefetch_multiplier=2 * BATCH,
    worker_redirect_stdouts=False,
)


@signals.worker_ready.connect
def say_so(**_kwargs):
    print("consuming", flush=True)


@functools.cache
def stores():
    postgres = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
    return postgres, redis.Redis.from_url(os.environ["REDIS_URL"])


def store(events):
    postgres, sets = stores()
    rows = sorted((e["occurred_at"], e["id"], orjson.dumps(e).decode()) for e in events)
    postgres.execute(INSERT, tuple(map(list, zip(*rows))))
    with sets.pipeline(transaction=False) as pipeline:
        pipeline.sadd("messages:cities", *{f"{e['state']}:{e['city']}" for e in events})
        pipeline.sadd("messages:users", *{e["username"] for e in events})
        pipeline.execute()


@app.task(name="record", base=Batches, flush_every=BATCH, flush_interval=0.1)
def record(requests):
    events = [request.args[0] for request in requests]
    while True:
        try:
            store(events)
            break
        except Exception:
            logging.exception("%d events could not be stored: once more in a second", len(events))
            stores.cache_clear()
            time.sleep(1)
    print("stored", len(events), flush=True)
