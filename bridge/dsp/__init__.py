"""Any sound in, PCM16 at 24 kHz, mono, out. Pure: no clock, no thread, no event loop."""
