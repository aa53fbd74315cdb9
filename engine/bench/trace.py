"""The workloads, generated from a seed, so that every engine serves the same requests. Needs no torch.

`python -m engine.bench.trace` prints each workload's size and digest; a digest identifies the exact requests. Token
ids are uniform in 3 … vocab - 1, as 0 to 2 are unk, bos and eos in Llama 2's vocabulary.

W1  one request, prompt 512, output 256
W2  32 requests at once, prompt 512, output 128
W3  closed-loop chat: 64 users, 4 personas of 256 tokens (16 users each), 6 turns of a message of 40 tokens and a reply
    of 100. A prompt is the persona, the history and the new message. The next message is sent when the reply is
    complete; all users start at once; at most 32 rows
W4  32 requests at once, prompts log-uniform in 32 … 1500, outputs uniform in 16 … 256
W5  rolling window: 32 users, 30 turns with W3's sizes and at most 10 turns of history in a prompt; see `RollingChat`
W6  W3 with a history that is generated beforehand, for clients that receive text; see `CannedChat`
W7  members who come back: 20 tenants of 40 members, a persona of 512 tokens for each tenant. Each member has told 10
    pairs (40 + 100) before, untimed; then each asks once more, in a seeded order, 64 in flight. W7x: 50 tenants

W3u is W3 with as many rows as memory allows, W3p has 32 users and personas of 2,048 tokens, W3n 100 newcomers within a
second; M1 to M256 have 1 to 256 users at once. T1 to T3 measure the first token of an idle engine: 512 new tokens, 40
after 2,000 cached ones, 4,000 new ones. `engine/bench/workloads.py` says what each of them sends.
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


@dataclass(frozen=True, slots=True)
class PromptRequest:
    """A request: its prompt, and the exact number of tokens to generate."""

    prompt: list[int]
    output_len: int


def random_ids(rng: random.Random, count: int, vocab: int) -> list[int]:
    """Token ids, uniform among those that are no control tokens in Llama 2's vocabulary."""
    return [rng.randrange(FIRST_ID, vocab) for _ in range(count)]


def w1(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    """W1; `scale` < 1 shortens prompts and outputs."""
    rng = random.Random(f"{SEED}-w1")
    return [PromptRequest(random_ids(rng, max(8, int(512 * scale)), vocab), max(4, int(256 * scale)))]


def w2(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    """W2; `scale` < 1 shortens prompts and outputs."""
    rng = random.Random(f"{SEED}-w2")
    prompt, output = max(8, int(512 * scale)), max(4, int(128 * scale))
    return [PromptRequest(random_ids(rng, prompt, vocab), output) for _ in range(32)]


def w4(vocab: int = VOCAB, scale: float = 1.0) -> list[PromptRequest]:
    """W4; `scale` < 1 shortens prompts and outputs."""
    rng = random.Random(f"{SEED}-w4")
    requests = []
    for _ in range(32):
        prompt = round(math.exp(rng.uniform(math.log(32), math.log(1500))))
        output = rng.randint(16, 256)
        requests.append(PromptRequest(random_ids(rng, max(4, int(prompt * scale)), vocab), max(3, int(output * scale))))
    return requests


class ChatWorkload:
    """W3: the state of every user's chat. `system`, `message` and `reply` are lengths in tokens."""

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
        self.users, self.turns, self.reply_length, self.vocab = users, turns, reply, vocab
        self.personas = [random_ids(rng, system, vocab) for _ in range(personas)]
        self.messages = [[random_ids(rng, message, vocab) for _ in range(turns)] for _ in range(users)]
        self.persona_of = [user % personas for user in range(users)]
        self.history: list[list[list[int]]] = [[] for _ in range(users)]  # message + reply of each turn
        self.turn = [0] * users

    def prompt(self, user: int) -> list[int]:
        """The prompt of the user's current turn."""
        history = [token for turn in self.history_in_prompt(user) for token in turn]
        return [*self.personas[self.persona_of[user]], *history, *self.messages[user][self.turn[user]]]

    def history_in_prompt(self, user: int) -> list[list[int]]:
        """The turns that the user's next prompt contains, oldest first."""
        return self.history[user]

    def reply(self, user: int, tokens: list[int]) -> bool:
        """End the user's turn with this reply; whether another turn follows. ValueError on a wrong length."""
        if len(tokens) != self.reply_length:
            raise ValueError(f"a reply of {len(tokens)} tokens where {self.reply_length} were wanted")
        self.history[user].append([*self.messages[user][self.turn[user]], *tokens])
        self.turn[user] += 1
        return self.turn[user] < self.turns


class CannedChat(ChatWorkload):
    """W6: as W3, but the history holds generated replies instead of the received ones, for clients that receive text.

    `extra_tokens` is added to each turn. Text of random tokens takes more tokens when it is encoded again, and a chat
    format adds control tokens: with 58 (W6b), prompts are as long as the bot's with a checkpoint of random weights.
    """

    def __init__(self, extra_tokens: int = 0, **sizes: int) -> None:
        super().__init__(**sizes)
        self.extra_tokens = extra_tokens

    def reply(self, user: int, tokens: list[int]) -> bool:
        """As W3, with the tokens in the history replaced."""
        turn, length = self.turn[user], self.reply_length
        more = super().reply(user, tokens)
        generated = random_ids(random.Random(f"{SEED}-w6-{user}-{turn}"), length + self.extra_tokens, self.vocab)
        self.history[user][-1] = [*self.messages[user][turn], *generated]
        return more


class RollingChat(ChatWorkload):
    """W5: as W3 with 30 turns and at most `max_pairs` turns of history. Beyond it, `trim_step` are dropped."""

    def __init__(self, users: int = 32, turns: int = 30, max_pairs: int = 10, trim_step: int = 1, **sizes: int) -> None:
        super().__init__(users=users, turns=turns, **sizes)
        self.max_pairs, self.trim_step = max_pairs, trim_step
        self.dropped = [0] * users

    def history_in_prompt(self, user: int) -> list[list[int]]:
        """The turns that are not dropped yet, oldest first."""
        return self.history[user][self.dropped[user] :]

    def reply(self, user: int, tokens: list[int]) -> bool:
        """As W3; drops old turns above the limit."""
        more = super().reply(user, tokens)
        while len(self.history[user]) - self.dropped[user] > self.max_pairs:
            self.dropped[user] += self.trim_step
        return more


class ReturningMembers:
    """W7: what each member has told before, and what each asks when they come back."""

    def __init__(
        self,
        tenants: int = 20,
        members: int = 40,
        pairs: int = 10,
        persona: int = 512,
        message: int = 40,
        reply: int = 100,
        in_flight: int = 64,
        vocab: int = VOCAB,
    ) -> None:
        """`members` of each tenant; `persona`, `message` and `reply` are lengths in tokens."""
        rng = random.Random(f"{SEED}-w7")
        self.in_flight, self.reply_length = in_flight, reply
        self.tenant_of = [member % tenants for member in range(tenants * members)]
        self._personas = [random_ids(rng, persona, vocab) for _ in range(tenants)]
        self._told = [random_ids(rng, pairs * (message + reply), vocab) for _ in self.tenant_of]
        self._messages = [random_ids(rng, message, vocab) for _ in self.tenant_of]
        self.order = rng.sample(range(len(self.tenant_of)), len(self.tenant_of))

    def told(self, member: int) -> list[int]:
        """The persona and the member's pairs so far."""
        return [*self._personas[self.tenant_of[member]], *self._told[member]]

    def prompt(self, member: int) -> list[int]:
        """The prompt with which the member comes back."""
        return [*self.told(member), *self._messages[member]]


def returning(name: str, scale: float = 1.0, vocab: int = VOCAB) -> ReturningMembers:
    """W7 or W7x; `scale` < 1 makes it smaller: two tenants of three members, and shorter texts."""
    if scale == 1.0:
        return ReturningMembers(tenants=50 if name == "W7x" else 20, vocab=vocab)
    persona, message, reply = (max(low, int(full * scale)) for low, full in ((32, 512), (4, 40), (4, 100)))
    return ReturningMembers(2, 3, 10, persona, message, reply, in_flight=2, vocab=vocab)


def chat(scale: float = 1.0, vocab: int = VOCAB) -> ChatWorkload:
    """W3; `scale` < 1 makes it smaller: 40 users, 2 turns and shorter texts."""
    if scale == 1.0:
        return ChatWorkload(vocab=vocab)
    sizes = (max(low, int(full * scale)) for low, full in ((8, 256), (4, 40), (4, 100)))
    system, message, reply = sizes
    return ChatWorkload(users=40, turns=2, system=system, message=message, reply=reply, vocab=vocab)


def digest(value: object) -> str:
    """The first 16 hex digits of the SHA-256 of a value as JSON."""
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()[:16]


def requests_digest(requests: list[PromptRequest]) -> str:
    """Digest of W1, W2 or W4."""
    return digest([(request.prompt, request.output_len) for request in requests])


def chat_digest(workload: ChatWorkload) -> str:
    """Digest of W3: what the users send."""
    return digest([workload.personas, workload.messages, workload.persona_of])


def members_digest(workload: ReturningMembers) -> str:
    """Digest of W7: what the members send, in their order."""
    return digest([(workload.tenant_of[member], workload.prompt(member)) for member in workload.order])


def describe() -> str:
    """Size and digest of each workload, one a line."""
    lines = []
    for name, sent in (("W1", w1()), ("W2", w2()), ("W4", w4())):
        prompts, outputs = [len(request.prompt) for request in sent], [request.output_len for request in sent]
        lines.append(
            f"{name}: {len(sent)} requests, prompt {min(prompts)}..{max(prompts)} (sum {sum(prompts)}), "
            f"output {min(outputs)}..{max(outputs)} (sum {sum(outputs)}), digest {requests_digest(sent)}"
        )
    workload = chat()
    prompt_tokens = (
        sum(len(workload.personas[0]) + 40 * (k + 1) + 100 * k for k in range(workload.turns)) * workload.users
    )
    requests = workload.users * workload.turns
    lines.append(
        f"W3: {workload.users} users x {workload.turns} turns = {requests} requests, {prompt_tokens} prompt tokens, "
        f"{requests * workload.reply_length} output tokens, digest {chat_digest(workload)}"
    )
    members = returning("W7")
    count, prompt_tokens = len(members.order), sum(len(members.prompt(member)) for member in members.order)
    lines.append(
        f"W7: {count} members, {prompt_tokens} prompt tokens, {count * members.reply_length} output tokens, "
        f"digest {members_digest(members)}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.stdout.write(describe() + "\n")
