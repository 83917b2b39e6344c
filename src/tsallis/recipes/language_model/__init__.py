"""Language model: a small Transformer with a softmax or a sparse output layer, compared in time and support."""
