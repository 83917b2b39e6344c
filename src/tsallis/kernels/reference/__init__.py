"""The definition every other backend is compared with: pure torch, any device, one rounding."""
