"""Files of the Hugging Face Hub."""
