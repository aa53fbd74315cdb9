"""Arguments and results of the queries: frozen dataclasses of plain Python types.

Knows no SQLAlchemy, so any module of the bot may import it.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from typing import Literal

PersonaLevel = Literal["default", "guild", "category", "channel", "thread", "member"]
StoredLevel = Literal["guild", "category", "channel", "thread", "member"]
PersonaPlace = Literal["guild", "category", "channel", "thread"]
OwnPersonas = Literal["members", "roles", "nobody"]
PersonaFace = Literal["off", "name", "profile"]
"""How a persona is seen: not at all, by its name above the reply, or as the bot's own profile in the guild."""
ProfileProblem = Literal["forbidden", "refused", "slower", "sending"]
"""What Discord had against a profile; "sending": nobody knows yet whether it arrived."""
SceneOrder = Literal["turn", "model"]
"""Who speaks in a scene if the message names nobody."""
TurnStatus = Literal["pending", "done", "failed", "interrupted"]
DialogScope = Literal["member", "channel", "thread", "member-channel", "member-thread"]
DeliveryState = Literal["writing", "ready", "done"]
ConversationChange = Literal["done", "same", "gone", "taken", "full", "opted out"]
FileKind = Literal["file", "quote", "quoted file"]

EVERYBODY = 0  # user id of a dialog that all members of a channel share
DIRECT_MESSAGES = 0  # guild_id of direct messages; not NULL, which a unique index never treats as equal
LARGEST_ID = (1 << 63) - 1  # of a signed 64-bit column; snowflakes are below it


@dataclass(frozen=True, slots=True)
class DialogKey:
    """The tenant key: who acts, and in which dialog. Every query of a tenant's rows takes one. All ids are snowflakes.

    `channel_id` is 0 unless the guild chose dialogs per channel or thread. A `shared` dialog belongs to all members of
    its channel; persona of a member, settings, quota and usage are always those of `user_id`.
    """

    guild_id: int
    user_id: int
    channel_id: int = 0
    shared: bool = False

    @property
    def owner_id(self) -> int:
        """The user id that the dialog is stored under."""
        return EVERYBODY if self.shared else self.user_id

    @property
    def dialog(self) -> DialogKey:
        """The same key for all who act in this dialog: what a lock is held by."""
        return replace(self, user_id=EVERYBODY) if self.shared else self

    @property
    def private(self) -> DialogKey | None:
        """The key of the member's private dialog beside this shared one; None if this dialog is not shared."""
        return replace(self, shared=False) if self.shared else None


@dataclass(frozen=True, slots=True)
class StopRequester:
    """The person who wants to stop a running reply. Its asker may, and managers of its guild may."""

    user_id: int
    managed_guild_id: int | None = None

    def may_stop(self, key: DialogKey) -> bool:
        """Whether they may stop a reply to the member of `key`."""
        return self.user_id == key.user_id or self.managed_guild_id == key.guild_id != DIRECT_MESSAGES


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A text that came with a message: a file that its member attached, or what they asked about.

    Of a quoted message `name` is its author's, and `author_id` who that is: what they wrote is theirs, wherever it is.
    `content` is empty for a picture, and for what could not be read.
    """

    name: str = field(repr=False)
    content: str = field(repr=False)
    note: str = ""
    """What the model is told beside the name, such as the number of pages, or where the text was cut."""
    kind: FileKind = "file"
    author_id: int | None = None


@dataclass(frozen=True, slots=True)
class Speaker:
    """A persona whose name stands above a reply, by the name that it had then."""

    persona_id: int
    name: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Pair:
    """One finished turn: what the member wrote, and its active reply. `author` is a name, in shared dialogs only."""

    turn_id: int
    user: str
    reply: str
    author: str | None = None
    files: tuple[StoredFile, ...] = ()
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""
    heard: str = field(default="", repr=False)
    """What another character of the scene replied, as its listeners read it; `reply` is empty then."""


@dataclass(frozen=True, slots=True)
class PersonaText:
    """The system prompt that applies, and the level that it is set at. `name` is "" if it was stored without one."""

    level: PersonaLevel
    name: str
    prompt: str = field(repr=False)
    version: int
    persona_id: int = 0
    """0: the operator's default, which no table holds as a persona."""
    card: str | None = field(default=None, repr=False)
    """The JSON of the character card that it was made from."""


@dataclass(frozen=True, slots=True)
class StoredCard:
    """What a persona is made of: its text, the JSON of its card if it has one, and its picture, a PNG (b"": none)."""

    prompt: str = field(repr=False)
    json: str | None = field(default=None, repr=False)
    picture: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class PersonaScope:
    """Where a message was written, as far as it decides which persona answers. 0: there is no such place.

    It does not depend on whose dialog the message belongs to. `own_allowed`: whether the member's own persona may
    answer here; in a dialog that several members share it never does.
    """

    category_id: int = 0
    channel_id: int = 0
    thread_id: int = 0
    own_allowed: bool = True
    face: PersonaFace = "off"
    """How the guild wants personas to be seen."""


NO_PLACE = PersonaScope()
"""The scope of a message that was written in no channel: in the terminal, or in direct messages."""


@dataclass(frozen=True, slots=True)
class PersonaLevelInfo:
    """One level at which a persona is set for a place or a member, whether or not it is the one that answers."""

    level: StoredLevel
    place_id: int
    persona_id: int
    name: str
    version: int


@dataclass(frozen=True, slots=True)
class PersonaInfo:
    """An entry of a library of personas, without its text. `own`: a member's private one, else the guild's."""

    persona_id: int
    name: str
    tags: tuple[str, ...]
    active_version: int
    own: bool
    created_at: datetime


@dataclass(frozen=True, slots=True)
class PersonaAssignmentInfo:
    """A level at which a persona of a library is set. `place_id` is 0 for the guild and for a member."""

    level: StoredLevel
    place_id: int


@dataclass(frozen=True, slots=True)
class SceneInfo:
    """The characters that answer in a channel or thread, in their order."""

    place_id: int
    speak: SceneOrder
    characters: tuple[PersonaText, ...]


@dataclass(frozen=True, slots=True)
class DialogSettings:
    """Settings of one dialog, merged from the guild's and the member's. None: the operator's default applies."""

    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    locale: str | None = None
    opted_out: bool = False
    streaming: bool = True
    memory: bool = False
    """Whether facts about the member are remembered, and may stand in prompts."""
    summaries: bool = False
    """Whether a summary of the dialog is kept: the member's choice, in a shared dialog that of the guild."""


@dataclass(frozen=True, slots=True)
class MemoryFact:
    """A sentence that is remembered about a member. `edited`: they wrote or changed it themselves."""

    fact_id: int
    text: str = field(repr=False)
    source_turn_id: int | None
    source_at: datetime
    """When it was said."""
    edited: bool = False
    private: bool = False
    """Whether it was told where only the member saw the reply: it stands in no prompt of a shared dialog."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a dialog was about, from one turn to another."""

    summary_id: int
    text: str = field(repr=False)
    from_turn_id: int
    to_turn_id: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class RememberedPair:
    """A finished turn as it is read to be remembered. `author`: a name, in shared dialogs only."""

    turn_id: int
    author_id: int
    author: str | None
    user: str = field(repr=False)
    reply: str = field(repr=False)
    finished_at: datetime | None
    wants_facts: bool
    """Whether its author has memory on."""


@dataclass(frozen=True, slots=True)
class MemoryTask:
    """A dialog that may have something to remember, with the figures by which that is decided."""

    key: DialogKey
    dialog_id: int
    last_active_at: datetime
    ended: bool
    guild_chat_logs: int | None
    own_chat_logs: int | None
    num_pairs: int
    num_new: int
    """Pairs that no summary covers."""
    last_num_pairs: int | None
    """Pairs in the prompt of the last turn, if that is known."""
    last_turn_id: int
    facts_to_turn_id: int


@dataclass(frozen=True, slots=True)
class PromptInputs:
    """What else a prompt depended on when it was built, so that it can be built again."""

    name: str = field(default="", repr=False)
    """How the member was called, where the persona could name them."""
    persona_name: str = field(default="", repr=False)
    context_length: int | None = None
    """Of the model, as far as it was known by then."""
    max_pairs: int = 0
    history_turn_id: int | None = None
    """The oldest pair that was read: a lorebook looks at all of them."""
    selected_turn_id: int | None = None
    """The oldest pair that the prompt was built with, before it had to be shorter."""
    prefix_chars: int = 0
    """Length of the reply so far that was continued."""
    num_files: int = 0
    num_images: int = 0
    cuts: tuple[int, ...] = ()
    """The characters to which the files were cut, each time that the prompt was too long."""
    message_digests: tuple[str, ...] = field(default=(), repr=False)
    """Short digests of the words of each message: they tell which one is another one now."""
    fact_digests: tuple[str, ...] = field(default=(), repr=False)
    """The same of the facts."""
    scene: tuple[tuple[int, str], ...] = field(default=(), repr=False)
    """The characters that played, by persona and name."""


NO_INPUTS = PromptInputs()


@dataclass(frozen=True, slots=True)
class PromptRecord:
    """What the prompt of a turn was made of, beside the words and files of the turn itself."""

    persona_id: int | None = None
    """None: the operator's default, whose text is `default_prompt`."""
    persona_version: int | None = None
    default_prompt: str | None = field(default=None, repr=False)
    first_turn_id: int | None = None
    """The oldest pair in it; None if it had none."""
    num_pairs: int = 0
    num_examples: int = 0
    greeting: int | None = None
    lore: tuple[int, ...] = ()
    summary_id: int | None = None
    fact_ids: tuple[int, ...] = ()
    digest: str | None = field(default=None, repr=False)
    """SHA-256 of the messages as they were sent; None: they were not recorded."""
    inputs: PromptInputs | None = None


@dataclass(frozen=True, slots=True)
class PromptParts:
    """A turn with everything that its prompt was made of, as far as that still exists."""

    key: DialogKey
    turn_id: int
    dialog_id: int
    text: str = field(repr=False)
    reply: str = field(repr=False)
    author: str | None
    files: tuple[StoredFile, ...]
    record: PromptRecord
    persona: PersonaText | None
    history: tuple[Pair, ...]
    """The pairs of `PromptInputs.history_turn_id` and after."""
    summary: Summary | None
    facts: tuple[MemoryFact, ...]
    """In the order in which they stood in the prompt."""
    is_newest_reply: bool = True
    """Whether the reply in use is the one that was written last."""


@dataclass(frozen=True, slots=True)
class PromptUsed:
    """The record of a turn's prompt with what it refers to, as far as that still exists."""

    record: PromptRecord
    persona_name: str | None
    """None: the operator's default, or a persona that was deleted since."""
    num_before: int
    """Pairs of the dialog before the turn: those above `num_pairs` were cut."""
    facts: tuple[MemoryFact, ...]
    summary: Summary | None


@dataclass(frozen=True, slots=True)
class TurnSnapshot:
    """A turn that needs a reply, and everything its prompt is built from, as one transaction read it.

    `turn_id` and `dialog_id` are 0 for a member who opted out: the turn is not stored, nor will its reply be.
    """

    turn_id: int
    dialog_id: int
    text: str
    persona: PersonaText | None
    history: tuple[Pair, ...]
    settings: DialogSettings = DialogSettings()
    author: str | None = None
    files: tuple[StoredFile, ...] = ()
    files_note: str = ""
    """What the member is told of the files, above the reply: plain lines."""
    reply: str | None = None
    """The present reply, if the turn has one already."""
    delivery_id: int = 0
    """0 if what is shown is not recorded."""
    summary: Summary | None = None
    """Of what the history does not contain any more, if the dialog has one."""
    facts: tuple[MemoryFact, ...] = ()
    """What is remembered about the author, the newest first."""
    speaker: Speaker | None = None
    """Which persona gave the present reply."""
    scene: SceneInfo | None = None
    """The characters of whom one answers instead of the persona."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a reply is shown: as the response to an interaction, or as a reply to a message in a channel."""

    guild_id: int
    channel_id: int
    """0 where the bot itself is not: only an interaction's token reaches such a place."""
    asker_id: int
    nonce: int
    """The interaction or message that asked for it, which makes a message that is sent twice appear once."""
    ephemeral: bool = False
    application_id: int | None = None
    reply_token: str | None = None
    """The token of the interaction; None for a reply to a message."""
    token_expires_at: datetime | None = None
    question_id: int | None = None
    """The message that is replied to."""
    about_id: int | None = None
    """The message of someone else that was asked about."""
    message_ids: tuple[int | None, ...] = ()
    """The messages that show an earlier text, to be edited."""
    may_send: bool = True
    """Whether the bot may write in the channel, as far as Discord has said. Not stored."""
    path: str = ""
    """Guild and channel as a link names them; not stored."""

    @property
    def by_token_only(self) -> bool:
        """Whether the bot can change its messages here only through the token of the interaction that made them."""
        return self.ephemeral or self.channel_id == 0

    @property
    def is_seen_by_others(self) -> bool:
        """Whether a response to a command is shown to people who did not see the command."""
        return (
            self.question_id is None
            and not self.ephemeral
            and (self.guild_id != DIRECT_MESSAGES or not self.channel_id)
        )


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """One Discord message of a reply. `text` is "" for a message that is not needed any more and is to be deleted."""

    text: str
    with_file: bool = False
    message_id: int | None = None
    shown: bool = False


@dataclass(frozen=True, slots=True)
class DeliveryRecord:
    """A delivery as it is stored: where, and which of its messages exist or are still to be shown."""

    delivery_id: int
    turn_id: int | None
    """None for a message that waits for its turn, and for messages whose turn was forgotten."""
    state: DeliveryState
    place: Place
    messages: tuple[OutgoingMessage, ...]
    created_at: datetime
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class TurnResult:
    """A generated reply, as the finish transaction stores it. Times in milliseconds since the request.

    `messages` is how it is shown on Discord, to be sent after the commit.
    """

    reply: str
    prompt_tokens: int
    completion_tokens: int
    finish_reason: str
    first_token_ms: int
    total_ms: int
    messages: tuple[OutgoingMessage, ...] = ()
    retraction: str = ""
    """The text that replaces the messages of turns which this one replaces."""
    prompt: PromptRecord | None = None
    """What the prompt was made of."""
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""


@dataclass(frozen=True, slots=True)
class TurnInfo:
    """A turn as a button under its reply finds it. `key` acts as the turn's author; `is_open`: its dialog goes on."""

    turn_id: int
    key: DialogKey
    author_id: int | None
    status: TurnStatus
    user_text: str
    reply: str | None
    finish_reason: str | None
    is_open: bool
    num_later: int
    """Finished turns of the dialog after this one."""
    is_parked: bool = False
    """The dialog is another one of the key's conversations than that in use."""
    position: int = 1
    """Which of the turn's replies is the active one, from 1."""
    num_variants: int = 1
    files_note: str = ""
    """What the member is told of the turn's files, above the reply: plain lines."""
    replaces_id: int | None = None
    """The turn that this one replaces once its reply is stored."""
    speaker: Speaker | None = None
    """Which persona gave the reply, where its name stands above it."""


@dataclass(frozen=True, slots=True)
class DialogHead:
    """A dialog that a member may read: its id and name, and whether it has ended."""

    dialog_id: int
    name: str | None
    ended: bool
    shared: bool = False
    """Whether it belongs to all members of a channel or thread."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """One finished turn as a member reads it again. `own`: they asked it; `author`: a name, in shared dialogs only."""

    turn_id: int
    dialog_id: int
    at: datetime
    user: str
    reply: str
    own: bool = True
    author: str | None = None
    files: tuple[StoredFile, ...] = ()


@dataclass(frozen=True, slots=True)
class ConversationInfo:
    """A conversation in the list of its key. `beginning`: what was said first, where it has no name."""

    dialog_id: int
    name: str | None
    beginning: str | None
    last_active_at: datetime
    in_use: bool
    num_pairs: int


@dataclass(frozen=True, slots=True)
class ResetCounts:
    """What a reset ended: dialogs in which something was said, and their finished pairs."""

    dialogs: int
    pairs: int


@dataclass(frozen=True, slots=True)
class UndoneReset:
    """How many dialogs go on, and whether one that was begun since the reset was parked."""

    dialogs: int
    kept_since: bool


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the replies of a regenerated turn; `position` counts from 1."""

    position: int
    reply: str
    active: bool
    speaker: Speaker | None = None


@dataclass(frozen=True, slots=True)
class PersonaVersionInfo:
    """One stored version of a persona, as /persona lists them for a rollback."""

    version: int
    name: str
    prompt: str = field(repr=False)
    author_id: int | None
    created_at: datetime
    active: bool
    card: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class RolePolicy:
    """A guild's rules for one of its roles."""

    role_id: int
    allowed: bool = False
    daily_turns: int | None = None
    own_persona: bool = False
    """Whether members with it may have a persona of their own, where only some roles may."""


@dataclass(frozen=True, slots=True)
class GuildSettings:
    """A guild's settings. None: the operator's default applies. No channel listed, or no role allowed: all may chat."""

    dialog_scope: DialogScope = "member"
    max_chat_logs: int | None = None
    max_reply_tokens: int | None = None
    retention_days: int | None = None
    session_ttl: timedelta | None = None
    daily_turns: int | None = None
    daily_tokens: int | None = None
    own_personas: OwnPersonas = "members"
    streaming: bool = True
    locale: str | None = None
    channels: frozenset[int] = frozenset()
    roles: tuple[RolePolicy, ...] = ()
    channel_scopes: tuple[tuple[int, DialogScope], ...] = ()
    """Channels whose dialogs have a scope of their own, by channel id."""
    locked_channels: frozenset[int] = frozenset()
    """Categories, channels and threads in which no member's own persona answers."""
    memory: bool = False
    """Whether members may have the bot remember what prompts no longer contain."""
    persona_face: PersonaFace = "off"


@dataclass(frozen=True, slots=True)
class WantedProfile:
    """What the bot's own profile in a guild shall show. `fingerprint`: "" for its own name and picture."""

    persona_id: int | None
    name: str
    picture: bytes | None = field(repr=False)
    fingerprint: str


@dataclass(frozen=True, slots=True)
class SentProfile:
    """What Discord was sent last, and what it had against that."""

    fingerprint: str
    problem: ProfileProblem | None
    sent_at: datetime


@dataclass(frozen=True, slots=True)
class ThreadBinding:
    """A thread in which every message of the members counts. `parent_id` is its channel."""

    thread_id: int
    guild_id: int
    parent_id: int
    last_used_at: datetime
    """When members last talked in it; recorded at most once a day."""
    creator_id: int | None = None
    """Who asked for it; None for one who opted out."""


@dataclass(frozen=True, slots=True)
class MemberSettings:
    """A member's settings in one guild, and whether an admin blocked the member."""

    max_chat_logs: int | None = None
    retention_days: int | None = None
    private: bool | None = None
    locale: str | None = None
    blocked: bool = False
    memory: bool | None = None
    """Whether they want to be remembered beyond the conversation; None: they have not chosen, so no."""


@dataclass(frozen=True, slots=True)
class Usage:
    """A member's finished turns and tokens of one UTC day."""

    day: date
    turns: int
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """One audit log entry: an action of an admin or the operator. `details` is JSON."""

    guild_id: int | None
    actor_id: int | None
    target_id: int | None
    action: str
    details: str
    created_at: datetime
