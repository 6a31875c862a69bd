"""Figures of one run or of several side by side: one file a figure, drawn from the run folder's records alone.

A figure's name is its file's name (`sinkpretrain plot NAME RUN ...`); `base.py` holds what all of them share.
"""
