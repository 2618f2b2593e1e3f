"""One LiveKit room with the avatar in it: who is there, what the avatar publishes, and who hears whose data."""

import asyncio
import secrets
import time
from collections.abc import Callable
from typing import Protocol

from livekit.protocol import models, rtc

from bridge.local_avatar.faults import Faults
from bridge.local_avatar.gestures import Mood
from bridge.local_avatar.livekit_worker import Worker
from bridge.local_avatar.options import LocalAvatarOptions
from bridge.local_avatar.performer import Performer
from bridge.media.access_unit import Codec
from bridge.protocols.livekit import parse
from bridge.protocols.livekit_data import RELIABLE, Outbox
from bridge.protocols.livekit_room import ON_BEHALF

AVATAR = "local-avatar"
# Between its leaving and its coming back.
AWAY_S = 2.0

_STATES = models.ParticipantInfo.State


class Member(Protocol):
    """Somebody in the room, as the avatar and the others know him.

    tell       sends something over the signalling.  follow: makes him watch what is there now.
    performer  what he watches.  worker: the avatar's ear for his data.
    """

    info: models.ParticipantInfo
    tell: Callable[[rtc.SignalResponse], None]
    worker: Worker

    @property
    def performer(self) -> Performer: ...

    async def follow(self) -> None: ...

    def send_data(self, label: str, message: bytes) -> None: ...


class Stage:
    """The room. Its avatar is an agent, as workers of LiveKit's agents are.

    members  those who are connected, by sid.
    """

    def __init__(self, name: str, options: LocalAvatarOptions, faults: Faults, identity: str = AVATAR) -> None:
        self.name = name
        self._identity = identity
        self.members: dict[str, Member] = {}
        self.speaker = ""  # the identity that the avatar takes its words from: whoever sent some first
        self._options, self._faults = options, faults
        self._outbox = Outbox(identity, "")
        self._last_packets: dict[str, bytes] = {}
        self._avatar: models.ParticipantInfo | None = None
        if "late-avatar" not in faults:
            self._avatar = self._made_up()

    async def run(self) -> None:
        """Let happen what was asked for; for as long as the one who came first is there."""
        await self._faults.commit(
            {"late-avatar": self._arrive, "avatar-leaves": self._go_and_return, "republish": self._republish}
        )

    @property
    def track_sids(self) -> dict[str, str]:
        """Of the avatar, by kind; empty while it is not there."""
        if self._avatar is None:
            return {}
        return {models.TrackType.Name(track.type).lower(): track.sid for track in self._avatar.tracks}

    @property
    def avatar_sid(self) -> str:
        return self._avatar.sid if self._avatar is not None else ""

    def participants(self) -> list[models.ParticipantInfo]:
        """Everybody, the avatar first."""
        avatar = [self._avatar] if self._avatar is not None else []
        return [*avatar, *(member.info for member in self.members.values())]

    def enter(self, media: Member) -> None:
        self._announce(media.info)
        self.members[media.info.sid] = media

    def leave(self, sid: str) -> None:
        media = self.members.pop(sid, None)
        if media is None:
            return
        self._last_packets.pop(sid, None)
        if media.info.identity == self.speaker:
            self.speaker = ""
        media.info.state = _STATES.DISCONNECTED
        self._announce(media.info)

    def add_track(self, media: Member, request: rtc.AddTrackRequest) -> None:
        """A participant is about to publish."""
        track = models.TrackInfo(
            sid=f"TR_{secrets.token_hex(6)}", type=request.type, name=request.name, source=request.source
        )
        media.info.tracks.append(track)
        media.info.version += 1
        published = rtc.TrackPublishedResponse(cid=request.cid, track=track)
        media.tell(rtc.SignalResponse(track_published=published))
        self._announce(media.info)

    # ------------------------------------------------------------------------------------------ data

    def route(self, sender: Member, label: str, message: str | bytes) -> None:
        """Pass a participant's packet on to those it is for. Raises RemoteProtocolError."""
        packet = parse(models.DataPacket, message)
        packet.participant_identity, packet.participant_sid = sender.info.identity, sender.info.sid
        to = set(packet.destination_identities)
        if not to or self._identity in to:
            sender.worker.take(packet)
        for member in self.members.values():
            if member is not sender and (not to or member.info.identity in to):
                member.send_data(label, packet.SerializeToString())

    def send(self, media: Member, packet: models.DataPacket) -> None:
        """A packet of the avatar's."""
        self._outbox.sid = self.avatar_sid
        data = self._outbox.pack(packet)
        before, self._last_packets[media.info.sid] = self._last_packets.get(media.info.sid), data
        copies = [data]
        if self._faults.strikes("repeat-data"):
            copies = [data, before or data, data]
        for copy in copies:
            media.send_data(RELIABLE, copy)

    # ------------------------------------------------------------------------------------------ the avatar

    def speak(self, pcm16: bytes) -> None:
        """Say this, after what is queued: PCM16, 24 kHz, mono. Everybody watches a performance of his own."""
        for member in self.members.values():
            member.performer.speak(pcm16)

    def stop_speaking(self) -> None:
        for member in self.members.values():
            member.performer.stop_speaking()

    @property
    def is_speaking(self) -> bool:
        return any(member.performer.is_speaking for member in self.members.values())

    def attend(self, mood: Mood) -> None:
        for member in self.members.values():
            member.performer.attend(mood)

    def close(self) -> None:
        """Everybody is sent away."""
        leave = rtc.LeaveRequest(reason=models.DisconnectReason.ROOM_DELETED, action=rtc.LeaveRequest.Action.DISCONNECT)
        for member in tuple(self.members.values()):
            member.tell(rtc.SignalResponse(leave=leave))

    async def _arrive(self) -> None:
        self._avatar = self._made_up()
        await self._show()

    async def _go_and_return(self) -> None:
        if self._avatar is not None:
            gone, self._avatar = self._avatar, None
            gone.state = _STATES.DISCONNECTED
            self._announce(gone)
            await self._show()
            await asyncio.sleep(AWAY_S)
        await self._arrive()

    async def _republish(self) -> None:
        if self._avatar is not None:
            del self._avatar.tracks[:]
            self._avatar.tracks.extend(self._tracks())
            self._avatar.version += 1
            await self._show()

    async def _show(self) -> None:
        """Tell everybody what the avatar publishes now, and send that to those who want it."""
        if self._avatar is not None:
            self._announce(self._avatar)
        for member in tuple(self.members.values()):
            await member.follow()

    def _announce(self, info: models.ParticipantInfo) -> None:
        update = rtc.SignalResponse(update=rtc.ParticipantUpdate(participants=[info]))
        for member in self.members.values():
            member.tell(update)

    def _made_up(self) -> models.ParticipantInfo:
        return models.ParticipantInfo(
            sid=f"PA_{secrets.token_hex(6)}",
            identity=self._identity,
            name="the local avatar",
            state=_STATES.ACTIVE,
            joined_at=int(time.time()),
            kind=models.ParticipantInfo.Kind.AGENT,
            attributes={ON_BEHALF: ""},
            is_publisher=True,
            tracks=self._tracks(),
        )

    def _tracks(self) -> list[models.TrackInfo]:
        width_px, height_px = self._options.size_px
        is_vp8 = self._options.codec is Codec.VP8 or "vp8-only" in self._faults
        return [
            models.TrackInfo(
                sid=f"TR_{secrets.token_hex(6)}",
                type=models.TrackType.VIDEO,
                source=models.TrackSource.CAMERA,
                name="avatar_video",
                mime_type="video/VP8" if is_vp8 else "video/H264",
                width=width_px,
                height=height_px,
            ),
            models.TrackInfo(
                sid=f"TR_{secrets.token_hex(6)}",
                type=models.TrackType.AUDIO,
                source=models.TrackSource.MICROPHONE,
                name="avatar_audio",
                mime_type="audio/opus",
            ),
        ]
