"""What a model is measured by beside its training loss."""
