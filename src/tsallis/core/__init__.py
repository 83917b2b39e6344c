"""The mapping protocol and all that is derived from it; depends on torch alone."""
