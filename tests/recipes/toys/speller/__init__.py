"""A recipe for tests of `tsallis predict`: it replaces each letter by one of few."""
