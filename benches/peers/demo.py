"""The demo's way: for each message one INSERT and one SADD a set, then its ack.

It must never ack before both stores have the event.
"""

import json
import os

import pika
import psycopg
import redis

INSERT = """
    INSERT INTO events (occurred_at, id, payload) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING
"""
QUEUE = os.environ["PEER_QUEUE"]

postgres = psycopg.connect(os.environ["DATABASE_URL"], autocommit=True)
sets = redis.Redis.from_url(os.environ["REDIS_URL"])
channel = pika.BlockingConnection(pika.URLParameters(os.environ["AMQP_URL"])).channel()


def handle(channel, method, _properties, body):
    event = json.loads(body)
    postgres.execute(INSERT, (event["occurred_at"], event["id"], body.decode()))
    with sets.pipeline(transaction=False) as pipeline:
        pipeline.sadd("messages:cities", f"{event['state']}:{event['city']}")
        pipeline.sadd("messages:users", event["username"])
        pipeline.execute()
    channel.basic_ack(method.delivery_tag)
    print("stored 1", flush=True)


channel.basic_qos(prefetch_count=100)
channel.basic_consume(QUEUE, handle)
print("consuming", flush=True)
channel.start_consuming()
