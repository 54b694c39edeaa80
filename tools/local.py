"""Requests to servers on this machine, which must not go through a proxy."""

from __future__ import annotations

import http.client
import urllib.request


def opened(request: str | urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """The response to a request, or to a GET of an address, within `timeout` seconds.

    The caller must close it. Raises urllib.error.HTTPError if the server responds with an error,
    and URLError, HTTPException or OSError if it does not respond.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: http.client.HTTPResponse = direct.open(request, timeout=timeout)
    return answer
