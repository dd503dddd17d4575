"""Whether a download has a chance, asked before a library's long retries begin."""

import threading

TIMEOUT = 8.0
"""Seconds that a server may take to answer at all."""


def unreachable(url: str) -> str | None:
    """Why the server of a URL does not answer within TIMEOUT, or None if it does."""
    import requests

    answer: list[str | None] = [f"no answer from {url} within {TIMEOUT:.0f} s"]

    def ask() -> None:
        try:
            requests.head(url, timeout=TIMEOUT, allow_redirects=True).raise_for_status()
            answer[0] = None
        except requests.RequestException as error:
            answer[0] = f"no network, or no such file: {url} ({type(error).__name__})"

    # In a thread, since a name server that does not answer heeds no timeout of ours.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answer[0]
