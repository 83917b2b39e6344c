BLOCK=64
LONGEST_IN_TILES=4096
from .compiler import device
@device
def room(n, L, plain):
    """How many numbers of scratch memory a thread needs."""
    width = n + L
    solving = 2 * L * width if n <= LONGEST_IN_TILES else 2 * width + n // BLOCK + 2 * L
    return solving if plain else solving + 2 * L * n
