"""Web archives: the records of a WARC, the images and texts of a page, the characters of its HTML."""
