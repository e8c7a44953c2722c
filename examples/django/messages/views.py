"""Writing goes to the database alone, reading to Redis alone."""

import redis
from django.conf import settings
from django.http import JsonResponse
from django.views.decorators.http import require_GET, require_POST

from messages import models

_redis = redis.Redis.from_url(settings.REDIS_URL, decode_responses=True, socket_timeout=2)

FIELDS = ("state", "city", "username", "text")


@require_POST
def post_message(request):
    fields = {name: request.POST.get(name, "").strip() for name in FIELDS}
    missing = [name for name in FIELDS if not fields[name]]
    # Postgres holds no U+0000, in text or in jsonb, and no more than a column has room for.
    room = {name: models.Message._meta.get_field(name).max_length for name in FIELDS}
    bad = [
        name
        for name, text in fields.items()
        if "\0" in text or (room[name] and len(text) > room[name])
    ]
    if missing or bad:
        return JsonResponse({"missing": missing, "bad": bad}, status=400)
    try:
        return JsonResponse({"id": models.post(**fields).id}, status=201)
    except models.EventTooLarge:
        return JsonResponse({"error": "too large"}, status=413)


@require_GET
def counts(request):
    """How many cities and users; 503 where Redis cannot tell, and never a false 0."""
    prefix = settings.ROLLCALL_KEY_PREFIX
    try:
        # One round trip: the questions, then the generation.
        with _redis.pipeline(transaction=False) as pipe:
            pipe.scard(f"{prefix}:cities")
            pipe.scard(f"{prefix}:users")
            pipe.hmget(f"{prefix}:meta", "generation", "state")
            cities, users, (generation, state) = pipe.execute()
    except redis.RedisError:
        return JsonResponse({"error": "Redis is away"}, status=503)
    if generation is None:
        return JsonResponse({"error": "unknown"}, status=503)
    # Any state but fresh says that the newest may be missing.
    return JsonResponse({"cities": cities, "users": users, "fresh": state == "fresh"})
