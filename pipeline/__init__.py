"""SFT pipeline: raw coding-agent trajectories in, a fine-tuned model out."""

__version__ = "0.1.0"
