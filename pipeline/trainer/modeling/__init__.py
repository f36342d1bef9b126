"""What is done to a model of Transformers so that it trains fast and exactly."""
