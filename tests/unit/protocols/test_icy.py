import random

from bridge.protocols.icy import TitleStripper, is_station, metadata_interval


def test_titles_are_taken_out_wherever_the_stream_is_cut() -> None:
    rng = random.Random(1)
    sound = rng.randbytes(9_800)
    stream = b""
    for start in range(0, len(sound), 700):
        n_units = rng.choice((0, 0, 1, 255))
        stream += sound[start : start + 700] + bytes([n_units]) + b"T" * (16 * n_units)
    for _ in range(20):
        stripper, heard, at = TitleStripper(700), b"", 0
        while at < len(stream):
            step = rng.choice((1, 2, 15, 700, 5_000))
            heard += stripper.push(stream[at : at + step])
            at += step
        assert heard == sound


def test_headers_tell_a_station_and_its_interval() -> None:
    assert is_station({"icy-br": "128"}) and not is_station({"content-type": "audio/mpeg"})
    assert metadata_interval({"icy-metaint": "16000"}) == 16_000
    for nonsense in ("", "-1", "x", "²", "9" * 30):
        assert metadata_interval({"icy-metaint": nonsense}) == 0
    assert TitleStripper(0).push(b"sound") == b"sound"
