"""Trainers by the dozen, each answer checked, and the application that they are compared with."""
