"""Files that may be damaged, decoded in processes of their own."""
