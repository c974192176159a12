"""Rivals that change the loss."""
