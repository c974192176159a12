"""Rivals that replace the update."""
