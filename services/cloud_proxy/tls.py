"""Whom we trust over TLS, and why we did not."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from pathlib import Path

from spillway.settings import SettingsError

WHY: Mapping[int, str] = {
    9: "its certificate is not valid yet",
    10: "its certificate has expired",
    18: "its certificate is self-signed",
    19: "its certificate is signed by an authority that is not trusted (ca_bundle)",
    20: "its certificate is signed by an authority that is not trusted (ca_bundle)",
    21: "its certificate is signed by an authority that is not trusted (ca_bundle)",
    23: "its certificate has been revoked",
    62: "its certificate is for another host name",
    64: "its certificate is for another IP address",
}
"""X509_V_ERR_* of OpenSSL 3 (x509_vfy.h) -> what it means."""


def refused(error: BaseException) -> str:
    """Return why a connection was not trusted."""
    found = getattr(error, "certificate_error", error)
    if isinstance(found, ssl.SSLCertVerificationError):
        return WHY.get(found.verify_code, f"its certificate was not accepted (X509_V_ERR {found.verify_code})")
    return "it speaks no TLS that we speak, or wants a certificate of ours (client_cert)"


def trust(path: str, *, ca_bundle: Path | None, client_cert: Path | None) -> ssl.SSLContext | None:
    """Return what the settings at `path` make of TLS, None for the usual. Raises SettingsError for an unusable file."""
    if ca_bundle is None and client_cert is None:
        return None
    try:
        context = ssl.create_default_context(cafile=ca_bundle)
    except OSError as error:  # ssl.SSLError is one
        raise SettingsError(f"{path}.ca_bundle: cannot use {ca_bundle}: {_said(error)}") from None
    if client_cert is not None:
        try:
            # A password would be asked for at the terminal, by a service that has none.
            context.load_cert_chain(client_cert, password="")
        except OSError as error:
            raise SettingsError(f"{path}.client_cert: cannot use {client_cert}: {_said(error)}") from None
    return context


def _said(error: OSError) -> str:
    return type(error).__name__ if isinstance(error, ssl.SSLError) else error.strerror or type(error).__name__
