"""What a provider has learned of its service."""

# Nobody reads more names of unknown messages than these, and a service may make up as many as it likes.
MAX_TOLD = 64


class Knowledge:
    """Outlives the sessions of one provider, so that nothing is told or tried anew at every connection.

    no_offer_before_s  when, by the event loop's clock, the service may be offered media again.
    """

    def __init__(self) -> None:
        self.no_offer_before_s = 0.0
        self._told: dict[str, set[str]] = {}

    def is_news(self, event: str, subject: str = "") -> bool:
        """Whether this is to be told for the first time. Of one event no more than `MAX_TOLD` subjects are news."""
        told = self._told.setdefault(event, set())
        if subject in told or len(told) >= MAX_TOLD:
            return False
        told.add(subject)
        return True
