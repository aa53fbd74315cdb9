"""Clients that keep an engine under load until it fails, and record when they noticed."""

import threading
import time
from types import TracebackType

import httpx

BODY = {"messages": [{"role": "user", "content": "Go on."}], "stream": True, "ignore_eos": True, "temperature": 0.7}


class Client(threading.Thread):
    """Requests one long reply after the other. `failed_at` is the monotonic time at which one ended with an error."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self._url = url
        self.events, self.failed_at, self.error = 0, 0.0, ""

    def run(self) -> None:
        while not self.failed_at:
            try:
                self._reply()
            except httpx.HTTPError as error:
                self.error = type(error).__name__
            if self.error:
                self.failed_at = time.monotonic()

    def _reply(self) -> None:
        with (
            httpx.Client(base_url=self._url, timeout=60) as http,
            http.stream("POST", "/v1/chat/completions", json=BODY) as response,
        ):
            if response.status_code != 200:
                self.error = f"HTTP {response.status_code}"
                return
            for line in response.iter_lines():
                self.events += bool(line)
                if '"error"' in line:
                    self.error = line
                    return


class Load:
    """Some clients, each in the middle of a reply when the `with` block is entered."""

    def __init__(self, url: str, clients: int) -> None:
        self.clients = [Client(url) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for client in self.clients:
            client.start()
        deadline = time.monotonic() + 60
        while any(client.events < 5 for client in self.clients):
            assert time.monotonic() < deadline, [client.error for client in self.clients]
            time.sleep(0.005)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for client in self.clients:
            client.join(60 if kind is None else 0)

    def failed_after(self, start: float, timeout: float) -> list[float]:
        """Seconds from `start` until each client saw an error, which must be within the timeout."""
        for client in self.clients:
            client.join(max(0.0, start + timeout - time.monotonic()))
        assert all(client.failed_at for client in self.clients), [client.error for client in self.clients]
        return [client.failed_at - start for client in self.clients]
