"""From pools to candidates: match, shuffle, cap, select; tasks over ranges of uids, none of them large."""
