"""Reports of stored runs: the table for a terminal, one self-contained HTML page, files for papers."""

from __future__ import annotations

from .collection import Collection, Group, Terms, collect
from .exports import FORMATS, Format, format_of, write_export
from .page import write_page, write_report
from .terminal import format_comparison, format_table

__all__ = [
    "FORMATS", "Collection", "Format", "Group", "Terms", "collect", "format_comparison", "format_of", "format_table",
    "write_export", "write_page", "write_report",
]  # fmt: skip
