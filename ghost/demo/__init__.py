"""The embedded demo model: its weights in `model/`, and the script that trained them."""
