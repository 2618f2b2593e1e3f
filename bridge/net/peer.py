"""WebRTC peers: they receive a service's tracks or a publisher's sound, and send to one far end or to many viewers."""

from bridge.net.publisher_peer import PublisherPeer
from bridge.net.receiving_peer import ReceivingPeer
from bridge.net.sending_peer import SendingPeer
from bridge.net.viewer_peer import ViewerPeer

__all__ = ["PublisherPeer", "ReceivingPeer", "SendingPeer", "ViewerPeer"]
