"""Rivals that change which samples, or which modalities of them, are trained on."""
