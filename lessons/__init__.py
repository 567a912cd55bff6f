"""Thirteen lessons on the gradient flow of residual networks; each asks a question and asserts what it measures."""
