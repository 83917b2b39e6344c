"""What connects the library to others, each imported only where it is used."""
