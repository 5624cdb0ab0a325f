"""The two stages of a question, as Celery tasks."""

import json
import os

import redis
from celery import Celery

AMQP_URL = os.environ.get("PEER_AMQP_URL", "amqp://guest:guest@127.0.0.1:5672//")
REDIS_URL = os.environ.get("PEER_REDIS_URL", "redis://127.0.0.1:6379/0")
TTL_S = 600

app = Celery("peer", broker=AMQP_URL)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    task_default_delivery_mode="persistent",
    broker_transport_options={"confirm_publish": True},
    task_routes={"tasks.retrieve": {"queue": "peer-retrieval"}, "tasks.generate": {"queue": "peer-generation"}},
    worker_enable_remote_control=False,
)

store = redis.Redis.from_url(REDIS_URL)


def event(job_id: str, kind: str) -> None:
    """One event of a job: kept for late readers, and told to those who listen."""
    with store.pipeline(transaction=False) as pipe:
        pipe.xadd(f"peer:events:{job_id}", {"type": kind}, maxlen=1000)
        pipe.expire(f"peer:events:{job_id}", TTL_S)
        pipe.publish(f"peer:events:{job_id}", kind)
        pipe.execute()


@app.task
def retrieve(job_id: str, question: str) -> None:
    """Finds the passages."""
    event(job_id, "job.retrieving")
    store.set(f"peer:passages:{job_id}", json.dumps([]), ex=TTL_S)
    event(job_id, "job.retrieved")
    generate.delay(job_id, question)


@app.task
def generate(job_id: str, question: str) -> None:
    """Writes the answer."""
    event(job_id, "job.generating")
    passages = json.loads(store.get(f"peer:passages:{job_id}") or "[]")
    result = {"status": "succeeded", "answer": "not found", "passages": passages}
    store.set(f"peer:job:{job_id}", json.dumps(result), ex=TTL_S)
    event(job_id, "job.succeeded")
