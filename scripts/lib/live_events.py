#!/usr/bin/env python3
"""Events as they occur, a line each, for `rollcall publish --file -`: live_events.py SECONDS RATE [RATE...].

Each of the rates holds for so many seconds. A few people and places are heard often, most of them
seldom; one event in three hundred is bad.
"""
import json, random, sys, time, uuid
from datetime import datetime, timezone

NAMES = "ada amir ana ben bob chen cora dan eli emma finn hana ida ivan jane kai lea mia noah omar pia ruth".split()
BAD = [{"id": 17}, {"occurred_at": "yesterday"}, {"city": {"name": "Fresno"}}, {"id": ""}]
DRAW = random.Random(1)


def rank(many):
    return min(int(DRAW.paretovariate(0.35)) - 1, DRAW.randrange(many))


def event(places):
    state, city = places[rank(len(places))]
    number = rank(40000)
    fields = {"id": str(uuid.uuid4()), "occurred_at": datetime.now(timezone.utc).isoformat(), "state": state,
              "city": city, "username": f"{NAMES[number % len(NAMES)]}{number}",
              "text": f"message {DRAW.randrange(100000)} from {city}"}
    return fields | (DRAW.choice(BAD) if DRAW.random() < 1 / 300 else {})


def main():
    seconds, *rates = map(int, sys.argv[1:])
    with open("data/us-places.tsv", encoding="utf-8") as file:
        places = [line.rstrip("\n").split("\t") for line in file if "\t" in line]
    DRAW.shuffle(places)
    for rate in rates:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            print(json.dumps(event(places)), flush=True)
            time.sleep(DRAW.expovariate(rate))


main()
