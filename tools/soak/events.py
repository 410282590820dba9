"""The long run of the event path, by hand: `python tools/soak/events.py [--events N] [--service NAME] [--bus NAME]`.

A publisher with its spool, a Redis with AOF that is killed and restarted twice, dispatchers that are killed -9 ten
times, and a service that fails 20 % of all calls and hangs on 5 %. Every event must arrive; it prints what was seen.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parents[2] / "tests"))

PROJECTS = 10


def produce(addr: str, bus: str, folder: str, events: int, rate: float, body_bytes: int) -> None:
    """Run the proxy's half, as a worker does: offer at a steady rate, then flush and end."""
    from gevent import monkey

    monkey.patch_all()
    import gevent
    from support.dispatcher import make_event

    from llm_proxy import redisclient
    from llm_proxy.events.publisher import Publisher
    from llm_proxy.events.queue import Counters
    from llm_proxy.events.redis_list import ListBus
    from llm_proxy.events.redis_streams import StreamBus
    from llm_proxy.events.spool import Spool

    counts = {"published": 0, "spooled": 0, "dropped": 0}
    client = redisclient.connect(redisclient.parse_address(addr))
    made: Any = (
        StreamBus(client, "llm-proxy-events", 10_000)
        if bus == "redis-streams"
        else ListBus(client, "llm-proxy-events:list", 10_000, lambda n: None)
    )
    publisher = Publisher(
        made,
        spool=Spool(Path(folder) / "spool", 1024**3),
        counters=Counters(
            published=lambda n: counts.update(published=counts["published"] + n),
            spooled=lambda n: counts.update(spooled=counts["spooled"] + n),
            dropped=lambda _reason, n: counts.update(dropped=counts["dropped"] + n),
        ),
    )
    publisher.start()
    began, slowest = time.monotonic(), 0.0
    for n in range(events):
        event = make_event(n, project=f"p{n % PROJECTS}", body_bytes=body_bytes)
        offered = time.monotonic()
        publisher.offer(event)
        slowest = max(slowest, time.monotonic() - offered)
        gevent.sleep(max(0.0, began + n / rate - time.monotonic()))
    while publisher.queued or publisher.spool_bytes:
        gevent.sleep(0.1)
    publisher.close()
    print(json.dumps({**counts, "slowest_offer_ms": round(slowest * 1000, 3), "rss_mb": _rss_mb()}))


def _rss_mb(pid: int | str = "self") -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) / 1024
    return 0.0


def soak(arguments: argparse.Namespace) -> int:
    """Run it; 0 when every event arrived and nothing was given up."""
    from support.dispatcher import Dispatcher, event_uuid, variables
    from support.redis import RedisServer
    from support.services import running

    draw = random.Random(arguments.seed)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    redis = RedisServer(folder, aof=True)
    redis.start()

    def fault(call: int, body: bytes) -> Any:
        chance = draw.random()
        return 503 if chance < 0.2 else 3.0 if chance < 0.25 else None

    with running(arguments.service) as service:
        service.fault = fault
        found = variables(redis, arguments.service, service.url, LLM_PROXY_EVENT_BUS=arguments.bus)
        found |= {"DISPATCHER_TIMEOUT": "500ms", "DISPATCHER_CONCURRENCY": "16", "REDIS_STREAM_CLAIM_TIME": "2s"}
        told = {"produce": redis.addr, "folder": folder, "bus": arguments.bus, "events": arguments.events}
        told |= {"rate": arguments.rate, "body": arguments.body}
        flags = [part for name, value in told.items() for part in (f"--{name}", str(value))]
        producer = subprocess.Popen([sys.executable, str(HERE), *flags], stdout=subprocess.PIPE)
        began = time.monotonic()
        kills = sorted(draw.uniform(0.05, 0.9) * arguments.events for _ in range(arguments.kills))
        restarts = sorted(draw.uniform(0.2, 0.8) * arguments.events for _ in range(arguments.restarts))
        dispatcher = Dispatcher(folder, found)
        highest = 0.0
        while len(service.accepted) < arguments.events and time.monotonic() - began < arguments.limit:
            time.sleep(0.1)
            highest = max(highest, _rss_mb(dispatcher.process.pid))
            if kills and len(service.accepted) >= kills[0]:
                kills.pop(0)
                dispatcher.kill()
                dispatcher = Dispatcher(folder, found)
            if restarts and len(service.accepted) >= restarts[0]:
                restarts.pop(0)
                redis.kill()
                time.sleep(2)
                redis.start()
        took_s = time.monotonic() - began
        dispatcher.stop()
        published = json.loads(producer.communicate()[0] or b"{}")
        key = "llm-proxy-events" if arguments.bus == "redis-streams" else "llm-proxy-events:list"
        dead = redis.client().xlen(f"{key}:dead")
        redis.stop()
        wanted = {str(event_uuid(n)) for n in range(arguments.events)}
        missing = wanted - set(service.accepted)
        duplicates = sum(count - 1 for count in service.accepted.values())
        print(
            json.dumps(
                {
                    "events": arguments.events,
                    "seconds": round(took_s, 1),
                    "missing": len(missing),
                    "unknown_variables": len(set(service.accepted) - wanted),
                    "duplicates": duplicates,
                    "dead_letters": dead,
                    "out_of_order": _out_of_order(service, arguments.service),
                    "violations": len(service.violations),
                    "calls": service.calls,
                    "dispatcher_rss_mb": round(highest, 1),
                    "publisher": published,
                },
                indent=2,
            )
        )
        return 1 if missing or dead or service.violations else 0


def _out_of_order(service: Any, kind: str) -> int:
    """First arrivals that came after a later event of their project."""
    if kind != "lunary":
        return -1
    last: dict[str, str] = {}
    seen: set[str] = set()
    count = 0
    for event in service.events:
        if event["event"] != "start" or event["runId"] in seen:
            continue
        seen.add(event["runId"])
        project = event["metadata"]["project_id"]
        count += event["runId"] < last.get(project, "")
        last[project] = max(last.get(project, ""), event["runId"])
    return count


def main() -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--service", default="lunary", choices=("lunary", "helicone", "otlp"))
    parser.add_argument("--bus", default="redis-streams", choices=("redis-streams", "redis"))
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--restarts", type=int, default=2)
    parser.add_argument("--rate", type=float, default=1000.0, help="events offered a second")
    parser.add_argument("--body", type=int, default=200, help="bytes added to each prompt")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900.0, help="seconds before it is given up")
    parser.add_argument("--produce", metavar="ADDR", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.produce:
        produce(arguments.produce, arguments.bus, arguments.folder, arguments.events, arguments.rate, arguments.body)
        return 0
    return soak(arguments)


if __name__ == "__main__":
    sys.exit(main())
