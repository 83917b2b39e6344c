"""Semi-supervised VAE: a digit class as latent variable, summed out exactly at the price of its support."""
