"""Publishing a build on the Hugging Face Hub: check, upload ahead, and make all of it visible in one commit."""
