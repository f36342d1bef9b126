"""Credentials in text: what they look like, where they hide, and what takes their place."""
