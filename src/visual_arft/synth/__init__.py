"""Generated problems: mini-MAT, its demonstrations, and what a base model practises."""
