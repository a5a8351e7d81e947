"""Drift decides, from measured signals, whether a model is to be retrained and whether a challenger may replace it."""
