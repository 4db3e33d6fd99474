"""A collection of Lorentz points: what is kept, how it is made, searched and scored."""
