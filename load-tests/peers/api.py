"""The door: a question in, a job id out; the job by polling."""

import json
import uuid

import redis.asyncio as redis
from fastapi import FastAPI, HTTPException
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel

from tasks import REDIS_URL, TTL_S, retrieve

app = FastAPI()
store = redis.Redis.from_url(REDIS_URL)


class Query(BaseModel):
    query: str


@app.post("/queries", status_code=202)
async def submit(query: Query) -> dict:
    job_id = str(uuid.uuid4())
    await store.set(f"peer:job:{job_id}", json.dumps({"status": "queued"}), ex=TTL_S)
    # Celery's client blocks.
    await run_in_threadpool(retrieve.delay, job_id, query.query)
    return {"job_id": job_id}


@app.get("/jobs/{job_id}")
async def job(job_id: str) -> dict:
    value = await store.get(f"peer:job:{job_id}")
    if value is None:
        raise HTTPException(404)
    return json.loads(value)
