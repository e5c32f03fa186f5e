"""wyr: which stretches of a DNA read made a neural classifier call it what it called it."""

__version__ = "0.1.0"
