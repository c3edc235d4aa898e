"""Does training on changed layouts hold at the worst prompt? A registered comparison with uniform PAFT at equal compute."""
