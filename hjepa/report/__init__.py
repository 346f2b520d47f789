"""One self-contained HTML page about a run: `hjepa report RUN`."""

from hjepa.report.page import write_report

__all__ = ["write_report"]
