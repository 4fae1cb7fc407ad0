"""Exercises: built from solutions, checked over the wire, hinted at, graded."""
