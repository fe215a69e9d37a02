"""What is watched of engines: their loads, at the addresses of local targets."""

from __future__ import annotations

from collections.abc import Sequence

from spillway import v1
from spillway.load import HEARTBEAT_S
from spillway.telemetry import names
from spillway.v1 import engine_pb2_grpc

from .loads import Loads
from .target import Target
from .watch import Subject

SILENCE_S = 3 * HEARTBEAT_S


def load_watch(loads: Loads) -> Subject[v1.WatchLoadResponse]:
    """Keeps `loads` told."""

    def hear(targets: Sequence[Target], told: v1.WatchLoadResponse) -> None:
        load = told.load
        known = load.HasField("running")
        loads.hear((target.name for target in targets), load.running + load.waiting if known else None)

    return Subject(
        name="load",
        span=names.WATCH_LOAD,
        method=lambda channel: engine_pb2_grpc.EngineTelemetryServiceStub(channel).WatchLoad,
        request=v1.WatchLoadRequest(),
        silence_s=SILENCE_S,
        concerns=lambda target: target.local,
        hear=hear,
        lose=lambda targets: loads.hear((target.name for target in targets), None),
    )
