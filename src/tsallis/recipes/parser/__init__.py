"""Dependency parsing: biaffine scores of arcs, trained with SparseMAP over trees or with softmax over heads."""
