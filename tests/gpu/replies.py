"""Greedy replies to dialogs of several lengths, requested concurrently: the same on every engine that must agree."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.engine.server.process import ask

REPLY_LENGTH = 64
WORDS = ["the", "sea", "is", "calm", "tonight", "and", "ships", "lie", "at", "anchor", "while", "we", "talk"]
DIALOGS = [
    [{"role": "system", "content": "You are a sailor."}, {"role": "user", "content": " ".join(WORDS[: 2 + n % 9] * n)}]
    for n in range(1, 9)
]
DIALOGS.append([{"role": "user", "content": " ".join(WORDS * 55)}])  # long enough for the ranks' two-shot sum


def greedy_replies(url: str) -> list[str]:
    """The reply of the engine at `url` to each dialog."""

    def reply(dialog: list[dict[str, str]]) -> str:
        with httpx.Client(base_url=url, timeout=120) as http:
            body = ask(http, dialog, max_tokens=REPLY_LENGTH, ignore_eos=True).json()
        assert body["usage"]["completion_tokens"] == REPLY_LENGTH
        text: str = body["choices"][0]["message"]["content"]
        return text

    with ThreadPoolExecutor(len(DIALOGS)) as threads:
        return list(threads.map(reply, DIALOGS))
