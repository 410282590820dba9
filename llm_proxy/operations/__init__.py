"""What an operator watches and does while a server runs: open exchanges, outcomes, totals, events as they come."""
