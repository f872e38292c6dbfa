"""Looking at runs: static pages of episodes with their images, curves, and the demo's report.

Everything a model or a tool wrote is escaped, pages load nothing from elsewhere, and only the page
with the filter may run a script.
"""

from visual_arft.viewer.pages import export
from visual_arft.viewer.report import Section, write_report
from visual_arft.viewer.server import serve

__all__ = ["Section", "export", "serve", "write_report"]
