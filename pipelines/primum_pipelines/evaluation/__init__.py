"""Figures of models with intervals, and pictures of them.

Pure NumPy: labels, scores and groups in, figures out. Opens no data, knows no Study, and decides
nothing about what may leave: steps do.
"""
