"""Gives the outbox to RabbitMQ. Any number of these may run: each row is one's at a time."""

import signal
import time

import pika
from django.conf import settings
from django.core.management.base import BaseCommand
from django.db import InterfaceError, OperationalError, close_old_connections, transaction
from pika.exceptions import AMQPChannelError, AMQPConnectionError, UnroutableError

from messages.models import OutboxEvent

# Rows that one transaction holds: what a crash publishes a second time.
PAGE = 100
WAIT_SECS = 1
PERSISTENT = pika.BasicProperties(content_type="application/json", delivery_mode=2)


class Command(BaseCommand):
    help = "Publish the outbox, and delete what RabbitMQ has confirmed."

    def add_arguments(self, parser):
        parser.add_argument("--once", action="store_true", help="end when the outbox is empty")

    def handle(self, *args, once=False, **options):
        self.stop, self.channel = False, None
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
                self.channel = None
                time.sleep(WAIT_SECS)
            except (OperationalError, InterfaceError) as error:
                # The same where it was confirmed, and not deleted.
                self.stderr.write(f"Postgres is away, trying again: {error!r}")
                close_old_connections()
                time.sleep(WAIT_SECS)

    def publish_page(self):
        """Delete and commit come after the confirms; a crash before them repeats the page."""
        with transaction.atomic():
            rows = OutboxEvent.objects.select_for_update(skip_locked=True).order_by("id")[:PAGE]
            rows = list(rows)
            for row in rows:
                self.open_channel().basic_publish(
                    settings.ROLLCALL_EXCHANGE,
                    "app.message",
                    row.body.encode(),
                    PERSISTENT,
                    mandatory=True,
                )
            OutboxEvent.objects.filter(id__in=[row.id for row in rows]).delete()
        return len(rows)

    def open_channel(self):
        if self.channel is None:
            parameters = pika.URLParameters(settings.AMQP_URL)
            parameters.blocked_connection_timeout = 30  # a broker that is short of memory or disk
            try:
                channel = pika.BlockingConnection(parameters).channel()
            except (OSError, ValueError) as error:
                # Of pika 1.4: a name that is not found; a link that is reset as soon as it stands.
                raise AMQPConnectionError(error) from error
            channel.confirm_delivery()  # basic_publish waits for its confirm
            self.channel = channel
        return self.channel
