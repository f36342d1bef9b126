"""The reference's rule score, exactly (`composite`), and ours beside it (`outcome`)."""
