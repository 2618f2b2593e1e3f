"""Who is in a LiveKit room, which of them is the avatar, and which of its tracks are to be received.

Source: livekit/protocol, protobufs/livekit_models.proto; livekit/agents, voice/avatar (workers publish a camera and a
microphone).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from livekit.protocol import models, rtc

from bridge.media.access_unit import Kind

ParticipantKind = Literal["agent", "standard", "ingress", "egress", "sip"]

_State = models.ParticipantInfo.State
_Source = models.TrackSource
_KINDS: dict[ParticipantKind, models.ParticipantInfo.Kind] = {
    "standard": models.ParticipantInfo.Kind.STANDARD,
    "ingress": models.ParticipantInfo.Kind.INGRESS,
    "egress": models.ParticipantInfo.Kind.EGRESS,
    "sip": models.ParticipantInfo.Kind.SIP,
    "agent": models.ParticipantInfo.Kind.AGENT,
}
# Best first. An empty one is told once the track flows; RED is sent as Opus to whoever does not know it.
_PICTURE_TYPES = ("video/h264", "video/vp8", "")
_SOUND_TYPES = ("audio/opus", "audio/red", "")
# A screen is no face.
_PICTURE_SOURCES = (_Source.CAMERA, _Source.UNKNOWN)
_SOUND_SOURCES = (_Source.MICROPHONE, _Source.UNKNOWN)
# `lk.publish_on_behalf` of a worker names the agent that it speaks for.
ON_BEHALF = "lk.publish_on_behalf"


@dataclass(frozen=True, slots=True)
class Choice:
    """Which participant is the avatar: the one of this identity, else the first of this kind that shows pictures.

    None: whoever it is. A worker that publishes on behalf of an agent goes before others.
    """

    identity: str | None = None
    kind: ParticipantKind | None = None

    def fits(self, participant: models.ParticipantInfo) -> bool:
        if self.identity is not None:
            return participant.identity == self.identity
        is_of_kind = self.kind is None or participant.kind == _KINDS[self.kind]
        return is_of_kind and any(track.type == models.TrackType.VIDEO for track in participant.tracks)


@dataclass
class Room:
    """What a server has told of a room, and what we have asked of it.

    avatar   the chosen participant; None: it is not there.
    tracks   the sids that are subscribed to.
    unusable sids of tracks that cannot be received, in a codec that we do not know.
    """

    choice: Choice
    own_identity: str = ""
    avatar: models.ParticipantInfo | None = None
    tracks: dict[Kind, str] = field(default_factory=dict)
    unusable: set[str] = field(default_factory=set)
    _others: dict[str, models.ParticipantInfo] = field(default_factory=dict)

    @property
    def identities(self) -> list[str]:
        """Everybody else, for messages."""
        return sorted(participant.identity for participant in self._others.values())

    def update(self, participants: Iterable[models.ParticipantInfo]) -> list[rtc.SignalRequest]:
        """Take news; what is to be asked of the server because of them. News that have been overtaken are dropped."""
        for participant in participants:
            known = self._others.get(participant.sid)
            if participant.identity == self.own_identity or not participant.sid:
                continue
            if participant.state == _State.DISCONNECTED:
                self._others.pop(participant.sid, None)
            elif known is None or participant.version >= known.version:
                self._others[participant.sid] = participant
        self.avatar = self._choose()
        return self._subscribe()

    def reject(self, sids: Iterable[str]) -> list[rtc.SignalRequest]:
        """Tracks prove to be of no use: what is to be asked of the server in their place."""
        rejected = set(sids) & set(self.tracks.values())
        self.unusable |= rejected
        return self._subscribe() if rejected else []

    def _choose(self) -> models.ParticipantInfo | None:
        fitting = filter(self.choice.fits, self._others.values())
        # A participant that is connecting anew is there twice for a while: the newest counts.
        ranked = sorted(fitting, key=lambda each: (ON_BEHALF not in each.attributes, -each.joined_at))
        present = self.avatar.sid if self.avatar is not None else ""
        if self.choice.identity is None and present in {each.sid for each in ranked}:
            return self._others[present]
        return ranked[0] if ranked else None

    def _subscribe(self) -> list[rtc.SignalRequest]:
        wanted: dict[Kind, str] = {}
        if self.avatar is not None:
            for kind, track in (("video", self._picture(self.avatar)), ("audio", self._sound(self.avatar))):
                if track is not None:
                    wanted["video" if kind == "video" else "audio"] = track.sid
        gone = set(self.tracks.values()) - set(wanted.values())
        new = set(wanted.values()) - set(self.tracks.values())
        picture = wanted.get("video")
        self.tracks = wanted
        requests = [_subscription(gone, False)] if gone else []
        if new:
            requests.append(_subscription(new, True))
        if picture in new and self.avatar is not None:
            requests.append(_full_size(next(t for t in self.avatar.tracks if t.sid == picture)))
        return requests

    def _picture(self, participant: models.ParticipantInfo) -> models.TrackInfo | None:
        return self._best(participant, models.TrackType.VIDEO, _PICTURE_SOURCES, _PICTURE_TYPES)

    def _sound(self, participant: models.ParticipantInfo) -> models.TrackInfo | None:
        return self._best(participant, models.TrackType.AUDIO, _SOUND_SOURCES, _SOUND_TYPES)

    def _best(
        self,
        participant: models.ParticipantInfo,
        kind: models.TrackType,
        sources: tuple[models.TrackSource, ...],
        types: tuple[str, ...],
    ) -> models.TrackInfo | None:
        ranked: list[tuple[int, int, int, models.TrackInfo]] = []
        for number, track in enumerate(participant.tracks):
            if track.type != kind or track.source not in sources:
                continue
            known = [types.index(name) for name in _types(track) if name in types]
            if not known:
                self.unusable.add(track.sid)
            if track.sid not in self.unusable:
                # Of equals the one that was published last: a publisher's old one may be about to go.
                ranked.append((sources.index(track.source), min(known), -number, track))
        return min(ranked, key=lambda each: each[:3])[3] if ranked else None


def _types(track: models.TrackInfo) -> set[str]:
    """MIME types that a track is published in; a publisher may offer a second one for those who lack the first."""
    return {track.mime_type.lower(), *(codec.mime_type.lower() for codec in track.codecs)} - (
        {""} if track.codecs or track.mime_type else set()
    )


def _subscription(sids: Iterable[str], subscribe: bool) -> rtc.SignalRequest:
    return rtc.SignalRequest(subscription=rtc.UpdateSubscription(track_sids=sorted(sids), subscribe=subscribe))


def _full_size(track: models.TrackInfo) -> rtc.SignalRequest:
    """The largest layer, where a track is sent in several sizes."""
    settings = rtc.UpdateTrackSettings(
        track_sids=[track.sid], quality=models.VideoQuality.HIGH, width=track.width, height=track.height
    )
    return rtc.SignalRequest(track_setting=settings)
