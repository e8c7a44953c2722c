"""A reader in Python: asks Redis, and never takes an emptied Redis for an answer.

    REDIS_URL=redis://localhost python read.py count cities
    REDIS_URL=redis://localhost python read.py contains users ann
    REDIS_URL=redis://localhost python read.py contains cities CA Fresno

Prints a number, yes or no; or "unknown", with exit code 75, where Redis cannot tell.
"""

import os
import re
import sys

import redis

PREFIX = os.environ.get("ROLLCALL_KEY_PREFIX", "rollcall")


def ask(r, command, *args):
    """The answer, or None for unknown. One round trip: the question, then the generation."""
    with r.pipeline(transaction=False) as pipe:
        pipe.execute_command(command, *args)
        pipe.hget(f"{PREFIX}:meta", "generation")
        answer, generation = pipe.execute()
    return None if generation is None else answer


def member(*components):
    """A value of each field of the set, as it is written in Redis."""
    quote = lambda found: f"%{ord(found[0]):02X}"
    return ":".join(re.sub(r"[%:{}\x00-\x1f\x7f]", quote, text) for text in components)


def main(what, name, *values):
    r = redis.Redis.from_url(os.environ["REDIS_URL"], decode_responses=True, socket_timeout=5)
    key = f"{PREFIX}:{name}"
    if what == "count":
        answer = ask(r, "SCARD", key)
    else:
        answer = ask(r, "SISMEMBER", key, member(*values))
        answer = answer if answer is None else ("no", "yes")[answer]
    print("unknown" if answer is None else answer)
    return 75 if answer is None else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
