"""Submits questions to the peer and polls each until it has ended."""

import argparse
import asyncio
import statistics
import time

import httpx


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--url", default="http://127.0.0.1:8766")
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--poll-s", type=float, default=0.25)
    arguments = parser.parse_args()

    places = asyncio.Semaphore(arguments.in_flight)
    submits: list[float] = []
    limits = httpx.Limits(max_connections=64, max_keepalive_connections=64)
    async with httpx.AsyncClient(base_url=arguments.url, limits=limits, timeout=60) as client:

        async def one(number: int) -> None:
            async with places:
                begun = time.perf_counter()
                answer = await client.post("/queries", json={"query": f"question {number}"})
                answer.raise_for_status()
                submits.append(time.perf_counter() - begun)
                path = f"/jobs/{answer.json()['job_id']}"
                while (await client.get(path)).json()["status"] != "succeeded":
                    await asyncio.sleep(arguments.poll_s)

        begun = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(arguments.jobs)))
        took = time.perf_counter() - begun
    quantiles = statistics.quantiles(submits, n=100)
    print(
        f"peer: {arguments.jobs} jobs in {took:.2f} s, {arguments.jobs / took:.0f} jobs/s; "
        f"submit p50 {quantiles[49] * 1000:.1f} ms, p99 {quantiles[98] * 1000:.1f} ms"
    )


if __name__ == "__main__":
    asyncio.run(main())
