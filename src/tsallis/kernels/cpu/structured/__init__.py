"""SparseMAP's active set as kernels: one solver, and a search for the best structure for each kind of factor."""
