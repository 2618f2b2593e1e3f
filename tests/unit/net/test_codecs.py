from bridge.media.access_unit import Codec
from bridge.net.codecs import H264_PROFILE_LEVEL_IDS, h264_preferences, preferences


def test_every_profile_can_be_agreed_on_in_both_packetization_modes() -> None:
    pairs = [
        (codec.parameters["profile-level-id"], codec.parameters["packetization-mode"])
        for codec in h264_preferences()
        if codec.name == "H264"
    ]
    assert sorted(pairs) == sorted((profile, mode) for profile in H264_PROFILE_LEVEL_IDS for mode in "01")


def test_preferences_name_one_codec_and_retransmission() -> None:
    assert {codec.name for codec in h264_preferences()} == {"H264", "rtx"}
    assert [codec.name for codec in preferences(Codec.OPUS)] == ["opus"]
    assert {codec.name for codec in preferences(Codec.VP8)} == {"VP8", "rtx"}


def test_h264_can_be_narrowed_to_a_profile_and_a_mode() -> None:
    chosen = [codec.parameters for codec in h264_preferences(["4d001f"], ["1"]) if codec.name == "H264"]
    assert [(c["profile-level-id"], c["packetization-mode"]) for c in chosen] == [("4d001f", "1")]
    assert len(h264_preferences(["4d001f"])) == 3
