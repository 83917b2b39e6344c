"""Plain tensor-to-tensor functions: no autograd, no defaults."""
