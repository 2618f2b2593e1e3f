"""The plugs of a session: what an input, an avatar service and an output must offer.

Everything here is called on the session's event loop. A long-lived thing has one verb, `run`: it returns when
finished, raises when failed, and is cancelled to be stopped.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from bridge.media.access_unit import AccessUnit, Codec, Kind, ReceivedUnit
from bridge.media.audio import AudioBlock
from bridge.media.clock import AVATAR_RATE_HZ
from bridge.media.live_queue import LiveQueue
from bridge.media.rtp import RtpPacket, SenderReport
from bridge.media.utterance import Utterance

# ---------------------------------------------------------------------------------------------- audio in


class AudioSource(Protocol):
    """One input. `is_live`: samples come at the pace of a clock; otherwise as fast as they are taken."""

    name: str
    is_live: bool

    async def run(self, emit: Callable[[AudioBlock], Awaitable[None]]) -> None:
        """Deliver blocks until the source ends; `emit` waits while enough is buffered. Raises SourceError.

        It may be called again, after it has returned or raised.
        """


class SourceListener(Protocol):
    """The session's side of a source whose protocol has words besides the sound (`ws:`). Never waits."""

    def on_speech_started(self) -> None:
        """Somebody begins to speak: the detector need not find out."""

    def on_speech_ended(self) -> None:
        """The turn is over: the detector's hang-over need not be waited for."""

    def on_interrupt(self) -> None:
        """The avatar is to stop speaking, and what waits of this source is not to be said."""

    def on_listening(self, on: bool) -> None:
        """Whether the avatar is to hear this source from now on; at first it does."""


@runtime_checkable
class OutspokenSource(AudioSource, Protocol):
    """A source that tells more than its sound. `listener` is there from the start, and set before it runs."""

    listener: SourceListener


@dataclass(frozen=True, slots=True)
class MediaSession:
    """What an accepted offer of a publisher or a viewer has made (RFC 9725).

    id     names it, and is not to be guessed.  etag: names its ICE session.
    users  ICE user names of the far end.
    """

    id: str
    answer: str
    etag: str
    users: frozenset[str] = frozenset()


class MediaPoint(Protocol):
    """What WebRTC clients make sessions with, by offers of theirs."""

    def media_session(self, id: str) -> MediaSession | None:
        """The one of that name, as long as it is there."""

    async def trickle(self, id: str, candidates: Sequence[tuple[str, str | None]]) -> None:
        """Take candidates of its far end's, each with the mid of its section; of those gone, none."""

    async def end(self, id: str) -> None:
        """End it; returns when its connection is closed."""


@runtime_checkable
class PublishingPoint(MediaPoint, Protocol):
    """An input that WebRTC publishers send to, one at a time."""

    async def publish(self, offer: str, may_reach: Callable[[str], bool]) -> MediaSession:
        """Take a publisher; `may_reach` says whether ICE may try an address of its candidates.

        Raises SourceTaken while another one is heard, SourceLost while the session does not run or ICE has no port,
        RemoteProtocolError for an offer that is of no use.
        """


@runtime_checkable
class ViewingPoint(MediaPoint, Protocol):
    """An output that WebRTC viewers receive, many at a time. ice_links: Link headers that name ICE servers to them."""

    ice_links: Sequence[str]

    async def watch(self, offer: str, may_reach: Callable[[str], bool]) -> MediaSession:
        """Take a viewer; `may_reach` as above.

        Raises OutputLost while there is nothing to see, no room or no port; RemoteProtocolError for an offer that
        cannot be shown anything.
        """


class PcmSender(Protocol):
    """The connection of one sender to an input, for whoever moves its messages."""

    def take(self, message: str | bytes) -> str | None:
        """One message, text or binary; what is to be answered. Raises RemoteProtocolError, SourceLost: close it."""

    def close(self) -> None:
        """It is gone."""


@runtime_checkable
class PcmPoint(Protocol):
    """An input that senders of PCM connect to, one at a time."""

    def connect(self) -> PcmSender:
        """Raises SourceTaken while there is another sender, SourceLost while the session does not run."""


# ---------------------------------------------------------------------------------------------- the avatar service


@dataclass(frozen=True, slots=True, kw_only=True)
class UplinkPacing:
    """How a service wants to be fed with PCM16, mono: properties of the service, with their source there.

    live_samples, buffered_samples  samples per message, at 24 kHz, from a live source and from a buffered one.
    rate_hz                         what 24 kHz are resampled to for it.
    is_eager                        whether a live source's speech begins with the first sign of a voice: a click is
                                    then said as well, as it is where the sound of a room flows all the time.
    idle_audio                      silence: silence flows while no input speaks; none: nothing does.
    tail_s                          silence that ends a turn.
    ahead_s                         how much of a buffered source's speech is sent before it is due.
    needs_clean_tail                whether it has to be without the noise of an input that goes on: the service finds
                                    the ends of turns by itself, and nobody hears what it is sent.
    """

    live_samples: int
    buffered_samples: int
    idle_audio: Literal["silence", "none"]
    tail_s: float
    needs_clean_tail: bool = False
    ahead_s: float = 0.0
    rate_hz: int = AVATAR_RATE_HZ
    is_eager: bool = False


# What an avatar service can do besides speaking what it hears: `AvatarLink.say`, `interrupt`, `show` and `listen`;
# history, which a provider replays by itself, and `AvatarLink.remember` adds to; tools, which
# `AvatarListener.on_tool_call` reports.
Capability = Literal["say", "interrupt", "image", "history", "tools", "listening"]


class AvatarLink(Protocol):
    """An avatar session that takes audio. Its verbs raise ProviderError once the session is over; one that is not
    among the provider's capabilities raises ProviderRejected.

    datagrams_rejected  what was dropped before the media connection read it, by reason.
    media_path          the pair of ICE candidates that media takes, for people; empty while there is none.
    """

    pacing: UplinkPacing

    @property
    def datagrams_rejected(self) -> Mapping[str, int]: ...

    @property
    def media_path(self) -> str: ...

    async def send_audio(self, pcm16: bytes) -> None:
        """Send whole samples, PCM16 little-endian, mono, at the rate of `pacing`."""

    async def say(self, text: str) -> None:
        """Give the avatar text in place of speech."""

    async def show(self, image: bytes, media_type: str, *, wants_answer: bool) -> None:
        """Show the avatar a picture such as image/jpeg; it speaks about it if an answer is wanted."""

    async def remember(self, text: str) -> None:
        """Tell the avatar what a user said before; it does not answer."""

    async def end_turn(self) -> None:
        """Say that a turn is over, where the service wants more than the silence of `pacing.tail_s`: a commit."""

    async def interrupt(self) -> None:
        """Make the service forget the sound it has been sent and not spoken."""

    async def listen(self, on: bool) -> None:
        """Make the avatar look as if it listened to somebody whom it does not hear, while it has nothing to say."""

    async def answer_tool(self, call_id: str, output: str) -> None:
        """Give the result of a tool call."""


class TrackFeedback(Protocol):
    """What the receiver of one track tells its sender (RFC 4585). Never waits; lost with a lost connection."""

    def send_nack(self, sequence_numbers: Sequence[int]) -> None: ...

    def send_pli(self) -> None: ...


class TrackSink(Protocol):
    """Takes what arrives for one track, in the order of arrival."""

    def on_packet(self, packet: RtpPacket) -> None: ...

    def on_sender_report(self, report: SenderReport) -> None: ...


@dataclass(frozen=True, slots=True)
class RemoteTrack:
    """A track that the avatar service sends.

    codecs         payload type to codec, retransmission types left out.
    round_trip_ns  to the sender and back, as the connection's own checks have measured it; 0: not known.
    """

    kind: Kind
    codecs: Mapping[int, Codec]
    feedback: TrackFeedback
    round_trip_ns: int = 0


class Reception(TrackSink, Protocol):
    """Makes units of what arrives for one track; asks its sender for what does not."""

    def close(self) -> None:
        """Nothing more is asked of the sender, and nothing that still comes is taken."""


# Begins to receive a track: units go to the callback, in the sender's order.
OpenReception = Callable[[RemoteTrack, Callable[[ReceivedUnit], None]], Reception]


@dataclass(frozen=True, slots=True)
class AvatarEvent:
    """Something the service said. `type` is its own name for it, `text` a transcript or message, else empty.

    Kinds: speech_started, speech_stopped: the service heard the input. user_transcript, avatar_transcript_delta,
    avatar_transcript: words; never logged at info. response_started: the first of an answer's words or sound.
    response_done: its sound is generated, and may still be playing; `sound_s` is how long all of it is, 0 where the
    service does not say. warning: for the operator. ended: why the service ends the session, before the error that says
    so. unknown: of no documented type. malformed: of one, without what it is for; ignored. other: no meaning to the
    bridge.
    """

    kind: Literal[
        "speech_started",
        "speech_stopped",
        "response_started",
        "user_transcript",
        "avatar_transcript_delta",
        "avatar_transcript",
        "response_done",
        "tool_call",
        "warning",
        "ended",
        "unknown",
        "malformed",
        "other",
    ]
    type: str
    text: str = ""
    sound_s: float = 0.0


@dataclass(frozen=True, slots=True)
class ToolCall:
    """The avatar asks for a tool's result; `AvatarLink.answer_tool` gives it. `arguments` is JSON text."""

    call_id: str
    name: str
    arguments: str


class AvatarListener(Protocol):
    """The session's side of an avatar connection."""

    def on_track(self, track: RemoteTrack) -> TrackSink:
        """A track is about to deliver packets; a second one of its kind comes from a connection that takes over."""

    def on_ready(self, link: AvatarLink) -> None:
        """Audio may be sent from now on."""

    def on_limit(self, left_s: float) -> None:
        """The service will end the session in so many seconds. It may say so at any time, and anew: the last counts."""

    def on_event(self, event: AvatarEvent) -> None: ...

    def on_tool_call(self, call: ToolCall) -> None: ...


class AvatarProvider(Protocol):
    """One avatar service, configured."""

    capabilities: frozenset[Capability]

    async def run(self, listener: AvatarListener) -> None:
        """Connect once and serve until the service ends the session. Raises ProviderError, RemoteProtocolError.

        Cancelled: closes the session at the service, within `CLOSE_TIMEOUT_S`, and the peer connection.
        """


# ---------------------------------------------------------------------------------------------- out


class TranscriptReader(Protocol):
    """What is said in a session from some moment on. Never waits."""

    def new(self) -> Sequence[Utterance]:
        """What has been said to its end since this was asked before; at most the newest hundred."""

    def rest(self) -> Sequence[Utterance]:
        """The same, and at the end what has sounded so far of what is being said."""


class Transcript(Protocol):
    """What is said in a session, for whoever writes it down."""

    def read(self) -> AbstractContextManager[TranscriptReader]:
        """From now on; the avatar is listened to while anybody reads."""


@dataclass(frozen=True, slots=True)
class Audience:
    """Who receives an output that viewers come to.

    viewers           how many are there.  repeats_asked: packets that viewers have asked for again, all together.
    keyframes_asked   how often they have asked for a keyframe.  packets_dropped: that a socket could not take at once.
    """

    viewers: int
    repeats_asked: int
    keyframes_asked: int
    packets_dropped: int


@dataclass(frozen=True, slots=True)
class OutputProgress:
    """Bytes that left for the far end (or the disk), and how many waited to leave when last looked at.

    audience            of an output that viewers come to.
    transcript_errors   utterances that could not be written beside a recording.
    """

    bytes_total: int = 0
    backlog_bytes: int = 0
    audience: Audience | None = None
    transcript_errors: int = 0


class OutputListener(Protocol):
    """The runner's side of an output."""

    def on_published(self) -> None:
        """The far end has accepted the stream; called once."""

    def on_written(self, unit: AccessUnit) -> None:
        """The last byte of the unit was handed to the kernel (or the container): added latency ends here."""

    def on_replaced(self, reason: str) -> None:
        """Another connection of this output has taken over without a break; `reason` is one word for the metrics."""

    def on_keyframe_request(self) -> None:
        """The far end wants a keyframe, as soon as there may be one; it may ask often."""


class Output(Protocol):
    """One connection of one output; the runner makes a new one for every attempt.

    audio_codec  what the container takes.  keyframe_s  how far keyframes may lie apart, None: any distance.
    """

    audio_codec: Codec
    keyframe_s: float | None

    async def run(self, units: LiveQueue, listener: OutputListener) -> None:
        """Connect, publish until `units` is finished, then close properly. Raises OutputRejected, OutputLost.

        Cancelled: closes properly too, within a deadline of its own.
        """

    def progress(self) -> OutputProgress: ...
