"""Publication on the Hugging Face Hub: check, upload, and make all of it visible in one commit."""
