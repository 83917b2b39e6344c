"""Other libraries' models; each is imported only when it is asked for."""
