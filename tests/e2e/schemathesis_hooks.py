"""For Schemathesis: bodies of the media types of the API that it has no idea of."""

import schemathesis
from hypothesis import strategies as st

from bridge.protocols.whip import FRAGMENT_TYPE, SDP_TYPE

OFFER = """v=0\r
o=- 1 1 IN IP4 0.0.0.0\r
s=-\r
t=0 0\r
a=group:BUNDLE 0\r
m=audio 9 UDP/TLS/RTP/SAVPF 111\r
c=IN IP4 0.0.0.0\r
a=mid:0\r
a=%s\r
a=rtcp-mux\r
a=rtpmap:111 opus/48000/2\r
a=ice-ufrag:abcd\r
a=ice-pwd:0123456789abcdef01234567\r
a=fingerprint:sha-256 %s\r
a=setup:actpass\r
"""
FINGERPRINT = ":".join(["AB"] * 32)
OFFERS = [OFFER % (direction, FINGERPRINT) for direction in ("sendonly", "recvonly")]
FRAGMENT = "a=ice-ufrag:abcd\r\na=ice-pwd:0123456789abcdef01234567\r\nm=audio 9 RTP/AVP 0\r\na=mid:0\r\n"

schemathesis.openapi.media_type(SDP_TYPE, st.sampled_from([*OFFERS, ""]).map(str.encode) | st.binary(max_size=200))
schemathesis.openapi.media_type(FRAGMENT_TYPE, st.just(FRAGMENT.encode()) | st.binary(max_size=200))


@schemathesis.serializer(SDP_TYPE, FRAGMENT_TYPE)
def as_text(context: schemathesis.SerializationContext, value: object) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")
