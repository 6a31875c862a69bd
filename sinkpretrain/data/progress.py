"""How far a preparation is."""

from sinkpretrain.progress import Display


class Documents(Display):
    """Shows documents, megabytes (10^6 bytes) and the speed since this process began; use it in a `with` block."""

    def __init__(self, title: str, total: int | None, done: int = 0) -> None:
        super().__init__(title, total, done)
        self._bytes = 0

    def read(self, documents: int, text_bytes: int) -> None:
        """Some more documents are done."""
        self._bytes += text_bytes
        self.advance(documents)

    def beside_bar(self) -> str:
        """What stands beside the bar."""
        return self.line()

    def line(self) -> str:
        """What stands in a line without a bar."""
        megabytes, of = self._bytes / 1e6, f" of {self.total:,}" if self.total else ""
        return f"{self.title}: {self.done:,}{of} documents, {megabytes:,.1f} MB, {megabytes / self.seconds:.2f} MB/s"
