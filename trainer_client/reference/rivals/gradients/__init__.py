"""Rivals that change gradients."""
