"""Scores of samples: pure functions of arrays, and `evaluation`, which puts them together."""
