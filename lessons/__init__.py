"""Eighteen lessons on residual networks: how gradients flow in them, how they learn, how fast a convolution can be.

Each asks a question and asserts what it measures.
"""
