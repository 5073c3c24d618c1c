"""The limits of the diagnosis service, each with a default that suits one machine."""

import os
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from primia.diagnosis.wire import CLOCK_S


class ServiceSettings(BaseModel):
    """What the service grants at most; times in seconds, sizes in bytes.

    Releases: `poll_s` between two looks into the registry; `grace_s` how long the last answer of an unreachable
    registry holds; `load_s` for encoding a version's weights.

    Evaluation: `workers` processes of at most `worker_memory_bytes` of address space, with keys of `parsed_key_bytes`
    ready in each, which take twice that; `evaluate_s` and `queue_s` for one request; `most_waiting` in the queue.

    Keys: `most_keys` and `most_key_store_bytes` for all clients, `keys_per_client` for one, forgotten `keys_expire_s`
    after their last use. `daily_enrolments` of one client.

    Requests: `rate_per_s` with bursts of `rate_burst`, and `requests_per_client` at once; `upload_bytes` of bodies in
    memory at once. A body must arrive at `pace_bytes_per_s` after `pace_slack_s`, and within `body_s`.

    Connections: `connections` in all, `connections_per_address` from one; headers within `header_s`, idle for at most
    `idle_s`. `shutdown_s` for running requests when the service stops. `log`: file of events; standard error if None.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    poll_s: float = Field(default=5.0, gt=0)
    grace_s: float = Field(default=60.0, ge=0)
    load_s: float = Field(default=300.0, gt=0)

    workers: int = Field(default_factory=lambda: min(os.cpu_count() or 1, 8), ge=1, le=64)
    worker_memory_bytes: int = Field(default=4 << 30, ge=64 << 20)
    parsed_key_bytes: int = Field(default=256 << 20, ge=1)
    evaluate_s: float = Field(default=60.0, gt=0)
    queue_s: float = Field(default=60.0, gt=0)
    most_waiting: int = Field(default=32, ge=1)

    most_keys: int = Field(default=64, ge=1)
    most_key_store_bytes: int = Field(default=8 << 30, ge=1)
    keys_per_client: int = Field(default=2, ge=1)
    keys_expire_s: float = Field(default=86_400.0, gt=0)
    daily_enrolments: int = Field(default=20, ge=0)

    rate_per_s: float = Field(default=5.0, gt=0)
    rate_burst: int = Field(default=20, ge=1)
    requests_per_client: int = Field(default=4, ge=1)
    upload_bytes: int = Field(default=512 << 20, ge=1)
    pace_bytes_per_s: float = Field(default=32_768.0, gt=0)
    pace_slack_s: float = Field(default=5.0, gt=0)
    body_s: float = Field(default=900.0, gt=0)
    clock_s: int = Field(default=CLOCK_S, ge=1)

    connections: int = Field(default=256, ge=1)
    connections_per_address: int = Field(default=64, ge=1)
    header_s: float = Field(default=10.0, gt=0)
    idle_s: float = Field(default=30.0, gt=0)
    shutdown_s: float = Field(default=120.0, gt=0)
    log: Path | None = None
