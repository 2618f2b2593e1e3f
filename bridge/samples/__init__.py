"""Sound that ships with the package."""

from pathlib import Path

# Twelve seconds of English, 22.05 kHz mono; make_speech.sh beside it makes it.
SPEECH = Path(__file__).with_name("speech.flac")
