"""`make chaos`: the rounds of tests/harness/chaos one after another, and their table."""
