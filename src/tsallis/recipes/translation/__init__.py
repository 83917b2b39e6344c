"""Translation: a Transformer whose heads choose their own sparsity, English to German, and what its heads do."""
