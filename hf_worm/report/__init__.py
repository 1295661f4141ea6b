"""What a run did: its record, and how it is told in a terminal, a card, JSON and figures."""
