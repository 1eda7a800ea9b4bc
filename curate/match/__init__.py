"""Match texts against all queries at once: tokens, a trie of their hashes, the numpy path and the compiled one."""
