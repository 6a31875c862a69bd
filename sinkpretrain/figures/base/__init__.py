"""What every figure shares: the base class, runs as arms with their recorded curves, and how both look."""

from sinkpretrain.figures.base.figure import Drawn, Figure, draw_all, follow_dark, render, save

__all__ = ["Drawn", "Figure", "draw_all", "follow_dark", "render", "save"]
