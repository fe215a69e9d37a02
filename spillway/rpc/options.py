"""Channel and server options: defined once, checked once, because gRPC ignores a misspelt one in silence."""

from __future__ import annotations

from collections.abc import Mapping

Option = tuple[str, int | str]

KNOWN = frozenset(
    {
        "grpc.enable_retries",
        "grpc.http2.max_pings_without_data",
        "grpc.http2.max_ping_strikes",
        "grpc.http2.min_ping_interval_without_data_ms",
        "grpc.keepalive_permit_without_calls",
        "grpc.keepalive_time_ms",
        "grpc.keepalive_timeout_ms",
        "grpc.max_receive_message_length",
        "grpc.max_send_message_length",
        "grpc.max_reconnect_backoff_ms",
        "grpc.initial_reconnect_backoff_ms",
        "grpc.min_reconnect_backoff_ms",
        "grpc.so_reuseport",
        "grpc.use_local_subchannel_pool",
        "grpc.enable_channelz",
        "spillway.channel",
    }
)
"""Every option this project sets. `spillway.channel` only keeps two channels from sharing a connection."""

CONNECT_MS = 3_000
"""How long connecting may take: gRPC takes it from its least backoff. Who refuses is asked again much sooner."""

_MESSAGES = {"grpc.max_send_message_length": -1}


def channel_options(*, max_receive_bytes: int, name: str = "") -> list[Option]:
    """Options of a client channel: no retries of its own, a ping every 30 s, quick reconnects."""
    return checked(
        {
            **_MESSAGES,
            "grpc.max_receive_message_length": max_receive_bytes,
            "grpc.enable_retries": 0,
            "grpc.keepalive_time_ms": 30_000,
            "grpc.keepalive_timeout_ms": 10_000,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.max_pings_without_data": 0,
            "grpc.initial_reconnect_backoff_ms": 100,
            "grpc.min_reconnect_backoff_ms": CONNECT_MS,
            "grpc.max_reconnect_backoff_ms": 2_000,
            **({"spillway.channel": name, "grpc.use_local_subchannel_pool": 1} if name else {}),
        }
    )


def server_options(*, max_receive_bytes: int, reuse_port: bool = False) -> list[Option]:
    """Options of a server: it bears its clients' pings, and shares its port only if told."""
    return checked(
        {
            **_MESSAGES,
            "grpc.max_receive_message_length": max_receive_bytes,
            "grpc.keepalive_permit_without_calls": 1,
            "grpc.http2.min_ping_interval_without_data_ms": 5_000,
            "grpc.http2.max_ping_strikes": 0,
            "grpc.so_reuseport": int(reuse_port),
            "grpc.enable_channelz": 1,
        }
    )


def checked(options: Mapping[str, int | str]) -> list[Option]:
    """Return `options` as gRPC wants them; an unknown name is a ValueError."""
    unknown = sorted(set(options) - KNOWN)
    if unknown:
        raise ValueError(f"unknown gRPC options: {', '.join(unknown)}")
    return list(options.items())
