"""A picture: from its file to an array, and the drawn pictures of a card."""
