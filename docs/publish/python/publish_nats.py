"""Publishes an event over NATS.

    pip install -r requirements.txt
    FOGHORN_TOKEN=… python publish_nats.py nats://127.0.0.1:4222 orders.eu.42 paid payment-7781 '{"amount":990}'
"""

import asyncio
import json
import os
import random
import sys

import nats
import nats.errors


async def publish(client, channel, data, headers, attempts=6):
    """The answer; raises when it can't be had."""
    for attempt in range(attempts):
        try:
            reply = await client.request(f"foghorn.publish.{channel}", data, timeout=25, headers=headers)
            answer = json.loads(reply.data)
            error = answer.get("error")
            if error is None:
                return answer
            # The same problem as over HTTP: below 500, but for 429, nothing is changed by trying again.
            if error["status"] < 500 and error["status"] != 429:
                raise RuntimeError(f"refused: {error}")
        except (nats.errors.TimeoutError, nats.errors.NoRespondersError) as failure:
            error = failure
        if attempt + 1 == attempts:
            raise RuntimeError(f"not published: {error}")
        await asyncio.sleep(random.uniform(0, min(0.1 * 2**attempt, 5)))


async def main():
    url, channel, event, event_id, data = sys.argv[1:]
    # The id keeps it from being published twice. Headers' names are as case-sensitive as all of NATS.
    headers = {"Foghorn-Event": event, "Foghorn-Id": event_id}
    if token := os.environ.get("FOGHORN_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"
    client = await nats.connect(url)
    try:
        position = (await publish(client, channel, data.encode(), headers))["position"]
    finally:
        await client.close()
    print(f"stored at {position['shard']}/{position['epoch']}/{position['seq']}")


asyncio.run(main())
