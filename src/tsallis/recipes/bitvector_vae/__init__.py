"""Bit-vector VAE: an image as 32 or 128 bits, in expectation over a sparse distribution of bit vectors."""
