"""WebRTC peers: one that receives a service's tracks, one that sends ready access units."""

from bridge.net.receiving_peer import ReceivingPeer
from bridge.net.sending_peer import SendingPeer

__all__ = ["ReceivingPeer", "SendingPeer"]
