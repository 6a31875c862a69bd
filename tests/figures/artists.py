"""What is drawn in a figure, found by the variant that it stands for."""

from matplotlib.collections import PathCollection
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer
from matplotlib.lines import Line2D
from matplotlib.patches import StepPatch
from matplotlib.text import Text


def artists(canvas, variant):
    """What stands for a variant, by panel: lines, scatters, bars, histograms and maps that carry its name as label."""
    return [
        artist
        for axes in canvas.axes
        for artist in (*axes.get_children(), *axes.containers)
        if artist.get_label() == variant
    ]


def bold(canvas, variant):
    """The lines that stand for a variant, one in every panel that shows it."""
    return [artist for artist in artists(canvas, variant) if isinstance(artist, Line2D)]


def beside(artist, label):
    """What carries another label in the panel of an artist."""
    return [child for child in artist.axes.get_children() if child.get_label() == label]


def colours(artist):
    """The colours of an artist that has its variant's; none of a map, whose colours are values."""
    if isinstance(artist, Line2D):
        found = [artist.get_color()]
    elif isinstance(artist, StepPatch):
        found = [artist.get_edgecolor()]
    elif isinstance(artist, BarContainer):
        found = [bar.get_facecolor() for bar in artist]
    elif isinstance(artist, PathCollection):
        found = artist.get_facecolors()
    else:
        found = []
    return {to_hex(colour) for colour in found}


def texts(canvas):
    """Everything that is written in a figure."""
    return [text.get_text() for text in canvas.findobj(Text)]
