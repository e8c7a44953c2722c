"""Gives the outbox to RabbitMQ. Any number of these may run: each row is one's at a time."""

import signal
import time
from contextlib import suppress

import pika
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, close_old_connections, transaction
from pika.exceptions import (
    AMQPChannelError,
    AMQPConnectionError,
    AMQPError,
    ChannelClosedByBroker,
    UnroutableError,
)

from messages.models import OutboxEvent

# Rows that one transaction holds: what a crash publishes a second time.
PAGE = 100
WAIT_SECS = 1
# The code for a message beyond the broker's max_message_size: each time, whatever the others are.
PRECONDITION_FAILED = 406
PERSISTENT = pika.BasicProperties(content_type="application/json", delivery_mode=2)


class Command(BaseCommand):
    help = "Publish the outbox, and delete what RabbitMQ has confirmed."

    def add_arguments(self, parser):
        parser.add_argument("--once", action="store_true", help="end when the outbox is empty")

    def handle(self, *args, once=False, **options):
        self.stop, self.connection, self.channel = False, None, None
        for name in (signal.SIGTERM, signal.SIGINT):
            signal.signal(name, lambda *_: setattr(self, "stop", True))
        while not self.stop:
            try:
                published = self.publish_page()
                if published == 0 and once:
                    return
                if published == 0 and self.channel:
                    self.channel.connection.sleep(WAIT_SECS)  # and answer heartbeats
                elif published == 0:
                    time.sleep(WAIT_SECS)
            except UnroutableError:
                raise  # no queue takes it: a hand is needed
            except (AMQPConnectionError, AMQPChannelError) as error:
                # Nothing of the page was deleted: the same bytes go again, and count once.
                self.stderr.write(f"not confirmed, trying again: {error!r}")
                self.close()
                time.sleep(WAIT_SECS)
            except (OperationalError, InterfaceError) as error:
                # The same where it was confirmed, and not deleted.
                self.stderr.write(f"Postgres is away, trying again: {error!r}")
                close_old_connections()
                time.sleep(WAIT_SECS)

    def publish_page(self):
        """Delete and commit come after the confirms; a crash before them repeats the page."""
        with transaction.atomic():
            rows = OutboxEvent.objects.select_for_update(skip_locked=True).filter(refused="")
            rows = list(rows.order_by("id")[:PAGE])
            for row in rows:
                try:
                    self.publish(row)
                except ChannelClosedByBroker as error:
                    if error.reply_code != PRECONDITION_FAILED:
                        raise
                    self.stderr.write(f"outbox row {row.id} is set aside: {error.reply_text}")
                    row.refused = f"{error.reply_code} {error.reply_text}"
                    row.save(update_fields=["refused"])
                    self.close()
            OutboxEvent.objects.filter(id__in=[row.id for row in rows if not row.refused]).delete()
        return len(rows)

    def publish(self, row):
        self.open_channel().basic_publish(
            settings.ROLLCALL_EXCHANGE,
            "app.message",
            row.body.encode(),
            PERSISTENT,
            mandatory=True,
        )

    def close(self):
        """Also what an error has left: after a refusal the connection is open, its channel is not."""
        connection, self.connection, self.channel = self.connection, None, None
        if connection is not None and connection.is_open:
            with suppress(AMQPError):
                connection.close()

    def open_channel(self):
        if self.channel is None:
            parameters = pika.URLParameters(settings.AMQP_URL)
            parameters.blocked_connection_timeout = 30  # a broker that is short of memory or disk
            try:
                self.connection = pika.BlockingConnection(parameters)
                channel = self.connection.channel()
            except (OSError, ValueError) as error:
                # Of pika 1.4: a name that is not found; a link that is reset as soon as it stands.
                raise AMQPConnectionError(error) from error
            channel.confirm_delivery()  # basic_publish waits for its confirm
            self.channel = channel
        return self.channel
