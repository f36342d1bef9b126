"""A chat template compiled to render one conversation many times: start at compiled.py."""
