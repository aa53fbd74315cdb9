"""A fake OpenAI-compatible server: strict about what it is sent, and scripted beforehand with what to answer.

    async with FakeEngine() as engine:            # engine.url ends in /v1; or FakeEngine(uds=PATH)
        engine.reply("Hel", "lo")                 # queue of replies in ...
        engine.hang(); engine.fail(429, Retry_After="3"); engine.drop("half a")
        ...
        engine.requests[0].messages               # ... history of requests out

With an empty queue it answers with `engine.default(request)`, which echoes the last message. A token is a word, and
each message has four more, so that tests can calculate. `python -m tests.fakes.engine` runs one as a process.
"""

from tests.fakes.engine.script import Request, Script, words
from tests.fakes.engine.server import FakeEngine

__all__ = ["FakeEngine", "Request", "Script", "words"]
