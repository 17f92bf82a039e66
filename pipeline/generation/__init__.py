"""The generation stage: requests, the client, the journal of completions, and the supervised model server."""
