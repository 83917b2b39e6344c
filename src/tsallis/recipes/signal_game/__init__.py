"""Signalling game: two agents invent words for images; the sum over all words is exact at the price of its support."""
