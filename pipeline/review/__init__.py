"""Review by people: a page with a blind sample of a finished build, and the score of the labels that come back."""
