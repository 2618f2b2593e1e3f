"""WebRTC peers: one that receives a service's tracks, one a publisher's sound, one that sends ready access units."""

from bridge.net.publisher_peer import PublisherPeer
from bridge.net.receiving_peer import ReceivingPeer
from bridge.net.sending_peer import SendingPeer

__all__ = ["PublisherPeer", "ReceivingPeer", "SendingPeer"]
