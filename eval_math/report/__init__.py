"""Reports of stored runs: the table for a terminal and one self-contained HTML page."""

from __future__ import annotations

from .collection import Collection, Group, collect
from .page import write_page, write_report
from .terminal import format_table

__all__ = ["Collection", "Group", "collect", "format_table", "write_page", "write_report"]
