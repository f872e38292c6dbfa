"""Generated problems: mini-MAT, its demonstrations, and the practice that a base model starts from."""
