"""The words that the avatar says, for whoever shows them to viewers."""

from collections.abc import Callable

from bridge.ports import AvatarEvent


class Captions:
    """Puts together what the service tells of an answer, bit by bit.

    listener  gets all that is known of the present answer whenever that has changed, and an empty text when what is
              left of it will not be said.
    """

    def __init__(self, listener: Callable[[str], None] = lambda text: None) -> None:
        self.listener = listener
        self._said = ""  # of the answer: texts that are complete
        self._current = ""  # the one that is not
        self._is_cut = False

    def on_event(self, event: AvatarEvent) -> None:
        match event.kind:
            case "response_started":
                self._said = self._current = ""
                self._is_cut = False
            case "avatar_transcript_delta" if not self._is_cut:
                self._current += event.text
                self.listener(self._said + self._current)
            case "avatar_transcript" if not self._is_cut:
                # An answer may have several texts. What came bit by bit is not put differently afterwards.
                self._said, self._current = f"{self._said}{self._current or event.text} ", ""
                self.listener(self._said)

    def cut(self) -> None:
        """The avatar stops speaking; what its service still tells of this answer is not heard."""
        self._said = self._current = ""
        self._is_cut = True
        self.listener("")
