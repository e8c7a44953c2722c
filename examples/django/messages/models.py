"""The business row, and the outbox beside it."""

import json
import uuid

from django.db import models, transaction
from django.utils import timezone

# What a worker takes by default; ROLLCALL_MESSAGE_BYTES_MAX changes it there.
EVENT_BYTES_MAX = 1024 * 1024


class Message(models.Model):
    state = models.CharField(max_length=64)
    city = models.CharField(max_length=128)
    username = models.CharField(max_length=150)
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)


class OutboxEvent(models.Model):
    """An event that RabbitMQ does not have yet, as the text that will be sent, however often."""

    body = models.TextField()
    # Why RabbitMQ will not take it: it waits for a person, and those behind it do not wait for it.
    refused = models.TextField(blank=True, db_default="")


class EventTooLarge(ValueError):
    pass


def post(state, city, username, text):
    """Both rows or none: the event is there if and only if the message is. Raises EventTooLarge."""
    with transaction.atomic():
        message = Message.objects.create(state=state, city=city, username=username, text=text)
        event = {
            "id": str(uuid.uuid4()),
            "occurred_at": message.created_at.isoformat(),
            "state": state,
            "city": city,
            "username": username,
            "text": text,
        }
        body = json.dumps(event)
        if len(body) > EVENT_BYTES_MAX:  # of ASCII alone: its characters are bytes
            raise EventTooLarge(len(body))
        OutboxEvent.objects.create(body=body)
    return message
