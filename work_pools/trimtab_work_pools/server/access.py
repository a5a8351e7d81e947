"""How this process asks its Prefect server, for a process that has no Prefect."""

from __future__ import annotations

import base64

from prefect.settings.context import get_current_settings

from trimtab_work_pools.host.heartbeats import ServerAccess

__all__ = ["server_access"]


def server_access() -> ServerAccess:
    """By the settings of Prefect that count now."""
    settings = get_current_settings()
    api, headers = settings.api, dict(settings.client.custom_headers)
    if api.auth_string is not None:
        token = base64.b64encode(api.auth_string.get_secret_value().encode()).decode()
        headers["Authorization"] = f"Basic {token}"
    elif api.key is not None:
        headers["Authorization"] = f"Bearer {api.key.get_secret_value()}"
    verified = not api.tls_insecure_skip_verify
    return ServerAccess(str(api.url or "").rstrip("/"), headers, str(api.ssl_cert_file or ""), verified)
