"""A producer in Python: takes the fields of an event from each line of standard input, publishes
it, and prints what was published once RabbitMQ has confirmed it.

    export AMQP_URL=amqp://localhost
    echo '{"state": "CA", "city": "Fresno", "username": "ann"}' | python publish.py
"""

import json
import os
import sys
import time
import uuid
from contextlib import suppress
from datetime import datetime, timezone

import pika
from pika.exceptions import AMQPChannelError, AMQPConnectionError, AMQPError, UnroutableError

EXCHANGE = os.environ.get("ROLLCALL_EXCHANGE", "rollcall")
TRIES = 60


def new_event(fields):
    """Made once, when the thing happens: id and occurred_at are its identity. From here on it is
    bytes, and every retry sends the same ones."""
    identity = {"id": str(uuid.uuid4()), "occurred_at": datetime.now(timezone.utc).isoformat()}
    return json.dumps({**fields, **identity}).encode()


class Producer:
    """One connection, made when it is needed and again when it was lost."""

    PERSISTENT = pika.BasicProperties(content_type="application/json", delivery_mode=2)

    def __init__(self, url):
        self.parameters, self.connection, self.channel = pika.URLParameters(url), None, None
        self.parameters.blocked_connection_timeout = 30  # a broker short of memory or disk

    def connect(self):
        try:
            self.connection = pika.BlockingConnection(self.parameters)
            channel = self.connection.channel()
        except (OSError, ValueError) as error:
            # Of pika 1.4: a name that is not found; a link that is reset as soon as it stands.
            raise AMQPConnectionError(error) from error
        channel.confirm_delivery()  # basic_publish waits for its confirm
        self.channel = channel

    def publish(self, event, routing_key="example.python"):
        """Returns once RabbitMQ has it; raises UnroutableError where no queue takes it."""
        for tries_left in reversed(range(TRIES)):
            try:
                if self.channel is None:
                    self.connect()
                self.channel.basic_publish(
                    EXCHANGE, routing_key, event, self.PERSISTENT, mandatory=True
                )
                return
            except UnroutableError:
                raise  # it would fare the same again
            except (AMQPConnectionError, AMQPChannelError) as error:
                # Was it stored? Nobody knows: send it again, it counts once.
                print(f"not confirmed: {error!r}; {tries_left} tries left", file=sys.stderr)
                self.close()
                if tries_left == 0:
                    raise
                time.sleep(1)

    def close(self):
        """Also what an error has left: after a refusal the connection is open, its channel is not."""
        connection, self.connection, self.channel = self.connection, None, None
        if connection is not None and connection.is_open:
            with suppress(AMQPError):
                connection.close()


def main():
    producer = Producer(os.environ["AMQP_URL"])
    for line in sys.stdin:
        event = new_event(json.loads(line))
        producer.publish(event)
        print(event.decode(), flush=True)
    producer.close()


if __name__ == "__main__":
    main()
