"""Morphological inflection: one model of many languages, and a beam that often holds every word it deems possible."""
