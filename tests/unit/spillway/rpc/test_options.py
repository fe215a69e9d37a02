from __future__ import annotations

import pytest

from spillway.rpc.options import KNOWN, channel_options, checked, server_options

CORE = frozenset(
    {
        "grpc.enable_channelz",
        "grpc.enable_retries",
        "grpc.http2.max_ping_strikes",
        "grpc.http2.max_pings_without_data",
        "grpc.http2.min_ping_interval_without_data_ms",
        "grpc.initial_reconnect_backoff_ms",
        "grpc.keepalive_permit_without_calls",
        "grpc.keepalive_time_ms",
        "grpc.keepalive_timeout_ms",
        "grpc.max_receive_message_length",
        "grpc.max_reconnect_backoff_ms",
        "grpc.max_send_message_length",
        "grpc.min_reconnect_backoff_ms",
        "grpc.so_reuseport",
        "grpc.use_local_subchannel_pool",
    }
)
"""Names as gRPC's own headers spell them (channel_arg_names.h)."""


def test_a_misspelt_option_is_an_error_and_not_silence() -> None:
    with pytest.raises(ValueError, match=r"grpc\.enable_retrys"):
        checked({"grpc.enable_retrys": 0})


def test_every_known_option_is_one_of_grpcs_or_ours() -> None:
    assert {name for name in KNOWN if not name.startswith("spillway.")} == CORE


def test_channels_never_retry_and_ping_every_30_seconds() -> None:
    options = dict(channel_options(max_receive_bytes=5))

    assert options["grpc.enable_retries"] == 0
    assert options["grpc.keepalive_time_ms"] == 30_000
    assert options["grpc.max_receive_message_length"] == 5


def test_servers_bear_their_clients_pings() -> None:
    channel, server = dict(channel_options(max_receive_bytes=5)), dict(server_options(max_receive_bytes=5))

    assert server["grpc.http2.max_ping_strikes"] == 0
    assert int(server["grpc.http2.min_ping_interval_without_data_ms"]) <= int(channel["grpc.keepalive_time_ms"])
    assert server["grpc.keepalive_permit_without_calls"] == 1
    assert server["grpc.so_reuseport"] == 0


def test_channels_of_different_names_share_no_connection() -> None:
    one, two = channel_options(max_receive_bytes=5, name="1"), channel_options(max_receive_bytes=5, name="2")

    assert one != two
    assert ("grpc.use_local_subchannel_pool", 1) in one
