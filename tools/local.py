"""Requests to servers on this machine: never through a proxy."""

from __future__ import annotations

import http.client
import urllib.request


def opened(request: str | urllib.request.Request, timeout: float) -> http.client.HTTPResponse:
    """The answer to a request, or to a GET of an address, within `timeout` seconds.

    To be closed by the caller. Raises urllib.error.HTTPError for an error that the server answers
    with, and URLError, HTTPException or OSError where it does not answer.
    """
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    answer: http.client.HTTPResponse = direct.open(request, timeout=timeout)
    return answer
