"""The workloads, made from a seed alone, so that every engine runs the very same requests. Needs no torch.

`python -m engine.bench.trace` prints each workload's size and digest; a digest names the exact requests. Token ids are
drawn from 3 to vocab - 1: the first three are unk, bos and eos in Llama 2's vocabulary.

W1  one request, prompt 512, output 256
W2  32 requests at once, prompt 512, output 128
W3  closed-loop chat: 64 members with 4 personas of 256 tokens (16 members each), 6 turns; a message has 40 tokens, a
    reply exactly 100; a turn's prompt is the persona, everything said so far and the new message; the next message
    comes the moment a reply is complete; all begin at once; at most 32 in the batch
W4  32 requests at once, prompts log-uniform in 32 … 1500, outputs uniform in 16 … 256
W5  rolling window: 32 members, 30 turns each with W3's sizes and no more than 10 pairs in a prompt; see `Rolling`
"""

import hashlib
import json
import math
import random
import sys
from dataclasses import dataclass
from typing import Final

SEED: Final = 20261123
VOCAB: Final = 32000
FIRST_ID: Final = 3
MAX_BATCH: Final = 32


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """One request: its prompt, and the exact length of its reply."""

    prompt: list[int]
    output_len: int


def _tokens(rng: random.Random, count: int, vocab: int) -> list[int]:
    return [rng.randrange(FIRST_ID, vocab) for _ in range(count)]


def w1(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    rng = random.Random(f"{SEED}-w1")
    return [PromptRequest(_tokens(rng, max(8, int(512 * scale)), vocab), max(4, int(256 * scale)))]


def w2(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    rng = random.Random(f"{SEED}-w2")
    return [PromptRequest(_tokens(rng, max(8, int(512 * scale)), vocab), max(4, int(128 * scale))) for _ in range(32)]


def w4(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    rng = random.Random(f"{SEED}-w4")
    asks = []
    for _ in range(32):
        prompt = round(math.exp(rng.uniform(math.log(32), math.log(1500))))
        output = rng.randint(16, 256)
        asks.append(PromptRequest(_tokens(rng, max(4, int(prompt * scale)), vocab), max(3, int(output * scale))))
    return asks


class ChatWorkload:
    """W3. `prompt(user)` is the prompt of a member's current turn; `reply` ends it and says whether more follow."""

    def __init__(
        self,
        users: int = 64,
        personas: int = 4,
        turns: int = 6,
        system: int = 256,
        message: int = 40,
        reply: int = 100,
        vocab: int = VOCAB,
    ) -> None:
        rng = random.Random(f"{SEED}-w3")
        self.users, self.turns, self.reply_length = users, turns, reply
        self.personas = [_tokens(rng, system, vocab) for _ in range(personas)]
        self.messages = [[_tokens(rng, message, vocab) for _ in range(turns)] for _ in range(users)]
        self.persona_of = [user % personas for user in range(users)]
        self.history: list[list[list[int]]] = [[] for _ in range(users)]  # pairs, oldest first
        self.turn = [0] * users

    def prompt(self, user: int) -> list[int]:
        pairs = [token for pair in self.history_in_prompt(user) for token in pair]
        return [*self.personas[self.persona_of[user]], *pairs, *self.messages[user][self.turn[user]]]

    def history_in_prompt(self, user: int) -> list[list[int]]:
        return self.history[user]

    def reply(self, user: int, tokens: list[int]) -> bool:
        if len(tokens) != self.reply_length:
            raise ValueError(f"a reply of {len(tokens)} tokens where {self.reply_length} were wanted")
        self.history[user].append([*self.messages[user][self.turn[user]], *tokens])
        self.turn[user] += 1
        return self.turn[user] < self.turns


class CannedChat(ChatWorkload):
    """W6: as W3, but the history holds replies drawn beforehand, for clients that get text and not token ids.

    Text of random tokens takes more of them when it comes back in a prompt, and so do the marks of a chat format:
    `more` for each pair. With 58, W6b, prompts are as long as the bot's with a checkpoint of random weights.
    """

    def __init__(self, extra_tokens: int = 0, **sizes: int) -> None:
        super().__init__(**sizes)
        self.extra_tokens = extra_tokens

    def reply(self, user: int, tokens: list[int]) -> bool:
        turn, length = self.turn[user], self.reply_length
        more = super().reply(user, tokens)
        drawn = _tokens(random.Random(f"{SEED}-w6-{user}-{turn}"), length + self.extra_tokens, VOCAB)
        self.history[user][-1] = [*self.messages[user][turn], *drawn]
        return more


class RollingChat(ChatWorkload):
    """W5: as W3 with 30 turns and at most `limit` pairs in a prompt. Past the limit, `trim_step` pairs go at once."""

    def __init__(self, users: int = 32, turns: int = 30, max_pairs: int = 10, trim_step: int = 1, **sizes: int) -> None:
        super().__init__(users=users, turns=turns, **sizes)
        self.max_pairs, self.trim_step = max_pairs, trim_step
        self.dropped = [0] * users

    def history_in_prompt(self, user: int) -> list[list[int]]:
        return self.history[user][self.dropped[user] :]

    def reply(self, user: int, tokens: list[int]) -> bool:
        more = super().reply(user, tokens)
        while len(self.history[user]) - self.dropped[user] > self.max_pairs:
            self.dropped[user] += self.trim_step
        return more


def chat(scale: float = 1.0, vocab: int = VOCAB) -> ChatWorkload:
    if scale == 1.0:
        return ChatWorkload(vocab=vocab)
    sizes = (max(low, int(full * scale)) for low, full in ((8, 256), (4, 40), (4, 100)))
    system, message, reply = sizes
    return ChatWorkload(users=40, turns=2, system=system, message=message, reply=reply, vocab=vocab)


def digest(what: object) -> str:
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


def requests_digest(asks: list[PromptRequest]) -> str:
    return digest([(ask.prompt, ask.output_len) for ask in asks])


def chat_digest(trace: ChatWorkload) -> str:
    return digest([trace.personas, trace.messages, trace.persona_of])


def describe() -> str:
    lines = []
    for name, asks in (("W1", w1()), ("W2", w2()), ("W4", w4())):
        prompts, outputs = [len(ask.prompt) for ask in asks], [ask.output_len for ask in asks]
        lines.append(
            f"{name}: {len(asks)} requests, prompt {min(prompts)}..{max(prompts)} (sum {sum(prompts)}), "
            f"output {min(outputs)}..{max(outputs)} (sum {sum(outputs)}), digest {requests_digest(asks)}"
        )
    trace = chat()
    prompt_tokens = sum(len(trace.personas[0]) + 40 * (k + 1) + 100 * k for k in range(trace.turns)) * trace.users
    requests = trace.users * trace.turns
    lines.append(
        f"W3: {trace.users} users x {trace.turns} turns = {requests} requests, {prompt_tokens} prompt tokens, "
        f"{requests * trace.reply_length} output tokens, digest {chat_digest(trace)}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(describe() + "\n")
