"""Fetch untrusted urls by libcurl: who is asked when, what may be dialled, who says no, what each end is called."""
