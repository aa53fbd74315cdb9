"""What is asked of engines that must agree: dialogs of several lengths, all at once, greedy replies of some length."""

from concurrent.futures import ThreadPoolExecutor

import httpx

from tests.engine.server.process import ask

LENGTH = 64
WORDS = ["the", "sea", "is", "calm", "tonight", "and", "ships", "lie", "at", "anchor", "while", "we", "talk"]
DIALOGS = [
    [{"role": "system", "content": "You are a sailor."}, {"role": "user", "content": " ".join(WORDS[: 2 + n % 9] * n)}]
    for n in range(1, 9)
]


def greedy_replies(url: str) -> list[str]:
    def one(dialog: list[dict[str, str]]) -> str:
        with httpx.Client(base_url=url, timeout=120) as http:
            body = ask(http, dialog, max_tokens=LENGTH, ignore_eos=True).json()
        assert body["usage"]["completion_tokens"] == LENGTH
        text: str = body["choices"][0]["message"]["content"]
        return text

    with ThreadPoolExecutor(len(DIALOGS)) as threads:
        return list(threads.map(one, DIALOGS))
