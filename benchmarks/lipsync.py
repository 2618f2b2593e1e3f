"""Sound against picture in what the bridge and an RTMP server record, over good networks and bad ones.

`python -m benchmarks.lipsync [CASE ...]`: all cases, or some. Each is a session of its own with the local avatar, which
flashes and beeps once a second; the last one, `drift`, is simulated (`benchmarks.six_hours`).
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlencode

import av

from benchmarks import six_hours
from benchmarks.beats import beats, write_tone
from benchmarks.configuration import write_configuration
from benchmarks.processes import Child, ending_properly, python
from benchmarks.report import Figure, Findings
from bridge.local_avatar.timecode import read_stamp
from bridge.media.h264 import NAL_IDR, NAL_SLICE, nal_type, parameter_sets, split_avcc
from tests.interop.nginx_rtmp import NginxRtmp, why_unavailable
from tests.net.conditions import Conditions
from tests.net.link import link_command

RECORDED_S = 22.0
# aiortc sends its first report within 1.5 s and libwebrtc pictures' within one; the local avatar's own come at once,
# which would flatter us.
REPORTS = "late-reports:1"
# The first beats after the start: before that time the reports that align the tracks are not there.
FIRST_S = 1.5
TITLE = "lipsync: sound against picture of every beat from 3 s on (clean: 2 s), in MP4, Matroska and RTMP"
OUTPUTS = ("mp4", "mkv", "rtmp")


@dataclass(frozen=True, slots=True)
class Case:
    """faults: of the avatar, as it writes them.  down, up: the network.  settled_s: from when on beats count.
    encodes: what outputs are to make of the pictures.
    """

    faults: Sequence[str] = ()
    down: Conditions | None = None
    up: Conditions | None = None
    settled_s: float = 3.0
    encodes: Mapping[str, object] = field(default_factory=dict)


_LOSSY = Conditions(delay_ms=25, loss=0.01)
CASES = {
    "clean": Case(settled_s=2.0),
    "video_delay": Case(["video-delay:0.08"]),
    "loss": Case(down=_LOSSY, up=_LOSSY),
    "jitter": Case(down=Conditions(delay_ms=45, jitter_ms=20), up=Conditions(delay_ms=25)),
    "reset": Case(["timestamp-reset:10"]),
    # The avatar's 25 pictures a second: each lies up to half a picture beside its time. Small, for two encoders run.
    "encode": Case(encodes={"fps": 30, "size": "360x640"}),
}
BOUNDS = {
    **{f"offset_max_abs_ms_{case}": 10.0 for case in (*CASES, "drift")},
    "offset_max_abs_ms_encode": 1000 / 30 / 2 + 10,
    "offset_mean_abs_ms_encode": 5.0,
    **{f"offset_max_abs_ms_clean_{output}": 10.0 for output in OUTPUTS},
    "first_beats_max_abs_ms_video_delay": 20.0,
    "lost_at_start_video_delay": 0,
    "drift_slope_ms_per_hour": 1.0,
}


def measure(cases: Sequence[str] = (*CASES, "drift")) -> Findings:
    figures: dict[str, Figure] = {}
    notes = ["Above 0 sound is late."]
    for name in cases:
        find = _drift if name == "drift" else _missing if why_unavailable() else _record
        found, note = find(name)
        figures |= found
        notes.append(f"{name}: {note}.")
    return Findings(
        title=TITLE,
        figures=figures,
        at_most={name: bound for name, bound in BOUNDS.items() if name in figures},
        notes=notes,
    )


def _missing(name: str) -> tuple[Mapping[str, Figure], str]:
    return {f"offset_max_abs_ms_{name}": None}, f"not measured: {why_unavailable()}"


def _drift(_: str) -> tuple[Mapping[str, Figure], str]:
    found = six_hours.simulate()
    figures = {
        "offset_max_abs_ms_drift": max(abs(offset_ms) for _, offset_ms in found.offsets_ms),
        "drift_slope_ms_per_hour": abs(found.slope_ms_per_hour),
        "drift_measured_ppm": found.ppm,
    }
    lowest_ms, highest_ms = (pick(offset_ms for _, offset_ms in found.offsets_ms) for pick in (min, max))
    return figures, (
        f"{len(found.offsets_ms)} beats, {lowest_ms:+.1f} to {highest_ms:+.1f} ms; RTMP up to {found.last_ms} ms, "
        f"{found.rtp_wraps} RTP wraps; session time {found.ahead_s:+.3f} s from our clock at the end; "
        f"simulated in {found.took_s:.0f} s"
    )


def _record(name: str) -> tuple[Mapping[str, Figure], str]:
    case = CASES[name]
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lipsync-")))
        nginx = stack.enter_context(NginxRtmp(directory / "nginx"))
        avatar = stack.enter_context(
            Child(python("bridge", "avatar", "--listen", "127.0.0.1:0", "--flash", "--timecode"))
        )
        url = avatar.first_line()
        if case.down or case.up:
            link = stack.enter_context(Child(python(*link_command(url, down=case.down, up=case.up))))
            url = link.first_line()
        # A second is a whole number of encoded pictures: all beats lie at one distance from them, which a jump at the
        # first reports would leave to chance. Other distances are for the unit tests of `outputs.cadence`.
        faults = case.faults if case.encodes else (REPORTS, *case.faults)
        url += "?" + urlencode([("fault", fault) for fault in faults])
        urls = {"rtmp": f"{nginx.rtmp_url}/{name}", "mp4": f"file:{name}.mp4", "mkv": f"file:{name}.mkv"}
        outputs = {output: {"url": url} | dict(case.encodes) for output, url in urls.items()}
        config = write_configuration(directory, url, outputs, speech=write_tone(directory / "tone.wav"), loop=False)
        bridge = stack.enter_context(Child(python("bridge", "run", str(config))))
        time.sleep(RECORDED_S)
        bridge.finish()
        recordings = {
            "mp4": directory / f"{name}.mp4",
            "mkv": directory / f"{name}.mkv",
            "rtmp": nginx.finished_recording(name),
        }
        found = {output: beats(path) for output, path in recordings.items()}
        n_lost = None if case.encodes else lost_at_start(recordings["mkv"])  # encoded pictures carry no stamps
    offsets_ms = {
        output: [1000 * beat.offset_s for beat in counted if beat.time_s >= case.settled_s]
        for output, counted in found.items()
    }
    worst_ms = {output: max(map(abs, each)) for output, each in offsets_ms.items()}
    key = f"offset_max_abs_ms_{name}"
    figures: dict[str, Figure] = {key: max(worst_ms.values())}
    if name == "clean":
        figures |= {f"{key}_{output}": worst_ms[output] for output in OUTPUTS}
        figures["beats"] = min(map(len, offsets_ms.values()))
    if name == "encode":
        figures["offset_mean_abs_ms_encode"] = max(abs(statistics.fmean(each)) for each in offsets_ms.values())
    if name == "video_delay":
        figures["first_beats_max_abs_ms_video_delay"] = max(
            1000 * abs(beat.offset_s) for counted in found.values() for beat in counted if beat.time_s >= FIRST_S
        )
        figures["lost_at_start_video_delay"] = n_lost
    spans = (f"{output} {min(each):+.1f} to {max(each):+.1f}" for output, each in offsets_ms.items())
    first = (f"{1000 * beat.offset_s:+.1f} at {beat.time_s:.1f} s" for beat in found["mkv"][:4])
    return figures, f"{', '.join(spans)} ms; first beats {', '.join(first)}"


def lost_at_start(recording: Path) -> int:
    """Pictures and packets of sound missing in the three seconds behind the first keyframe of a Matroska file.

    Of pictures of the local avatar, which leaves some out itself when its machine is busy: those that it coded.
    """
    n_lost = 0
    last_number, last_frame_num = -1, 0
    sounds_s: list[float] = []
    with av.open(str(recording)) as container:
        extradata = container.streams.video[0].codec_context.extradata
        (sps,), _ = parameter_sets(bytes(extradata or b""))
        # H.264 §7.3.2.1.1, of a profile without chroma_format_idc: seq_parameter_set_id, log2_max_frame_num_minus4.
        n_bits = 4 + _Bits(sps[4:]).exp_golomb(skipped=1)
        for packet in container.demux():
            if packet.pts is None or not packet.size or packet.pts * packet.time_base > 3:
                continue
            if packet.stream.type == "audio":
                sounds_s.append(float(packet.pts * packet.time_base))
                continue
            stamp = read_stamp(bytes(packet))
            coded = next(nal for nal in split_avcc(bytes(packet)) if nal_type(nal) in (NAL_SLICE, NAL_IDR))
            bits = _Bits(coded[1:])
            bits.exp_golomb(skipped=2)  # §7.3.3: first_mb_in_slice, slice_type, pic_parameter_set_id
            frame_num = bits.read(n_bits)
            assert stamp is not None
            if packet.is_keyframe:  # it counts anew: what was coded before it cannot be told from what was left out
                n_lost += stamp[0] - last_number - 1 if last_number >= 0 else 0
            else:
                n_lost += (frame_num - last_frame_num - 1) % 2**n_bits
            last_number, last_frame_num = stamp[0], frame_num
    # Packets of 20 ms, and Matroska counts milliseconds. What is left open where sound jumps is less than a packet.
    return n_lost + sum(int((later - earlier + 0.001) / 0.020) - 1 for earlier, later in pairwise(sounds_s))


class _Bits:
    """Reads bits of a NAL unit (H.264 §7.2, §9.1)."""

    def __init__(self, data: bytes) -> None:
        data = data[:40].replace(b"\0\0\3", b"\0\0")
        self._left = "".join(f"{byte:08b}" for byte in data)

    def read(self, n_bits: int) -> int:
        value, self._left = int(self._left[:n_bits], 2), self._left[n_bits:]
        return value

    def exp_golomb(self, skipped: int = 0) -> int:
        """One number, behind others."""
        for _ in range(skipped + 1):
            n_zeros = self._left.index("1")
            self._left = self._left[n_zeros:]
            value = self.read(n_zeros + 1) - 1
        return value


if __name__ == "__main__":
    with ending_properly():
        measure(sys.argv[1:] or (*CASES, "drift")).show()
