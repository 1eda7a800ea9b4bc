"""What hashes are made with: odd 64-bit numbers, the same in the numpy path and in the compiled loops."""

import numpy as np

MIX = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)
SALT = np.uint64(0x9E3779B97F4A7C15)  # tells "a" from "\0a"
PARENT, TOUCH = np.uint64(0xD6E8FEB86659FD93), np.uint64(0xA0761D6478BD642F)
