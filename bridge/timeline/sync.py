"""Lip-sync: two RTP clocks with random origins become one session time.

Sound is the master. Its units are spaced by their RTP timestamps alone, so session time runs at the pace of the
sender's audio clock; pictures are moved until both tracks agree with the sender's NTP clock (RFC 3550 §6.4.1).

Until both tracks have a sender report, they are aligned by how fast their packets arrive at best, which pictures follow
quickly at first; nothing is held back for the reports. With the first pair the track that is early jumps forward, once;
if that pair was wild, the third outvotes it. From then on the pictures creep. No track ever steps back.

The sender's NTP clock is its wall clock, which steps (NTP, a virtual machine that wakes up). So only what both tracks
report at about the same time is compared, and believed as far as arrivals allow.

The sender's crystal is another one than ours, and nothing is resampled to ours: session time follows the sender, and
lies further and further before or behind our clock. Whoever takes over from it begins where it stands by then.
"""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median_low
from types import MappingProxyType

from bridge.media.access_unit import Kind
from bridge.media.clock import NS_PER_MS, NS_PER_S, OPUS_CLOCK_HZ, VIDEO_CLOCK_HZ, ticks_to_ns
from bridge.timeline.drift import DriftMeter

CLOCK_HZ: dict[Kind, int] = {"audio": OPUS_CLOCK_HZ, "video": VIDEO_CLOCK_HZ}

# Less is not worth a jump: a ninth of the 45 ms by which sound may lead before anybody notices (ITU-R BT.1359).
JUMP_NS = 5 * NS_PER_MS
# What anybody notices (ITU-R BT.1359): once three pairs have outvoted a wild first one, it is not crept away for long.
NOTICED_NS = 45 * NS_PER_MS
# Creeping: 0.2 ms per picture at 25 per second, which follows any crystal (100 ppm is 0.1 ms per second) unseen.
CREEP_NS_PER_S = 5 * NS_PER_MS
# The unit that a track begins with may be late: a keyframe takes an encoder longer, 20 ms on a busy machine. The next
# ones tell. So for as long as sound takes to send fifty packets, and without reports, a picture moves by a twentieth of
# its duration, which nobody sees, and 20 ms are over in less than half a second.
SETTLING_NS = NS_PER_S
SETTLE_NS_PER_S = 50 * NS_PER_MS
# More than this would take minutes to creep: the sender restarted a media clock without a word. Jump again.
LOST_SYNC_NS = 500 * NS_PER_MS
# A timestamp this far ahead of the time that passed, or behind its predecessor, is another clock's: no network
# delivers early. One that lags may be media that queued on the way (TURN runs over TCP too), and is believed longer.
LEAP_NS = NS_PER_S
LAG_NS = 5 * NS_PER_S
# RTMP and Matroska count milliseconds: units closer than that would share a timestamp.
MIN_STEP_NS = NS_PER_MS
# aiortc stamps a report with the time of its last packet, which scatters by 2 ms; the median of five is steadier.
N_PAIRS = 5
# From three pairs on the median is proof against a single wild one: a wall clock that steps spoils one pair.
N_SURE_PAIRS = 3
# How much longer one track may travel than the other. Both share one path, best arrivals know no queues, and a live
# encoder holds a few pictures, 0.3 s at 10 per second: this is three times that. Reports that say more are wrong.
MAX_SKEW_NS = NS_PER_S
# How far behind what is on air meanwhile a connection may begin: half of what pictures catch up (`timeline.splice`).
# Were it nothing, the late first unit of each connection that takes over would put the broadcast ahead for good.
BEHIND_ON_AIR_NS = 100 * NS_PER_MS
# How long a best arrival counts. Two spans are kept, so the best is always over the last 5 to 10 s.
ARRIVAL_SPAN_NS = 5 * NS_PER_S


@dataclass(slots=True)
class _Track:
    """Where one RTP clock stands. media_ns is its time in nanoseconds; arrivals are on session time.

    began_ns        arrival of the first unit.
    offset_ns       a unit's place is media_ns + offset_ns.
    best_ns         least arrival - media_ns of this span, best_before_ns of the span before.
    """

    began_ns: int
    offset_ns: int
    last_pts_ns: int
    last_media_ns: int
    last_arrival_ns: int
    best_ns: int
    best_before_ns: int
    span_end_ns: int

    @property
    def behind_ns(self) -> int:
        """Least arrival - media_ns of late."""
        return min(self.best_ns, self.best_before_ns)

    @property
    def transit_ns(self) -> int:
        """How long after its place a unit arrives at best; negative when it arrives before."""
        return self.behind_ns - self.offset_ns

    def is_same_clock(self, media_ns: int, arrival_ns: int) -> bool:
        step_ns = media_ns - self.last_media_ns
        ahead_ns = step_ns - (arrival_ns - self.last_arrival_ns)
        return step_ns >= -LEAP_NS and -LAG_NS <= ahead_ns <= LEAP_NS

    def note_arrival(self, media_ns: int, arrival_ns: int) -> None:
        behind_ns = arrival_ns - media_ns
        if arrival_ns >= self.span_end_ns:
            self.best_before_ns, self.best_ns = self.best_ns, behind_ns
            self.span_end_ns = arrival_ns + ARRIVAL_SPAN_NS
        elif behind_ns < self.best_ns:
            self.best_ns = behind_ns
        self.last_media_ns, self.last_arrival_ns = media_ns, arrival_ns


class SessionTimeline:
    """Places the units of one connection's two tracks on session time.

    origin_ns    `time.monotonic_ns` at which the session began.
    earliest_ns  per track: no unit is placed before it. A session that reconnects passes what its outputs have seen.
    on_air_ns    per track, what outputs see by now, if another connection is on air until this one takes over.

    nudged_units      units moved because they would not have been later than the one before.
    rejected_reports  pairs of sender reports set aside, as they contradict the arrivals.
    drift             of the sender's media clock: that of sound, without sound that of pictures.

    A clock that starts anew (new SSRC, reset timestamps, reset sender) is noticed by its leap, and placed by arrival
    with the transit times known from before, until there are reports again.
    """

    def __init__(
        self, origin_ns: int, earliest_ns: Mapping[Kind, int], on_air_ns: Mapping[Kind, int] = MappingProxyType({})
    ) -> None:
        self.nudged_units = 0
        self.rejected_reports = 0
        self.drift = DriftMeter()
        self._origin_ns = origin_ns
        self._earliest_ns = earliest_ns
        self._on_air_ns = on_air_ns
        self._tracks: dict[Kind, _Track] = {}
        # NTP time - media_ns by each track's newest report, until the other track has one as well.
        self._unpaired_ns: dict[Kind, int] = {}
        # The difference of both, video - audio: of the last pairs, and their median.
        self._gaps_ns: deque[int] = deque(maxlen=N_PAIRS)
        self._report_gap_ns: int | None = None
        self._transit_gap_ns = 0  # how much longer pictures travel than sound, as far as reports told
        self._has_jumped = False
        self._moved: set[Kind] = set()

    def place(self, kind: Kind, rtp_ticks: int, arrival_ns: int) -> int:
        """Session time of a unit, strictly later than that of the track's unit before.

        arrival_ns is when the unit's first packet was received, for the last one of a big keyframe comes late.
        A unit that would not be later is moved and counted.
        """
        media_ns = ticks_to_ns(rtp_ticks, CLOCK_HZ[kind])
        if not self._tracks:
            # What outputs have seen may lie ahead of the clock: then this whole connection is placed that much later.
            latest_ns = (
                *self._earliest_ns.values(),
                *(pts_ns - BEHIND_ON_AIR_NS for pts_ns in self._on_air_ns.values()),
            )
            self._origin_ns = min(self._origin_ns, arrival_ns - max(latest_ns, default=0))
        arrival_ns -= self._origin_ns
        track = self._tracks.get(kind)
        if track is None or not track.is_same_clock(media_ns, arrival_ns):
            track = self._begin(kind, media_ns, arrival_ns)
        else:
            elapsed_ns = arrival_ns - track.last_arrival_ns
            track.note_arrival(media_ns, arrival_ns)
            if kind == "video":
                limit_ns = max(0, min(elapsed_ns, NS_PER_S)) * self._pace_ns_per_s(arrival_ns) // NS_PER_S
                track.offset_ns += max(-limit_ns, min(self._video_lead_ns(), limit_ns))
        pts_ns = media_ns + track.offset_ns
        if kind == "audio" or len(self._tracks) < 2:
            self.drift.note(pts_ns, arrival_ns)
        if pts_ns < track.last_pts_ns + MIN_STEP_NS:
            pts_ns = track.last_pts_ns + MIN_STEP_NS
            self.nudged_units += 1
        track.last_pts_ns = pts_ns
        return pts_ns

    def on_sender_report(self, kind: Kind, rtp_ticks: int, ntp_ns: int, arrival_ns: int) -> None:
        """Take the time a sender says its media clock has. A report of a clock not yet heard of is ignored."""
        if ntp_ns == 0:
            return  # the sender had not sent anything yet
        media_ns = ticks_to_ns(rtp_ticks, CLOCK_HZ[kind])
        track = self._tracks.get(kind)
        if track is not None and not track.is_same_clock(media_ns, arrival_ns - self._origin_ns):
            return
        self._unpaired_ns[kind] = ntp_ns - media_ns
        if len(self._unpaired_ns) < 2:
            return
        gap_ns = self._unpaired_ns["video"] - self._unpaired_ns["audio"]
        self._unpaired_ns.clear()
        if not self._is_plausible(gap_ns):
            self.rejected_reports += 1
            return
        self._gaps_ns.append(gap_ns)
        self._report_gap_ns = median_low(self._gaps_ns)
        self._jump()

    def has_moved(self, kind: Kind) -> bool:
        """Whether the unit placed last is no continuation: its track has jumped, or begun on another clock, before it.

        To be asked once, after each.
        """
        if kind not in self._moved:
            return False
        self._moved.remove(kind)
        return True

    @property
    def origin_ns(self) -> int:
        """`time.monotonic_ns` of session time 0, going by what arrives now: it moves as the sender's clock drifts."""
        return self._origin_ns + self.drift.moved_ns

    @property
    def av_offset_s(self) -> float:
        """What is left to correct: > 0 when sound is early (ITU-R BT.1359).

        Measured by the sender's reports; without them by arrivals, which cannot tell a delay from a shift. 0 until
        both tracks have begun.
        """
        return -self._video_lead_ns() / NS_PER_S

    @property
    def is_synchronised(self) -> bool:
        """Whether sender reports of both tracks have been believed: before, `av_offset_s` knows arrivals only."""
        return self._report_gap_ns is not None

    def _pace_ns_per_s(self, arrival_ns: int) -> int:
        """How fast pictures may move."""
        began_ns = max(track.began_ns for track in self._tracks.values())
        is_settling = self._report_gap_ns is None and arrival_ns - began_ns < SETTLING_NS
        return SETTLE_NS_PER_S if is_settling else CREEP_NS_PER_S

    def _video_lead_ns(self) -> int:
        """How far pictures are placed too early; negative: too late."""
        if len(self._tracks) < 2:
            return 0
        audio, video = self._tracks["audio"], self._tracks["video"]
        if self._report_gap_ns is not None:
            return self._report_gap_ns - (video.offset_ns - audio.offset_ns)
        return video.transit_ns - audio.transit_ns - self._transit_gap_ns

    def _is_plausible(self, gap_ns: int) -> bool:
        """Whether the arrivals allow that gap; any gap while there is only one track."""
        if len(self._tracks) < 2:
            return True
        return abs(self._tracks["video"].behind_ns - self._tracks["audio"].behind_ns - gap_ns) <= MAX_SKEW_NS

    def _jump(self) -> None:
        """Move the early track forward, at the first pair of reports or when creeping would be hopeless."""
        if len(self._tracks) < 2:
            return
        n_pairs = len(self._gaps_ns)
        if not self._has_jumped:
            least_ns = JUMP_NS
        elif n_pairs < N_SURE_PAIRS:
            return
        else:
            least_ns = NOTICED_NS if n_pairs == N_SURE_PAIRS else LOST_SYNC_NS
        lead_ns = self._video_lead_ns()
        if abs(lead_ns) > least_ns:
            early: Kind = "video" if lead_ns > 0 else "audio"
            self._tracks[early].offset_ns += abs(lead_ns)
            self._moved.add(early)
        self._has_jumped = True

    def _begin(self, kind: Kind, media_ns: int, arrival_ns: int) -> _Track:
        """Start a track, or start it anew on another clock."""
        other_kind: Kind = "audio" if kind == "video" else "video"
        before, other = self._tracks.get(kind), self._tracks.get(other_kind)
        last_pts_ns = self._earliest_ns.get(kind, 0) - MIN_STEP_NS
        transit_ns = other.transit_ns if other is not None else 0
        if before is not None:
            if self._report_gap_ns is not None and other is not None:
                audio, video = self._tracks["audio"], self._tracks["video"]
                self._transit_gap_ns = video.transit_ns - audio.transit_ns - self._video_lead_ns()
            last_pts_ns, transit_ns = before.last_pts_ns, before.transit_ns
            self._forget_reports(kind)
            self._has_jumped = False
            self._moved.add(kind)
        behind_ns = arrival_ns - media_ns
        track = self._tracks[kind] = _Track(
            began_ns=arrival_ns,
            offset_ns=behind_ns - transit_ns,
            last_pts_ns=last_pts_ns,
            last_media_ns=media_ns,
            last_arrival_ns=arrival_ns,
            best_ns=behind_ns,
            best_before_ns=behind_ns,
            span_end_ns=arrival_ns + ARRIVAL_SPAN_NS,
        )
        if self._report_gap_ns is not None and not self._is_plausible(self._report_gap_ns):
            # Reported before the track began, on a clock that it has left since.
            self.rejected_reports += 1
            self._forget_reports(kind)
        if self._report_gap_ns is not None and other is not None:
            track.offset_ns = other.offset_ns + (self._report_gap_ns if kind == "video" else -self._report_gap_ns)
            self._has_jumped = True
        track.offset_ns = max(track.offset_ns, last_pts_ns + MIN_STEP_NS - media_ns)
        return track

    def _forget_reports(self, kind: Kind) -> None:
        self._unpaired_ns.pop(kind, None)
        self._gaps_ns.clear()
        self._report_gap_ns = None
