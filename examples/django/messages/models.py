"""The business row, and the outbox beside it."""

import json
import uuid

from django.db import models, transaction
from django.utils import timezone


class Message(models.Model):
    state = models.CharField(max_length=64)
    city = models.CharField(max_length=128)
    username = models.CharField(max_length=150)
    text = models.TextField()
    created_at = models.DateTimeField(default=timezone.now)


class OutboxEvent(models.Model):
    """An event that RabbitMQ does not have yet, as the text that will be sent, however often."""

    body = models.TextField()


def post(state, city, username, text):
    """Both rows or none: the event is there if and only if the message is."""
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
        OutboxEvent.objects.create(body=json.dumps(event))
    return message
