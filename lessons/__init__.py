"""Fourteen lessons on residual networks: thirteen on how gradients flow, one on how fast a convolution can be.

Each asks a question and asserts what it measures.
"""
