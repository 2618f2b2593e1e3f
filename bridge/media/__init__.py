"""What flows: audio blocks, RTP packets, access units, and the arithmetic of their clocks."""
