"""Whether a download can work, before the long retries of a library begin."""

import threading
from pathlib import Path
from typing import Any

TIMEOUT = 8.0
"""Seconds to wait for an answer from the server."""


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

    # In a thread, since `timeout` does not cover a name server that does not answer.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(TIMEOUT)
    return answer[0]


def not_cached(builder: Any, urls: list[str], downloads: Path) -> list[str]:
    """The URLs of a tensorflow-datasets builder whose files are not in its download cache."""
    from tensorflow_datasets.core.download import resource

    def is_cached(url: str) -> bool:
        file = resource.get_dl_fname(url, builder.url_infos[url].checksum)
        return any((folder / file).is_file() for folder in (downloads / builder.name, downloads))

    return [url for url in urls if not is_cached(url)]
