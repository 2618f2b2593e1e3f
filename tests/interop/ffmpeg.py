"""The FFmpeg programs that recordings are played with: the distribution's, and version 9."""

from tests.conftest import require_program, unavailable

VERSIONS = ("distribution", "9")


def ffmpeg(version: str) -> str:
    """The path of one of `VERSIONS`; without it the test is skipped, on a CI machine it fails."""
    if version == "distribution":
        return require_program("ffmpeg")
    try:
        from imageio_ffmpeg import get_ffmpeg_exe
    except ImportError:
        return unavailable("FFmpeg 9 is not installed (tests/peers/requirements.lock)")
    path: str = get_ffmpeg_exe()
    return path
