"""Ask a server how it is: what container engines and supervisors run.

python -m spillway.probe HOST:PORT [SERVICE]     SERVICE: empty (overall), liveness, readiness, or a full name

Exits 0 if it is SERVING, 1 if it is not, 2 if it did not answer within 3 seconds.
"""

from __future__ import annotations

import argparse

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from spillway.rpc.options import channel_options

LIMIT_S = 3.0
SERVING, NOT_SERVING, NO_ANSWER = 0, 1, 2


def probe(address: str, service: str = "", limit_s: float = LIMIT_S) -> tuple[int, str]:
    """Return the exit code for `service` at `address`, and a word on it."""
    with grpc.insecure_channel(address, options=channel_options(max_receive_bytes=4096)) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(service=service), timeout=limit_s, wait_for_ready=True
            )
        except grpc.RpcError as error:
            code = error.code()
            return (NOT_SERVING if code is grpc.StatusCode.NOT_FOUND else NO_ANSWER), code.name
    serving = answer.status == health_pb2.HealthCheckResponse.SERVING
    return (SERVING if serving else NOT_SERVING), health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m spillway.probe", description="Ask a server how it is.")
    parser.add_argument("address", help="host:port")
    parser.add_argument("service", nargs="?", default="", help="liveness, readiness, a full name; default: overall")
    arguments = parser.parse_args()
    code, word = probe(arguments.address, arguments.service)
    print(f"{arguments.address} {word}")
    return code


if __name__ == "__main__":
    raise SystemExit(main())
