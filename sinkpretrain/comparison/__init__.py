"""Comparisons: experiments of variants x seeds, and what launches them."""
