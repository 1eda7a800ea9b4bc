"""Download what was chosen: shards, rounds of top-up and retry, and what the cap keeps of what came."""
