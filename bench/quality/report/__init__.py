"""What a trained model does, as one page: figures, pictures, and what can be said of each bit (`qo-report`)."""
