"""A recipe for tests of `tsallis predict`: it has none."""
