"""Which parameter sets a picture needs, of all that its sender has sent."""

from collections.abc import Iterable

from bridge.errors import RemoteProtocolError
from bridge.media.h264 import (
    NAL_SPS,
    nal_type,
    parse_sps,
    picture_set_ids,
    sequence_set_id,
    slice_picture_set_id,
)


class ParameterSets:
    """The newest SPS and PPS of every id. Ids are few, so there is no need to forget (H.264 §7.4.1.2.1)."""

    def __init__(self) -> None:
        self._sps: dict[int, bytes] = {}
        self._pps: dict[int, tuple[int, bytes]] = {}  # with the id of its SPS

    def adopt(self, nal: bytes) -> None:
        """Take an SPS or a PPS. Raises RemoteProtocolError on a broken one."""
        if nal_type(nal) == NAL_SPS:
            number = sequence_set_id(nal)
            if self._sps.get(number) != nal:
                parse_sps(nal)
                self._sps[number] = nal
        else:
            number, sequence_set = picture_set_ids(nal)
            self._pps[number] = sequence_set, nal

    def of_picture(self, slices: Iterable[bytes]) -> tuple[bytes, list[bytes]] | None:
        """The SPS and the PPS that a picture's slices refer to; None when one of them has not come.

        Raises RemoteProtocolError when a slice cannot be read, or when they refer to several SPS (H.264 §7.4.3).
        """
        numbers = sorted({slice_picture_set_id(coded_slice) for coded_slice in slices})
        if any(number not in self._pps for number in numbers):
            return None
        sequence_sets = {self._pps[number][0] for number in numbers}
        if len(sequence_sets) != 1:
            raise RemoteProtocolError("the slices of one H.264 picture refer to several sequence parameter sets")
        sps = self._sps.get(sequence_sets.pop())
        return None if sps is None else (sps, [self._pps[number][1] for number in numbers])
