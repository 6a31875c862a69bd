"""The report as its reader gets it."""

from html.parser import HTMLParser
from urllib.parse import unquote


class Page(HTMLParser):
    """Tags with their attributes, rows of table cells, list items, and the visible text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.rows, self.items, self.text, self.source = [], [], [], "", text
        self.in_cell = self.in_item = False
        self.shown = True
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.shown = tag not in ("style", "script")
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        elif tag == "li":
            self.items.append("")
        if tag in ("td", "th", "li"):
            self.in_cell, self.in_item = tag != "li", tag == "li"

    def handle_data(self, data):
        self.text += data if self.shown else ""
        if self.in_cell:
            self.rows[-1][-1] += data
        if self.in_item:
            self.items[-1] += data

    def handle_endtag(self, tag):
        self.shown = True
        if tag in ("td", "th", "li"):
            self.in_cell = self.in_item = False

    def figures(self):
        return [attributes["data-figure"] for tag, attributes in self.tags if tag == "figure"]

    def images(self):
        sources = [attributes["src"] for tag, attributes in self.tags if tag == "img"]
        return [unquote(source.removeprefix("data:image/svg+xml,")) for source in sources]
